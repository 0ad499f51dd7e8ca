"""`import mt_diffusion`: a trained model in a few lines, with the command's numbers."""

import errno
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from absl.testing import flagsaver

import mt_diffusion
from configs import joint
from mt_diffusion import library
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import evaluate as evaluation
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.inference import generation, sampling
from mt_diffusion.training import loop
from tests.arbitrary import parameters

DIGITS = [str(i) for i in range(10)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with one checkpoint of a joint model that knows nothing."""

    config = joint.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 20
    config.modalities.label.energy = 400.0
    config.sampling.update(num_steps=3, batch_size=8)
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config, source)
    experiment = experiments.build(config)
    params = parameters(experiment)
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(3, {"ema_params": params}, config)
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return mt_diffusion.load(workdir)


def test_importing_it_imports_nothing():
    code = "import sys, mt_diffusion; print(mt_diffusion.__version__, "
    code += "'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [mt_diffusion.__version__, "False"]
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        mt_diffusion.lode  # noqa: B018


def test_a_model_draws_what_the_command_draws(model, workdir, tmp_path):
    drawn = model.sample(5, given={"label": "7"}, seed=4, steps=4)
    out = tmp_path / "out"
    overrides = {"num_steps": 4}
    sampling.sample(workdir, out, 5, 4, ["label=7"], overrides, True)
    with np.load(out / "samples.npz", allow_pickle=False) as written:
        assert written.keys() == {*drawn, "label_names", "arr_0"}
        np.testing.assert_array_equal(written["arr_0"], drawn["image"])
        for name, values in drawn.items():
            np.testing.assert_array_equal(values, written[name])
    assert drawn["image"].shape == (5, 8, 8, 1) and drawn["image"].dtype == np.uint8
    assert list(drawn["label"]) == [7] * 5


def test_a_sampling_that_met_a_full_disk_goes_on(model, workdir, tmp_path, monkeypatch):
    """By the same command, with what was drawn; half a result is none."""
    drawn = model.sample(5, given={"label": "7"}, seed=4, steps=4)
    call = (workdir, tmp_path / "out", 5, 4, ["label=7"], {"num_steps": 4}, True)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIL.Image.Image, "save", full)
        with pytest.raises(UserError, match="No space left.*the same command then"):
            sampling.sample(*call)
    assert not list(tmp_path.rglob("samples.npz"))
    monkeypatch.setattr(generation.Generator, "values", None)  # nothing is drawn again
    sampling.sample(*call)
    found = dict(np.load(tmp_path / "out" / "samples.npz"))
    np.testing.assert_array_equal(found["image"], drawn["image"])
    kept = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert "parts" not in kept and ".lock" not in kept


def test_a_second_call_compiles_nothing(model, monkeypatch):
    first = model.sample(4, seed=1)
    monkeypatch.setattr(generation.Generator, "__init__", None)
    again, other = model.sample(4, seed=1), model.sample(4, seed=2)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()


@pytest.mark.parametrize(
    "label", ["3", 3, np.int64(3), ["3"], [3], np.array([3]), ("3",)]
)
def test_a_label_is_a_name_or_a_number_one_or_several(model, label):
    label_of = model.experiment.variables["label"]
    np.testing.assert_array_equal(label_of.take(label), np.eye(10)[[3]])


def test_masked_images_are_arrays_with_a_mask_or_alpha(model):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    seen = np.arange(8)[:, None, None] < 4
    seen = np.broadcast_to(seen, (8, 8, 1))
    alpha = np.where(seen, 255, 0).astype(np.uint8)
    with_alpha = np.concatenate([image, alpha], axis=-1)
    given = [
        (image, seen),
        (image[..., 0], seen[..., 0]),
        (image[None], seen[None]),
        with_alpha,
        PIL.Image.fromarray(with_alpha, "LA"),
        [PIL.Image.fromarray(with_alpha, "LA")],
    ]
    masked = model.experiment.variables["masked_image"]
    values = [masked.take(x) for x in given]
    for value in values:
        np.testing.assert_array_equal(value, values[0])
    drawn = model.sample(2, given={"masked_image": given[0]})
    np.testing.assert_array_equal(drawn["image"][0][seen], image[seen])


def test_images_are_arrays_or_pictures(model):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    ways = [image, image[..., 0], image[None], [image, image], [image[..., 0]]]
    ways += [PIL.Image.fromarray(image[..., 0])]
    for way in ways:
        value = model.experiment.primary.take(way)
        np.testing.assert_array_equal(value[0], image / np.float32(127.5) - 1)


def test_reading_gives_probabilities_with_their_names(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    found = model.read(images)
    assert found.keys() == {"label", "masked_image"}
    np.testing.assert_allclose(found["label"].sum(axis=1), 1, rtol=1e-5)
    assert model.names == {"label": tuple(DIGITS)}
    # Its noise is of its place, so an example may be read alone only at that place.
    np.testing.assert_allclose(model.read(images[:1])["label"], found["label"][:1])


def test_bounds_are_those_of_each_example(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    found = model.bound(images, label=[1, 2, 3], num_times=2)
    assert found["joint_nll_bound_nats"].shape == (3,)
    np.testing.assert_array_equal(found["nll_masked_image_nats"], 0)  # missing
    first = model.bound(images[:1], label=1, num_times=2)
    np.testing.assert_allclose(
        first["image_bits_per_dim"], found["image_bits_per_dim"][:1], rtol=1e-5
    )


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m: m.sample(given={"lable": 3}), "knows no lable; it knows image, lab"),
        (lambda m: m.sample(given={"label": "ten"}), "label=ten is no label"),
        (lambda m: m.sample(given={"label": 10}), "label=10 is no label"),
        (lambda m: m.sample(sampler="euler"), "'euler' does not exist"),
        (lambda m: m.sample(stepz=3), "stepz is no setting of sampling"),
        (lambda m: m.sample(steps=21), "cannot sample in 21 steps"),
        (lambda m: m.read(np.zeros((2, 9, 9, 1), np.uint8)), r"takes images \[8, 8, 1"),
        (lambda m: m.read(np.zeros((2, 8, 8, 1))), "array of float64; give uint8"),
        (lambda m: m.bound(np.zeros((2, 8, 8, 1), np.uint8), label=3), "one for each"),
        (lambda m: m.sample(guidance=3.0), "guidance=3.0 would change nothing"),
    ],
)
def test_mistakes_are_value_errors_in_the_commands_words(model, call, words):
    with pytest.raises(ValueError, match=words):
        call(model)


def test_what_is_measured_is_what_is_wished_for(model, monkeypatch):
    """As the command measures; the checkpoint's own settings measure nothing here."""
    asked = []

    def find(workdir, step, use_ema, config, *rest):
        asked.append(config.sampling.correction)
        return {}

    monkeypatch.setattr(library.calibration, "find", find)
    model._generator({"correction": "measured", "clip": "none"})
    assert asked == ["measured"] and model.config.sampling.correction == "none"


def test_what_is_given_is_a_dict(model):
    with pytest.raises(TypeError, match="given is a str; it is a dict"):
        model.sample(given="label=3")


def test_no_run_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        mt_diffusion.load(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        mt_diffusion.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="can't be loaded"):
        mt_diffusion.train("configs/nothing.py", tmp_path)


def test_training_is_the_commands(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(
        loop, "train", lambda config, out, _: called.append((config, out))
    )
    with flagsaver.flagsaver():
        mt_diffusion.train("configs/joint.py:smoke", tmp_path)
    ((config, out),) = called
    assert out == tmp_path and config.train.num_steps == 60
    library.train(config, str(tmp_path))
    assert called[1][0] is config


def test_the_page_on_python_runs_and_has_all_public_names(
    model, tmp_path, monkeypatch, capsys
):
    """Its evaluation and training, which take minutes, are stood in for.

    Its model is that of the other tests, for which programs are compiled already.
    """
    page = pathlib.Path("docs/python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    public = {n for n in {*dir(model), *vars(model)} if not n.startswith("_")}
    wanted = [f"model.{n}" for n in public]
    wanted += [f"mt_diffusion.{n}" for n in mt_diffusion.__all__]
    assert [n for n in wanted if not re.search(rf"\b{n}\b", "".join(blocks))] == []

    def load(folder, real=library.load):
        assert folder in ("runs/image_label", "mine")
        return real(folder) if folder == "mine" else model

    def evaluate(workdir, out, wishes, *_):
        assert wishes.num_samples == 1000 and wishes.draws == "joint"
        folder = workdir / "evaluation/3"
        folder.mkdir(parents=True, exist_ok=True)
        found = {"metrics": [{"name": "fid", "value": 2.5}]}
        (folder / "metrics.json").write_text(json.dumps(found))

    def train(config, out, callback):
        assert config.train.num_steps == 60 and str(out) == "runs/smoke"
        assert callback(20, {"loss": 0.5}) is False

    monkeypatch.setattr(library, "load", load)
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(loop, "train", train)
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in blocks:
        exec(block, space)
        shutil.rmtree(model.workdir / "evaluation", ignore_errors=True)
    assert list(space["threes"]["label"]) == [3] * 4
    np.testing.assert_array_equal(space["named"]["image"], space["threes"]["image"])
    assert "{'fid': 2.5}" in capsys.readouterr().out
    assert (tmp_path / "threes.png").exists()
