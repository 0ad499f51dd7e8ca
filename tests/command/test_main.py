"""The command itself: a run from beginning to end, and every mistake a user makes."""

import contextlib
import csv
import functools
import importlib
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple
from unittest import mock

import grain  # noqa: F401  It defines flags
import jax
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import image_label
from mt_diffusion import main as command
from mt_diffusion.inference import generation, sampling
from mt_diffusion.parallel import sharding

SMOKE = [
    "--config.train.num_steps=12",
    "--config.train.batch_size=16",
    "--config.unet.channel_mult=(1,)",
    "--config.unet.attention_resolutions=()",
    "--config.watch.checkpoint_every=3",
    "--config.watch.log_every=3",
    "--config.watch.num_pictures=4",
    "--config.sampling.num_steps=3",
]
LABEL = ["--config=configs/image_label.py:smoke", *SMOKE]
LABEL += ["--config.watch.sample_every=12"]
MASKED = ["--config=configs/masked_image.py:smoke", *SMOKE]
MASKED += ["--config.watch.sample_every=0"]


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Orbax cuts every array in a piece for each device: seconds, for eight."""
    two = functools.partial(sharding.make_mesh, devices=jax.devices()[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", two)
        yield


class Result(NamedTuple):
    """What a call of the command came to."""

    code: int
    out: str
    err: str


def main(*args):
    """The command in this process, for a process of its own takes seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["main.py", *map(str, args)]
    with (
        mock.patch.object(sys, "argv", argv),
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exited,
    ):
        flags.FLAGS.unparse_flags()
        command.run()
    return Result(exited.value.code or 0, out.getvalue(), err.getvalue())


def process(*args):
    """The command in a process of its own, with one device."""
    one = " --xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"] + one}
    return subprocess.Popen(
        [sys.executable, "-m", "mt_diffusion.main", *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refused(result, *words):
    """A clear paragraph, and no traceback."""
    assert result.code == 2, result
    paragraph = " ".join(result.err.split())
    assert paragraph.startswith("error: ")
    for word in words:
        assert word in paragraph
    return True


def parameters(workdir, step=12):
    """All arrays of the last checkpoint, read without the project's own code."""
    root = workdir / "checkpoints" / str(step)
    with ocp.StandardCheckpointer() as checkpointer:
        parts = ("params", "ema_params", "opt_state")
        return {part: checkpointer.restore(root / part) for part in parts}


def metrics(workdir):
    """All lines of metrics.jsonl."""
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def logged_steps(workdir):
    """Steps whose training loss was logged."""
    return [line["step"] for line in metrics(workdir) if "loss" in line]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of image_label, and what it printed."""
    workdir = tmp_path_factory.mktemp("label")
    result = main(*LABEL, f"--workdir={workdir}")
    assert result.code == 0, result
    return workdir, result.out


def test_a_run_says_what_it_does_and_leaves_pictures_and_metrics(trained):
    workdir, out = trained
    for word in ("devices", "parameters", "1,438 training", "done: 12 steps", "left"):
        assert word in out
    lines = metrics(workdir)
    assert logged_steps(workdir) == [3, 6, 9, 12]
    assert {"eps", "label", "images_per_second", "data_wait"} <= lines[0].keys()
    assert any("test_loss" in x for x in lines)
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1
    pictures = sorted(p.name for p in (workdir / "samples").iterdir())
    kinds = "given_label", "joint", "walk"
    assert pictures == [f"0000012_{kind}.png" for kind in kinds]
    with PIL.Image.open(workdir / "samples" / pictures[0]) as picture:
        assert picture.width > 100
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert steps == [9, 12]


def test_a_finished_run_has_nothing_to_do(trained):
    workdir, _ = trained
    before = (workdir / "metrics.jsonl").read_text()
    result = main(*LABEL, f"--workdir={workdir}")
    assert result.code == 0 and "nothing to do" in result.out
    assert (workdir / "metrics.jsonl").read_text() == before


def test_another_config_is_refused_and_loses_nothing(trained):
    workdir, _ = trained
    before = sorted(workdir.rglob("*"))
    result = main(*LABEL, f"--workdir={workdir}", "--config.seed=5")
    assert refused(result, "seed (0 there, 5 now)")
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize("parts", ["label=3", "label=1,7"])
def test_samples_with_a_label_given(trained, tmp_path, parts):
    workdir, _ = trained
    result = main(
        "--mode=sample", f"--workdir={workdir}", f"--given={parts}", "--num_samples=5",
        "--steps=3", f"--out={tmp_path}", "--seed=1",
    )  # fmt: skip
    assert result.code == 0, result
    assert "step 12, averaged (EMA) parameters" in result.out
    found = dict(np.load(tmp_path / "samples.npz", allow_pickle=False))
    assert sorted(found) == ["arr_0", "image", "label", "label_names"]
    assert list(found["label_names"]) == list("0123456789")
    assert found["image"].shape == (5, 8, 8, 1) and found["image"].dtype == np.uint8
    wanted = {"label=3": [3] * 5, "label=1,7": [1, 7, 1, 7, 1]}[parts]
    assert found["label"].dtype == np.int32 and list(found["label"]) == wanted
    rows = list(csv.DictReader((tmp_path / "samples.csv").read_text().splitlines()))
    assert [(row["label"], row["seed"]) for row in rows] == [
        (str(label), "1") for label in wanted
    ]
    pictures = sorted((tmp_path / "samples").glob("*.png"))
    assert len(pictures) == 5
    with PIL.Image.open(pictures[4]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), found["image"][4, ..., 0])
    assert (tmp_path / "grid.png").is_file()


def test_samples_depend_on_seed_and_index_alone(trained, tmp_path):
    workdir, _ = trained
    images = {}
    for name, args in {
        "six": ["--num_samples=6"],
        "four": ["--num_samples=4"],
        "other": ["--num_samples=4", "--seed=1"],
        "ddim": ["--num_samples=4", "--sampler=ddim"],
        "raw": ["--num_samples=4", "--noema"],
    }.items():
        out = tmp_path / name
        done = main(
            "--mode=sample", f"--workdir={workdir}", f"--out={out}", "--steps=3", *args
        )
        assert done.code == 0, done
        images[name] = np.load(out / "samples.npz")["image"]
    assert np.mean(images["six"][:4] == images["four"]) > 0.99  # rounding to uint8
    # Of 12 steps the average is almost the parameters themselves.
    for other, most in {"other": 0.9, "ddim": 0.9, "raw": 0.97}.items():
        assert np.mean(images[other] == images["four"]) < most


@pytest.mark.parametrize("more, warns", [(0.01, True), (-0.01, False)])
def test_a_state_that_training_hardly_had_is_warned_of(
    trained, tmp_path, more, warns, monkeypatch
):
    """Before anything is drawn; so many of the examples had no label."""
    share = image_label.get_config("smoke").presence.absent.share
    drawn = {"image": np.zeros((3, 8, 8, 1), np.uint8), "label": np.zeros(3, int)}
    monkeypatch.setattr(generation.Generator, "__call__", lambda *args: drawn)
    monkeypatch.setattr(sampling, "RARE", share + more)
    result = main(
        "--mode=sample", f"--workdir={trained[0]}", "--num_samples=3",
        "--guess=label=absent", f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.code == 0, result
    words = f"this model was trained in {share:.1%} of its examples with label absent"
    warning = f"warning: {words}"
    assert (warning in result.out) == warns
    if warns:
        assert result.out.index(warning) < result.out.index("wrote")


def test_an_image_given_is_read(trained, tmp_path):
    workdir, _ = trained
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    result = main(
        "--mode=sample", f"--workdir={workdir}", f"--given=image={tmp_path / 'a.png'}",
        "--num_samples=2", "--steps=3", f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert result.code == 0, result
    found = dict(np.load(tmp_path / "out" / "samples.npz"))
    np.testing.assert_array_equal(found["image"][0, ..., 0], pixels)


def test_kill_9_and_the_same_command_end_as_if_nothing_had_happened(tmp_path):
    """Also restores masked images: known pixels stay to the bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = process(*MASKED, f"--workdir={whole}")
    out, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, out
    victim = process(*MASKED, f"--workdir={killed}")
    while not (killed / "checkpoints" / "3").exists():
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    resumed = process(*MASKED, f"--workdir={killed}")
    out, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0 and "resuming from the checkpoint of step" in out
    one, other = parameters(whole), parameters(killed)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert logged_steps(killed) == [3, 6, 9, 12]

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 2)).astype(np.uint8)
    pixels[..., 1] = np.where(np.arange(8)[:, None] < 4, 255, 0)
    PIL.Image.fromarray(pixels).save(tmp_path / "masked.png")
    result = main(
        "--mode=sample", f"--workdir={killed}", f"--out={tmp_path / 'out'}",
        f"--given=masked_image={tmp_path / 'masked.png'}", "--num_samples=3",
    )  # fmt: skip
    assert result.code == 0, result
    found = dict(np.load(tmp_path / "out" / "samples.npz"))
    assert sorted(found) == ["arr_0", "image", "masked_image"]
    for image in found["image"]:
        np.testing.assert_array_equal(image[:4, :, 0], pixels[:4, :, 0])
    assert len({image.tobytes() for image in found["image"]}) == 3


def test_training_mistakes_are_explained(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    from_folder = ["--config.data.source=folder", f"--config.data.path={folder}"]
    assert refused(main(*LABEL), "--workdir is missing")
    assert refused(main(workdir), "--config is missing")
    assert refused(main("--config=nowhere.py", workdir), "nowhere.py")
    (tmp_path / "file").touch()
    assert refused(main(*LABEL, f"--workdir={tmp_path}/file"), "can't be written to")
    assert refused(
        main(*LABEL, workdir, "--config.train.num_step=3"),
        "config.train.num_step;", "nearest is config.train.num_steps",
    )  # fmt: skip
    assert refused(
        main(*LABEL, workdir, "--config.train.num_steps=many"),
        "config.train.num_steps=many", "type int",
    )  # fmt: skip
    assert refused(
        main(*LABEL, workdir, "--config.data.image_size=0"), "image_size = 0"
    )
    assert refused(
        main(*LABEL, workdir, "--config.modalities.label.drift_scale=2.5"),
        "label.drift_scale = 2.5", "energy = 400",
    )  # fmt: skip
    assert refused(
        main(*LABEL, workdir, "--config.sampling.guess=label=best"),
        "label=best",
        "held",
    )
    assert refused(
        main(*LABEL, workdir, "--config.presence.absent.share=0.9"), "add up to 1."
    )
    assert refused(main("--config=configs/from_run.py:no", workdir), "names no run")
    assert refused(main(*LABEL, workdir, *from_folder), "no image in the folder")
    (folder / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    PIL.Image.new("L", (8, 8)).save(folder / "a" / "whole.png")
    assert refused(
        main(*LABEL, workdir, *from_folder), "broken.png", "repair or remove"
    )
    assert not (tmp_path / "run").exists()


def test_sampling_mistakes_are_explained(trained, tmp_path):
    workdir, _ = trained
    sample = ["--mode=sample", f"--workdir={workdir}"]
    before = sorted(workdir.rglob("*"))
    PIL.Image.new("L", (8, 8)).save(tmp_path / "opaque.png")
    assert refused(main("--mode=sample", f"--workdir={tmp_path}/no"), "not a folder")
    assert refused(main("--mode=sample", f"--workdir={tmp_path}"), "no checkpoint yet")
    assert refused(main(*sample, "--given=label=10"), "label=10", "0 to 9")
    assert refused(main(*sample, "--given=lable=1"), "lable=1", "image, label")
    assert refused(main(*sample, "--given=image=nowhere.png"), "nowhere.png")
    assert refused(main(*sample, "--steps=1"), "1 steps")
    assert refused(main(*sample, "--sampler=euler"), "'euler'", "ddim")
    assert refused(main(*sample, "--num_samples=0"), "num_samples=0")
    assert refused(main(*sample, "--seed=5000000000"), "seed=5000000000")
    assert refused(main(*sample, *LABEL), "--config is for training")
    assert refused(main(*sample, f"--out={tmp_path}/opaque.png"), "opaque.png")
    (tmp_path / "samples.npz").touch()
    assert refused(main(*sample, f"--out={tmp_path}"), "holds samples already")
    assert refused(main(*sample, "--clip=soft"), "'soft'", "dynamic")
    for interval in ("0.8,0.1", "0.5", "-0.1,1", "0,1.5", ""):
        found = main(*sample, f"--guidance_interval={interval}")
        assert refused(found, "--guidance_interval is (", "from 0 to 1")
    found = main(*sample, "--guidance_interval=low,high")
    assert refused(found, "--guidance_interval=low,high", "'low'")
    assert refused(main(*sample, "--guidance=-1"), "--guidance=-1")
    assert refused(main(*sample, "--head_guidance=-1"), "--head_guidance=-1")
    assert refused(
        main(*sample, "--guidance=2", f"--given=image={tmp_path}/opaque.png"),
        "--guidance=2.0 would change nothing", "NAME one of label", "leave it out",
    )  # fmt: skip
    assert refused(main(*sample, "--head_guidance=1"), "NAME one of label")
    assert refused(main(*sample, "--guess=label=best"), "label=best", "coherent")
    assert refused(main(*sample, "--guess=lable=held"), "lable=held", "one of label")
    assert refused(main(*sample, "--generated_drift=0"), "--guess", "NAME=absent for 0")
    assert sorted(workdir.rglob("*")) == before


def test_other_modes_mistakes_are_explained(trained, tmp_path):
    workdir, _ = trained
    before = sorted(workdir.rglob("*"))
    precompute = ["--mode=precompute", *LABEL]
    assert refused(main(*precompute), "needs --encoder and --out as well")
    assert refused(main(*precompute, "--encoder=a.b:c"), "needs --out as well")
    assert refused(main(*precompute, f"--out={tmp_path}/a.npz"), "needs --encoder as")
    assert refused(main("--mode=precompute"), "--config is missing")
    assert refused(main("--mode=write"), "mode", "read")
    for mode in ("read", "bound"):
        here = [f"--mode={mode}", f"--workdir={workdir}"]
        assert refused(main(*here, *LABEL), f"training: --mode={mode} takes the config")
        assert refused(main(here[0]), "--workdir is missing")
        assert refused(main(here[0], f"--workdir={tmp_path}"), "no checkpoint yet")
        assert refused(main(*here, "--batch_size=0"), "batch_size=0")
    bound, read = ([f"--mode={m}", f"--workdir={workdir}"] for m in ("bound", "read"))
    assert refused(main(*bound, "--clip=soft"), "'soft'", "dynamic")
    assert refused(main(*bound, "--num_examples=0"), "num_examples=0")
    assert refused(main(*bound, "--num_times=1000"), "there are 999")
    assert refused(main(*read, "--given=label=3"), "--given=image=FILE_OR_FOLDER")
    PIL.Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert refused(main(*read, f"--given=image={tmp_path}/a.png"), "without --given")
    assert sorted(workdir.rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "flags, path, expected",
    [
        (
            "--mode=sample --workdir=w --num_samples=5 --seed=2 --given=label=3 --noema"
            " --guidance=2 --head_guidance=0.5 --guidance_interval=0.1,0.8 --clip=none"
            " --steps=7 --sampler=ddim --guess=label=mean",
            "sampling.sample",
            {"num": 5, "seed": 2, "given": ["label=3"], "use_ema": False, "out": None}
            | {
                "overrides": {
                    "guidance": 2.0,
                    "head_guidance": 0.5,
                    "guidance_interval": (0.1, 0.8),
                    "clip": "none",
                    "num_steps": 7,
                    "sampler": "ddim",
                    "guess": "label=mean",
                }
            },
        ),
        (
            "--mode=read --workdir=w --out=o --given=image=i --batch_size=3",
            "reading.read",
            {"out": "o", "given": ["image=i"], "overrides": {"batch_size": 3}}
            | {"seed": 0, "use_ema": True},
        ),
        (
            "--mode=bound --workdir=w --num_examples=4 --num_times=2 --seed=1 --out=o",
            "bounding.bound",
            {"out": "o", "num_examples": 4, "num_times": 2, "seed": 1, "overrides": {}},
        ),
        (
            "--mode=read --workdir=w --batch_size=3 --config.data.path=p[1]",
            "reading.read",
            {"overrides": {"batch_size": 3, "data.path": "p[1]"}},
        ),
        (
            f"--mode=precompute {LABEL[0]} --encoder=a.b:c --out=v.npz",
            "precompute.precompute",
            {"encoder": "a.b:c", "out": "v.npz"},
        ),
    ],
)
def test_flags_arrive_where_they_belong(flags, path, expected):
    module, _, name = path.partition(".")
    module = importlib.import_module(f"mt_diffusion.inference.{module}")
    signature = inspect.signature(getattr(module, name))
    with mock.patch.object(module, name) as called:
        assert main(*flags.split()).code == 0
    arguments = signature.bind(*called.call_args.args, **called.call_args.kwargs)
    found = arguments.arguments
    for part in ("out", "workdir"):
        if found.get(part) is not None:
            found[part] = str(found[part])
    assert found | expected == found
    assert found.get("workdir", "w") == "w"


def test_a_truncated_checkpoint_falls_back_to_the_one_before(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained[0], copy)
    for path in (copy / "checkpoints" / "12").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-20])
    sampled = process(
        "--mode=sample", f"--workdir={copy}", "--steps=3", "--num_samples=2"
    )
    out, _ = sampled.communicate(timeout=300)
    assert sampled.returncode == 0, out
    assert "checkpoint 12 is broken" in out and "step 9" in out
    assert "Traceback" not in out
    result = main(*LABEL, f"--workdir={copy}")
    assert result.code == 0, result
    assert "moved broken checkpoint 12" in result.out
    one, other = parameters(trained[0]), parameters(copy)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_help_is_readable():
    shown = process("--help")
    out, _ = shown.communicate()
    assert shown.returncode == 0
    for word in ("--mode=sample", "--given", "--workdir", "--config", "Train"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 92
