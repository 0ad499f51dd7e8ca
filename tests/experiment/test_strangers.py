"""What a stranger's run, vectors or data set names is not run, unless it is trusted."""

import json
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import mt_diffusion
from configs import from_run, image_label, image_representation
from mt_diffusion import trust
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.modalities import build as base
from mt_diffusion.report import record
from mt_diffusion.training import init_from
from tests.data import toy_tfds

PAYLOAD = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from mt_diffusion.modalities.label import Codebook
class Evil(Codebook):
    pass
def encode(images):
    return images
"""


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that can be imported, and what says whether it was."""
    folder = tmp_path / "runs" / "stranger"
    folder.mkdir(parents=True)
    (folder / "payload.py").write_text(PAYLOAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_trusted", {trust.PACKAGE})
    yield folder / "ran"
    for name in [m for m in sys.modules if m.split(".")[0] == "runs"]:
        del sys.modules[name]


def stored(workdir, config):
    """A run that consists of this config, in the one checkpoint that it has."""
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(1, {"ema_params": {"params": jnp.zeros(1)}}, config)
    checkpoints.close()
    return workdir


def of_label(**fields):
    config = image_label.get_config("smoke")
    config.modalities.label.update(fields)
    return config


def of_vectors(**fields):
    config = image_representation.get_config("smoke")
    config.modalities.representation.update(fields)
    return config


ATTACKS = [
    of_label(kind="runs.stranger.payload.Evil"),
    of_vectors(vectors="runs.stranger.payload:encode"),
    of_vectors(
        kind="representation.Pretrained",
        generator="runs.stranger.payload:encode",
        vector_mean=(0.0,),
        vector_std=(1.0,),
    ),
]
WAYS = {
    "load": mt_diffusion.load,
    "init_from": init_from.from_workdir,
    "from_run": lambda workdir: from_run.get_config(str(workdir)),
    "report": record.read_checkpoint,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_stored_config_runs_nothing_that_it_names(tmp_path, payload, attack):
    workdir = stored(tmp_path / "run", attack)
    before = sorted(workdir.rglob("*"))
    for way in WAYS.values():
        with pytest.raises((UserError, ValueError)) as refused:
            way(workdir)
        words = str(refused.value)
        assert "trust=runs.stranger.payload" in words and "\n" not in words
        assert "config.modalities" in words and str(workdir) in words
    assert not payload.exists() and "runs.stranger.payload" not in sys.modules
    assert sorted(workdir.rglob("*")) == before


def test_what_is_trusted_is_run(tmp_path, payload):
    workdir = stored(tmp_path / "run", ATTACKS[0])
    with pytest.raises(ValueError, match="'runs-stranger' is no module"):
        mt_diffusion.load(workdir, trust=["runs-stranger"])
    with pytest.raises(ValueError, match=" trust=runs.stranger.payload"):
        mt_diffusion.load(workdir, trust=["runs.strange"])
    with pytest.raises(ValueError) as broken:  # its parameters are those of no network
        mt_diffusion.load(workdir, trust="runs.stranger")
    assert "trust=" not in str(broken.value) and payload.exists()


def test_a_users_own_config_may_name_what_it_likes(payload):
    config = ATTACKS[0]
    trust.add(m for _, m in base.named_code(config.modalities.to_dict()))
    base.check_trusted(config.modalities.to_dict(), "here")
    assert payload.exists()


@pytest.mark.parametrize(
    "kind", ["label.Codebook", "mt_diffusion.modalities.label.Codebook"]
)
def test_our_own_modalities_need_no_trust(payload, kind):
    base.check_trusted({"label": {"kind": kind}}, "there")


@pytest.mark.parametrize(
    "kind", ["../runs/stranger/payload.Evil", ".runs.Evil", "Evil", "", "os.path.Evil"]
)
def test_what_is_no_module_is_refused_in_words(payload, kind):
    with pytest.raises(
        UserError, match="config.modalities.label.kind, stored in there"
    ):
        base.check_trusted({"label": {"kind": kind}}, "there")


def test_a_stored_config_downloads_nothing(tmp_path, payload):
    config = image_label.get_config("smoke")
    config.data.download = True
    assert not Checkpoints(stored(tmp_path / "run", config)).config(1).data.download


def write_data_set(folder):
    """One of TFDS whose description names the payload as the class of its labels."""
    images = np.zeros((4, 8, 8, 1), np.uint8)
    items = [{"image": x, "label": 0} for x in images]
    toy_tfds.write(
        folder,
        "toy",
        lambda features: {
            "image": features.Image(shape=(8, 8, 1)),
            "label": features.ClassLabel(num_classes=2),
        },
        {"train": items, "test": items},
    )
    (file,) = folder.rglob("features.json")
    described = json.loads(file.read_text())
    label = described["featuresDict"]["features"]["label"]
    label["pythonClassName"] = "runs.stranger.payload.Evil"
    file.write_text(json.dumps(described))


def test_a_data_set_runs_nothing_that_it_names(tmp_path, payload):
    write_data_set(tmp_path / "tfds")
    config = image_label.get_config("smoke").data
    config.update(source="tfds", name="toy", data_dir=str(tmp_path / "tfds"))
    with pytest.raises(UserError, match=r"features.json.*--trust=runs.stranger.pay"):
        sources.open_source(config, "train")
    assert not payload.exists()
    trust.ask(["runs.stranger.payload"])
    with pytest.raises((UserError, ValueError)), warnings.catch_warnings():
        sources.open_source(config, "train")  # Evil is no feature, but it was imported
    assert payload.exists()


@pytest.mark.parametrize("name", ["huggingface:mnist", "kaggle:toy", ":toy"])
def test_a_namespace_fetches_no_code(tmp_path, payload, name):
    (tmp_path / name.partition(":")[0]).mkdir(exist_ok=True)
    config = image_label.get_config("smoke").data
    config.update(source="tfds", name=name, data_dir=str(tmp_path))
    with pytest.raises(UserError, match=f"config.data.name = '{name}' is"):
        sources.open_source(config, "train")
