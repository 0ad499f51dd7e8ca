"""The three calls of a diffusion of Stable Diffusion's latents, one after another."""

import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from configs import latent_representation
from tests.launch.toy_cluster import Cluster

DATA = ["--images=/d/images", "--models=/d/models", "--out=/d/out"]
GPU = ["--", "launch/gpu.sh"]
TPU = ["launch/tpu_vm.sh", "run", "tpu-a", "--zone=z1", "--type=v5litepod-256"]


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path)
    (found.project / "configs/latent_representation.py").touch()
    return found


def test_three_calls_make_a_run(cluster):
    cluster.play(0, 75, 0, 0)
    words = ["--captions=/d/c.csv", *GPU, "--", "--config.seed=1", "--config.x=a b"]
    status, output = cluster.run("latents.sh", "--preset=sd64", *DATA, *words)
    assert status == 0, output
    latents, vectors, again, train = cluster.runs()
    assert again == vectors  # of which the first was interrupted
    assert {"--mode=precompute", "--out=/d/out/latents"} < set(latents)
    assert "--encoder=/d/models/clip-vit-large-patch14" in vectors
    assert {"--config.seed=1", "--config.x=a b", "--workdir=/d/out/run"} < set(train)
    assert all("--config.data.path=/d/images" in call for call in cluster.runs())


@pytest.mark.parametrize("preset", latent_representation.SIZES)
def test_the_calls_name_fields_that_there_are(cluster, preset):
    """And each what the one before it has made."""
    words = [f"--preset={preset}", *DATA, "--captions=/d/c.csv", "--dry-run"]
    status, output = cluster.run("latents.sh", *words)
    assert status == 0 and not cluster.runs()
    calls = [shlex.split(line) for line in output.splitlines()]
    assert [call[:2] for call in calls] == [["bash", "launch/local.sh"]] * 3
    argv = ["", *calls[2][2:]]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=argv
    )
    values(argv, known_only=True)
    config = config.value
    made = {call[-1] for call in calls[:2]}
    assert made == {"--out=" + config.data[x] for x in ("latents", "vectors")}
    sd = "/d/models/stable-diffusion-v1-5"
    assert config.primary.space.autoencoder == sd and config.init_from == f"sd:{sd}"
    assert config.data.captions == "/d/c.csv"
    assert config.data.image_size == latent_representation.SIZES[preset]


def test_a_pod_gets_its_flags_behind_two_dashes(cluster):
    words = ["--preset=sd32", *DATA, "--from=vectors", "--dry-run", "--", *TPU]
    status, output = cluster.run("latents.sh", *words)
    calls = [shlex.split(line) for line in output.splitlines()]
    assert status == 0 and [call[1:7] for call in calls] == [[*TPU, "--"]] * 2
    assert "--out=/d/out/clip.npz" in calls[0] and "--workdir=/d/out/run" in calls[1]


def test_what_ends_early_ends_all_of_it(cluster):
    cluster.play(0, 2, 0)
    status, _ = cluster.run("latents.sh", "--preset=sd64", *DATA, *GPU)
    assert status == 2 and len(cluster.runs()) == 2


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([*DATA], "--preset is"),
        (["--preset=emoji", *DATA], "choose sd64"),
        (["--preset=sd64", "--out=x"], "--images, --models and --out"),
        (["--preset=sd64", *DATA, "--from=middle"], "--from=middle"),
        (["--preset=sd64", *DATA, "--out"], "--out"),
        (["--preset=sd64", *DATA, "--", "fly.sh"], "fly.sh"),
        (["--preset=sd64", *DATA, "--images=i", "--", *TPU], "i is no absolute path"),
    ],
)
def test_a_mistake_ends_with_2_before_anything_runs(cluster, arguments, word):
    status, output = cluster.run("latents.sh", *arguments)
    assert status == 2 and output.startswith("error:") and word in output
    assert not cluster.runs() and not cluster.calls()


def test_help_is_the_comment_at_the_top(cluster):
    status, output = cluster.run("latents.sh", "--help")
    assert status == 0 and "launch/latents.sh" in output and "--dry-run" in output
    assert "set -euo" not in output and not cluster.calls()
