"""`--mode=export`: what leaves comes back to the bit, and says what it can't hold."""

import functools
import json
import shutil
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from flax.traverse_util import flatten_dict

import mt_diffusion
from configs import from_run, joint
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import evaluate
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.files import weights
from mt_diffusion.inference import bounding, calibration, reading, sampling
from mt_diffusion.report import export, report
from mt_diffusion.training import init_from, loop
from tests.arbitrary import parameters

LEVELS = {"step": 3, "averaged": True, "levels": {"label": [1, 5]}}
METRICS = [
    {"step": s, "loss": 2.0 / s, "images_per_second": 10.0, "test_loss": 3.0 / s}
    for s in (1, 2, 3)
]
FIGURE = {
    "draw": "joint",
    "name": "fid_x_5_cfg1.0",
    "value": 12.5,
    "standard_error": 0.25,
    "better": "lower",
    "floor": {"value": 90.0, "of": "noise", "spread": None},
    "ceiling": None,
    "baseline": None,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a joint model that knows nothing, all else of it being there as well."""
    config = joint.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 20
    config.modalities.label.energy = 400.0
    config.sampling.update(num_steps=3, batch_size=8, correction="measured")
    config.init_from = "/home/me/runs/secret"
    config = experiments.resolve(config, sources.open_source(config.data, "train"))
    experiment = experiments.build(config)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(3, {"ema_params": parameters(experiment)}, config)
    checkpoints.close()
    (folder / "reading.json").write_text(json.dumps(LEVELS))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, METRICS)))
    return folder


@pytest.fixture(scope="module", autouse=True)
def measuring_little():
    with pytest.MonkeyPatch.context() as patch:
        some = functools.partial(calibration.measure, num_examples=8)
        patch.setattr(calibration, "measure", some)
        yield


@pytest.fixture(scope="module")
def model(workdir, measuring_little):
    model = mt_diffusion.load(workdir)
    model._errors(model.config)  # measured here, and kept in the workdir
    return model


@pytest.fixture(scope="module")
def folder(model, workdir):
    """Exported as it is, with an evaluation of it."""
    figures = workdir / "evaluation" / "3" / "metrics.json"
    figures.parent.mkdir(parents=True)
    digest = exported.digest(model.params)
    sampled = json.loads(model.config.sampling.to_json()) | {"num_steps": 2}
    made = {"step": 3, "parameters_digest": digest, "num_samples": 5, "seed": 7}
    made |= {"sampling": sampled, "draws": {"joint": {}}, "bound_examples": 0}
    figures.write_text(json.dumps({"manifest": made, "metrics": [FIGURE]}))
    model.export(workdir.parent / "out")
    return workdir.parent / "out"


@pytest.fixture(scope="module")
def small(model, workdir):
    """Exported in bfloat16."""
    model.export(workdir.parent / "small", dtype="bfloat16")
    return workdir.parent / "small"


def arrays(params):
    return {"/".join(path): np.asarray(x) for path, x in flatten_dict(params).items()}


def test_it_comes_back_bit_for_bit(model, folder):
    again = mt_diffusion.load(folder)
    ours, theirs = arrays(model.params), arrays(again.params)
    assert ours.keys() == theirs.keys() and again.step == 3
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name])
        assert x.dtype == theirs[name].dtype
    assert again.config.to_json() == model.config.to_json()


def levels_of(model):
    facts = {"step": model.step, "averaged": True}
    return reading.levels(model.workdir, facts, model.experiment)


def test_what_it_draws_and_reads_is_the_runs_without_data(model, folder, monkeypatch):
    monkeypatch.setattr(sources, "open_source", None)  # what was measured is there
    again = mt_diffusion.load(folder)
    drawn = [m.sample(4, given={"label": "7"}, seed=4) for m in (model, again)]
    for name, values in drawn[0].items():
        np.testing.assert_array_equal(values, drawn[1][name])
    assert levels_of(again) == LEVELS["levels"]


def test_names_are_dotted_and_the_header_says_what_it_is(model, folder):
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    names = {n.removeprefix("params/").replace("/", ".") for n in arrays(model.params)}
    assert state.keys() == {n for n in names if not n.startswith("tables")}
    said = exported.facts(folder)
    assert said["step"] == "3" and said["version"] == mt_diffusion.__version__
    assert said["digest"] == exported.digest(model.params)


def test_smaller_numbers_are_widened(model, small, tmp_path):
    state = safetensors.numpy.load_file(small / "model.safetensors")
    assert {str(x.dtype) for x in state.values()} == {"bfloat16"}
    again = mt_diffusion.load(small)
    for name, x in arrays({"params": again.params["params"]}).items():
        ours = arrays(model.params)[name]
        np.testing.assert_array_equal(x, ours.astype("bfloat16").astype(np.float32))
    again.export(tmp_path / "again", dtype="bfloat16")  # by which nothing more is lost
    assert exported.facts(small) == exported.facts(tmp_path / "again")


@pytest.mark.parametrize("name", ["folder", "small"])
def test_a_new_run_starts_from_it(model, name, request):
    folder = request.getfixturevalue(name)
    config = model.config.copy_and_resolve_references().unlock()
    config.init_from = str(folder)
    wanted = {"params": model.params["params"]}
    loaded = init_from.load(config, wanted)
    theirs = flatten_dict(exported.read(folder)[2])
    assert loaded.keys() == theirs.keys() == flatten_dict(wanted).keys()
    for path, x in loaded.items():
        np.testing.assert_array_equal(x, theirs[path])


def test_other_modes_take_it(folder):
    assert report.write(folder).is_relative_to(folder)
    assert "8 × 8 × 1" in (folder / "report" / "index.html").read_text()


def test_its_config_can_be_trained_with(model, folder):
    config = from_run.get_config(str(folder))
    assert config.to_json() == model.config.to_json() and not config.is_locked


def test_training_into_it_is_refused(model, folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="exported model.*--config.init_from="):
        loop.train(model.config, folder)
    assert sorted(folder.rglob("*")) == before


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_damage_is_said(folder, tmp_path, name, how):
    copy = copied(folder, tmp_path)
    content = bytearray((copy / name).read_bytes())
    if how == "flip":
        place = content.index(b"8", len(content) // 2)
        content[place] ^= 1  # a number that is another one
    (copy / name).write_bytes(content[: len(content) // 2] if how == "cut" else content)
    if how == "gone":
        (copy / name).unlink()
    with pytest.raises(ValueError, match="damaged|whole|can't be read|no checkpoint"):
        mt_diffusion.load(copy)


def forged(folder, tmp_path, config):
    """A copy with another config, which its digest agrees with."""
    copy = copied(folder, tmp_path)
    (copy / "config.json").write_text(config)
    said = exported.facts(copy) | {"config_digest": exported.of_text(config)}
    state = safetensors.numpy.load_file(copy / "model.safetensors")
    weights.write(copy / "model.safetensors", state, said)
    return copy


def test_a_strangers_config_runs_none_of_his_code(folder, tmp_path, monkeypatch):
    pytest.importorskip("mt_diffusion.trust")
    (tmp_path / "evil_of_export.py").write_text("open('ran', 'w'); Evil = dict\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["modalities"]["label"]["kind"] = "evil_of_export.Evil"
    copy = forged(folder, tmp_path, json.dumps(config))
    with pytest.raises(ValueError, match=" trust=evil_of_export"):
        mt_diffusion.load(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("config", ["[]", "3", "{}", '{"data": 3}', '{"data": []}'])
def test_a_forged_config_is_said(folder, tmp_path, config):
    copy = forged(folder, tmp_path, config)
    with pytest.raises(
        ValueError, match="no config of a model|lacks what this version"
    ):
        mt_diffusion.load(copy)


def test_what_it_has_not_is_said(folder):
    with pytest.raises(ValueError, match="averaged parameters of step 3 alone"):
        mt_diffusion.load(folder, ema=False)
    with pytest.raises(ValueError, match="averaged parameters of step 3 alone"):
        mt_diffusion.load(folder, step=2)


# guided-diffusion's names


@pytest.mark.parametrize(
    "suffix, dtype", [("npz", "float16"), ("safetensors", "bfloat16")]
)
def test_guided_diffusions_names_come_back(model, tmp_path, capsys, suffix, dtype):
    file = tmp_path / f"unet.{suffix}"
    model.export(file, format="adm", dtype=dtype)
    said = capsys.readouterr().out
    shapes = jax.eval_shape(lambda: model.params)
    loaded = init_from.from_adm(file, shapes)
    ours = flatten_dict({"params": model.params["params"]})
    for path, x in loaded.items():
        rounded = np.asarray(ours[path]).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(x, rounded)
    missing = {exported.dotted(path) for path in ours.keys() - loaded.keys()}
    facts = json.loads(file.with_suffix(".json").read_text())
    assert set(facts["left_out"]) == missing
    parts = {name.split(".")[0] for name in missing}
    assert parts >= {"heads_label", "null_tokens_label", "token_places_label", "unet"}
    assert all(f"no name for it: {part}" in said for part in parts)
    assert all(f"fixed codes {name}" in said for name in facts["codes_left_out"])
    assert facts["codes_left_out"] and "32 groups" in said
    assert facts["unet"]["model_channels"] == 16


# The hub


def test_the_hubs_folder_names_no_place_of_this_machine(model, tmp_path, capsys):
    model.export(tmp_path / "out", format="hub", license="apache-2.0")
    assert "left out: config.init_from" in capsys.readouterr().out
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"/home/me" not in path.read_bytes()
    assert mt_diffusion.load(tmp_path / "out").config.init_from == ""
    head = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["license"] == "apache-2.0"


def test_links_of_a_stranger_are_not_followed(folder, tmp_path):
    copy, secret = copied(folder, tmp_path), tmp_path / "id_rsa"
    secret.write_text("private")
    (copy / "metrics.jsonl").unlink()
    (copy / "metrics.jsonl").symlink_to(secret)
    mt_diffusion.load(copy).export(tmp_path / "out", format="hub")
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert files and not any(b"private" in p.read_bytes() for p in files)


class Hub(types.ModuleType):
    """Stands for huggingface_hub; notes what would be sent."""

    def __init__(self, token="secret", refusal=None):
        super().__init__("huggingface_hub")
        self.token, self.refusal, self.sent = token, refusal, []

    def get_token(self):
        return self.token

    def HfApi(self):  # noqa: N802
        return self

    def create_repo(self, name, exist_ok):
        if self.refusal:
            raise self.refusal
        self.sent.append(name)

    def upload_folder(self, repo_id, folder_path):
        self.sent.append((repo_id, folder_path))


def test_nothing_is_sent_unless_asked(model, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    model.export(tmp_path / "quiet", format="hub")
    assert hub.sent == []
    model.export(tmp_path / "out", format="hub", push="me/mine")
    assert hub.sent == ["me/mine", ("me/mine", str(tmp_path / "out"))]


@pytest.mark.parametrize(
    "hub, settings, words",
    [
        (None, {"push": "me/mine"}, "pip install huggingface_hub"),
        (Hub(token=None), {"push": "me/mine"}, "hf auth login"),
        (Hub(), {"push": "mine"}, "write USER/NAME"),
        (Hub(), {"push": "me/mine", "format": "own"}, "format=own"),
        (Hub(), {"format": "onnx"}, "none of own, hub, adm"),
        (Hub(), {"dtype": "int8"}, "none of float32, float16, bfloat16"),
        (Hub(), {"format": "adm"}, "end in .safetensors or .npz"),
    ],
)
def test_what_cant_be_leaves_no_trace(
    model, tmp_path, monkeypatch, hub, settings, words
):
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ValueError, match=words):
        model.export(tmp_path / "out", **{"format": "hub"} | settings)
    assert list(tmp_path.iterdir()) == [] and (hub is None or hub.sent == [])


def test_a_bucket_is_no_folder_to_upload_from(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub())
    with pytest.raises(UserError, match="gs://a/b is none"):
        export.check("hub", "float32", "me/mine", "gs://a/b")
    assert export.check("hub", "float32", "me/mine", "a/b")


def test_a_refused_upload_says_how_to_go_on(model, tmp_path, monkeypatch):
    hub = Hub(refusal=RuntimeError("401 Unauthorized"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(ValueError, match="401 Unauthorized.*hf upload me/mine"):
        model.export(tmp_path / "out", format="hub", push="me/mine")
    mt_diffusion.load(tmp_path / "out")


def test_other_mistakes_are_said(model, folder, tmp_path, workdir):
    with pytest.raises(ValueError, match="exists already"):
        model.export(folder)
    with pytest.raises(ValueError, match="knows no bfloat16"):
        model.export(tmp_path / "x.npz", format="adm", dtype="bfloat16")
    large = mt_diffusion.load(workdir)
    large.params = jax.tree.map(lambda x: x * 1e6, model.params)
    with pytest.raises(ValueError, match="not finite as float16"):
        large.export(tmp_path / "large", dtype="float16")
    raw = mt_diffusion.load(workdir)
    raw._ema = False
    with pytest.raises(ValueError, match="load it without ema=False"):
        raw.export(tmp_path / "raw")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "write", full)
    with pytest.raises(ValueError, match="No space left"):
        model.export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# The card


def test_the_card_has_the_figures_with_the_command_and_the_seed(folder):
    text = (folder / "README.md").read_text()
    assert "12.5 ± 0.25" in text and "--seed=7" in text and "--steps=2" in text
    assert "| 3 | 0.6667 | 1 |" in text  # loss and test loss at the last step
    assert "<code>9</code>" in text and "hardly trained" not in text
    assert "has not been measured" not in text
    yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_of_what_the_figures_are(folder, small, tmp_path):
    assert "rounding to bfloat16" in (small / "README.md").read_text()
    assert "rounding" not in (folder / "README.md").read_text()
    mt_diffusion.load(small).export(tmp_path / "alone")
    text = (tmp_path / "alone" / "README.md").read_text()
    assert "not been evaluated" in text and "12.5" not in text


# Names


@pytest.fixture
def named(folder, tmp_path, monkeypatch):
    """The exported model under the name `toy`, seen from an empty folder."""
    monkeypatch.setattr(exported, "SHIPPED", tmp_path / "package")
    shutil.copytree(folder, tmp_path / "package" / "toy")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "package" / "toy"


def test_a_name_is_found_and_a_path_wins(model, named, tmp_path):
    assert mt_diffusion.load("toy").workdir == named
    shutil.copytree(named, tmp_path / "here" / "toy")
    assert mt_diffusion.load("toy").workdir.resolve() == tmp_path / "here" / "toy"
    with pytest.raises(ValueError, match="nope is not a folder.*: toy"):
        mt_diffusion.load("nope")


def test_what_is_made_of_a_name_goes_to_runs(named, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in named.rglob("*")}
    sampling.sample(named, None, 4, 4, ["label=7"], {}, True)
    report.write(named)
    assert {p: p.stat().st_mtime_ns for p in named.rglob("*")} == before
    made = {p.name for p in (tmp_path / "here" / "runs" / "toy").iterdir()}
    assert made == {"generated", "report"}


@pytest.mark.wide
def test_so_does_all_else(named, tmp_path, monkeypatch):
    before = {p: p.stat().st_mtime_ns for p in named.rglob("*")}
    monkeypatch.setattr(reading, "NUM_EXAMPLES", 8)
    reading.read(named, None, [], 0, {}, True)
    bounding.bound(named, None, 1, 1, 0, {"guess": "label=mean"}, True)
    monkeypatch.setattr(evaluate, "open_real", lambda *_: 1 / 0)  # after folders are
    with pytest.raises(ZeroDivisionError):
        mt_diffusion.load("toy").evaluate(4)
    assert {p: p.stat().st_mtime_ns for p in named.rglob("*")} == before
    made = {p.name for p in (tmp_path / "here" / "runs" / "toy").iterdir()}
    assert made == {"measured", "reading.json", "bounds", "evaluation"}
    assert levels_of(mt_diffusion.load("toy")) != LEVELS["levels"]  # those chosen since


def test_runs_of_ones_own_are_left_alone(named):
    assert exported.home(named).as_posix() == "runs/toy"
    (exported.RUNS / "toy" / "checkpoints").mkdir(parents=True)
    assert exported.home(named).as_posix() == "runs/toy_exported"


def test_a_folder_that_cant_be_written_to_is_left_alone(folder, monkeypatch):
    assert exported.home(folder) == folder
    monkeypatch.setattr(exported.os, "access", lambda *_: False)
    assert exported.home(folder).as_posix() == "runs/out"
