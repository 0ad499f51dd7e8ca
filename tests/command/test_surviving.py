"""What clusters do to a run: each time one paragraph, and the same command goes on."""

import contextlib
import errno
import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent import futures

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
from ml_collections import ConfigDict

import mt_diffusion
from configs import ddpm
from mt_diffusion.errors import Stopped, UserError
from mt_diffusion.experiment.checkpoint import Checkpoints, collect_abandoned_reads
from mt_diffusion.parallel import sharding
from mt_diffusion.training import loop, watch
from mt_diffusion.training.preemption import Preemption
from mt_diffusion.training.watch import Watch

# Of what Orbax had begun when a save failed, and what is collected at a later time.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)
NUM_STEPS, EVERY = 24, 3


def once(function):
    """A function that gives what its first call gave, so that it is compiled once."""
    made = []

    def call(*args):
        made[:] = made or [function(*args)]
        return made[0]

    return call


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One device, what is compiled for all runs at once, and less strictness.

    Saves from eight devices take seconds where the use of keys is checked.
    """
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", one)
        for name in ("compile_step", "build_look"):
            patch.setattr(loop, name, once(getattr(loop, name)))
        level = absl.logging.get_verbosity()
        absl.logging.set_verbosity(absl.logging.FATAL)  # as the command does
        hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
        with jax.debug_key_reuse(False):
            yield
        signal.signal(signal.SIGHUP, hangup)
        absl.logging.set_verbosity(level)
    collect_abandoned_reads()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of images."""
    folder = tmp_path_factory.mktemp("data") / "images"
    (folder / "class").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(40):
        pixels = draw.integers(0, 256, (8, 8)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "class" / f"{i}.png")
    return folder


def config(data, num_workers=0):
    config = ddpm.get_config("smoke")
    config.data.update(source="folder", path=str(data), num_workers=num_workers)
    config.unet.update(
        model_channels=8, channel_mult=(1,), attention_resolutions=(), num_groups=4
    )
    config.train.update(num_steps=NUM_STEPS, batch_size=8)
    config.watch.update(log_every=1, checkpoint_every=EVERY, sample_every=NUM_STEPS)
    config.watch.num_pictures = 2
    config.sampling.num_steps = 2
    return config


def parameters(workdir):
    """All arrays of the last checkpoint, read without the project's own code."""
    with ocp.StandardCheckpointer() as reader:
        root = workdir / "checkpoints" / str(NUM_STEPS)
        return [reader.restore(root / part) for part in ("params", "opt_state")]


def scalars(workdir):
    """All that metrics.jsonl says, but for what a clock says."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{n: x for n, x in f.items() if n not in watch.CLOCK} for f in found]


def files(workdir):
    """Pictures with their bytes, and the names of all but event files."""
    names = [p.relative_to(workdir) for p in workdir.rglob("*") if p.is_file()]
    # Orbax names the files in a checkpoint by chance.
    kept = {
        n for n in names if n.parts[0] != "checkpoints" and "tfevents" not in n.name
    }
    steps = {n.parts[1] for n in names if n.parts[0] == "checkpoints"}
    return (
        kept,
        steps,
        {n: (workdir / n).read_bytes() for n in kept if n.suffix == ".png"},
    )


# Disturbances: each happens up to its `yield`, and is mended after it, once the run has
# ended, as a user would do it.


def told_to_stop(workdir, data):
    """Twice, as by an impatient scheduler."""
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
    yield


def hung_up(workdir, data):
    """The terminal is closed; what is printed goes nowhere from then on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "dup2", lambda *_: None)  # not what pytest prints
        signal.raise_signal(signal.SIGHUP)
    yield


def told_during_saves(workdir, data):
    """Once while a checkpoint is being written, again while the last one is."""

    def telling(function):
        def told(self, *args):
            function(self, *args)
            signal.raise_signal(signal.SIGTERM)

        return told

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", telling(Checkpoints.save))
        patch.setattr(Watch, "__exit__", telling(Watch.__exit__))
        yield


def interrupted(workdir, data):
    """Ctrl-C; what a shell starts in the background is deaf to it otherwise."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, previous)


def clock_set_back(workdir, data):
    """By an hour; the run does not notice until it is told to stop."""
    now, now_ns = time.time, time.time_ns
    advance, later = Watch.advance, []

    def stop_later(self, step):
        later.append(step)
        if len(later) == 2 * EVERY:
            signal.raise_signal(signal.SIGTERM)
        advance(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now() - 3600)
        patch.setattr(time, "time_ns", lambda: now_ns() - 3600 * 10**9)
        patch.setattr(Watch, "advance", stop_later)
        yield


def no_room_for_metrics(workdir, data):
    """No file may grow beyond the size that metrics.jsonl has after half a line."""
    with files_of_at_most((workdir / "metrics.jsonl").stat().st_size + 30):
        yield


def no_room_for_checkpoints(workdir, data):
    with files_of_at_most(20_000):
        yield


@contextlib.contextmanager
def files_of_at_most(size):
    """The system refuses to let any file grow beyond that, whoever writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_room_for_pictures(workdir, data):
    """Names of drafts can't be foretold, so Pillow itself meets the full disk."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIL.Image.Image, "save", full)
        yield
    assert not list((workdir / "samples").glob(f"{NUM_STEPS:07d}_joint*"))


def data_gone(workdir, data):
    """The disk of the images is unmounted while threads read them."""
    data.rename(data.with_name("gone"))
    yield
    data.with_name("gone").rename(data)


CHECKPOINT = "a checkpoint could not be written to .*; the same command then continues"
SAVED = ("told_to_stop", "hung_up", "told_during_saves", "data_gone")  # all steps done
DISTURBANCES = [  # the step of a run before which it happens, and how it ends
    (told_to_stop, 0, Stopped, "told to stop after step 1 of 24"),
    (hung_up, 1, Stopped, "told to stop after step 2"),
    (told_during_saves, 1, Stopped, "told to stop after step 4"),
    (interrupted, 1, KeyboardInterrupt, None),
    (clock_set_back, 1, Stopped, "told to stop after step 11"),
    (no_room_for_metrics, 1, UserError, "metrics.jsonl could not .*too large"),
    (no_room_for_checkpoints, 1, UserError, f"{CHECKPOINT}"),
    (data_gone, 1, UserError, "images/class/.* can't be read"),
    (no_room_for_pictures, 1, UserError, "_joint.png could not .*No space left"),
]


def disturbed(workdir, data, disturbance, when, num_workers=0):
    """A run in which a disturbance happens after `when` steps."""
    advance, enter, steps = Watch.advance, Watch.__enter__, []
    happening = disturbance(workdir, data)

    def entered(self):
        if not when:
            next(happening)
        return enter(self)

    def advanced(self, step):
        steps.append(step)
        if len(steps) == when:
            next(happening)
        advance(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "__enter__", entered)
        patch.setattr(Watch, "advance", advanced)
        try:
            loop.train(config(data, num_workers), workdir)
        finally:
            assert next(happening, "mended") == "mended"


def test_a_run_that_is_disturbed_in_every_way_ends_as_if_nothing_had_happened(
    data, tmp_path, capsys
):
    whole, workdir = tmp_path / "whole", tmp_path / "disturbed"
    loop.train(config(data), whole)
    for disturbance, when, ending, message in DISTURBANCES:
        with pytest.raises(ending, match=message):
            disturbed(workdir, data, disturbance, when)
        if disturbance.__name__ in SAVED:
            assert Checkpoints(workdir).steps[0] == scalars(workdir)[-1]["step"]
    loop.train(config(data), workdir)
    jax.tree.map(np.testing.assert_array_equal, parameters(whole), parameters(workdir))
    assert scalars(whole) == scalars(workdir)
    assert [x["step"] for x in scalars(workdir) if "loss" in x] == [
        *range(1, NUM_STEPS + 1)
    ]
    assert files(whole) == files(workdir)


@pytest.mark.wide
def test_so_it_is_where_other_processes_read_the_data_as_many_as_there_be(
    data, tmp_path, capsys
):
    whole, workdir = tmp_path / "whole", tmp_path / "disturbed"
    loop.train(config(data), whole)
    ways = [row for row in DISTURBANCES if row[0].__name__ in (*SAVED, "interrupted")]
    for num_workers, (disturbance, when, ending, message) in enumerate(ways):
        with pytest.raises(ending, match=message):
            disturbed(workdir, data, disturbance, when, num_workers)
        assert not multiprocessing.active_children()
    loop.train(config(data, num_workers=2), workdir)
    jax.tree.map(np.testing.assert_array_equal, parameters(whole), parameters(workdir))
    assert not multiprocessing.active_children()


def test_a_callback_hears_what_is_logged_and_may_stop_the_run(data, tmp_path, capsys):
    heard = {}

    def callback(step, losses):
        heard[step] = losses
        return {2: 1, 3: np.mean(list(losses.values())) > -1}.get(step)  # 1 is not True

    mt_diffusion.train(config(data), tmp_path, callback)
    assert "stopped by its callback after step 3" in capsys.readouterr().out
    assert Checkpoints(tmp_path).steps[0] == 3
    logged = scalars(tmp_path)
    assert [{"step": n, **losses} for n, losses in heard.items()] == logged
    assert list(heard) == [1, 2, 3]

    def broken(step, losses):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mt_diffusion.train(config(data), tmp_path, broken)
    mt_diffusion.train(config(data), tmp_path)
    assert [x["step"] for x in scalars(tmp_path) if "loss" in x] == [
        *range(1, NUM_STEPS + 1)
    ]


def test_a_run_may_be_in_a_thread():
    """Where a program's signals can't be listened to."""

    def enter():
        with Preemption() as stop:
            return stop.reached(1)

    assert futures.ThreadPoolExecutor(1).submit(enter).result() is False


def test_tensorboard_without_room_is_explained(tmp_path):
    """Its files are larger than metrics.jsonl, which still has room."""
    refused = pytest.raises(UserError, match="tfevents.* could not .*too large.*; the")
    config = ConfigDict({"train": dict(num_steps=30, batch_size=1)})
    with refused, files_of_at_most(800), Watch(tmp_path, 0, config) as view:
        for step in range(30):
            view.write(step, {"x": 1.0})


SMALL = ddpm.get_config("smoke")


def state(x):
    return {"params": {"w": jax.random.normal(jax.random.key(x), (5, 4))}}


@pytest.fixture
def saved(tmp_path):
    """Steps 1 and 2 saved, and kept."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(step), SMALL)
    checkpoints.close()
    return tmp_path


def is_whole(workdir, step):
    found, _, arrays = Checkpoints(workdir).newest(lambda _: jax.eval_shape(state, 0))
    np.testing.assert_array_equal(arrays["params"]["w"], state(step)["params"]["w"])
    return found == step


def goes_on(workdir):
    """The next save and what it leaves."""
    checkpoints = Checkpoints(workdir, keep=2)
    checkpoints.save(3, state(3), SMALL)
    checkpoints.close()
    names = sorted(p.name for p in (workdir / "checkpoints").iterdir())
    return is_whole(workdir, 3) and names == ["2", "3"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_a_save_cut_off_at_any_byte_leaves_the_one_before(saved, share):
    """Some files are whole, one is in part, the others and the last rename are not."""
    folder = saved / "checkpoints"
    draft = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", draft)
    written = sorted(p for p in draft.rglob("*") if p.is_file())
    cut = int(share * (len(written) - 1))
    written[cut].write_bytes(written[cut].read_bytes()[: int(share * 99)])
    for path in written[cut + 1 :]:
        path.unlink()
    assert is_whole(saved, 2) and goes_on(saved)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_removal_cut_off_at_any_file_harms_no_other(saved, share):
    """Of the oldest one, when a newer one is there."""
    paths = sorted(p for p in (saved / "checkpoints" / "1").rglob("*") if p.is_file())
    for path in paths[: int(share * len(paths))]:
        path.unlink()
    assert is_whole(saved, 2) and goes_on(saved)


def test_permission_lost_ends_the_process_at_once(tmp_path):
    """The real one: what Orbax has begun would wait for ten minutes."""
    flags = ["--config=configs/ddpm.py:smoke", f"--workdir={tmp_path}"]
    flags += ["--config.watch.checkpoint_every=1", "--config.unet.model_channels=8"]
    flags += [
        "--config.unet.channel_mult=(1,)",
        "--config.unet.attention_resolutions=()",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "mt_diffusion.main", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"XLA_FLAGS": ""},
        text=True,
    ) as run:
        while not (tmp_path / "samples").exists():  # it compiles next
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        refuse_checkpoints(tmp_path)
        _, errors = run.communicate(timeout=300)
    (tmp_path / "checkpoints").chmod(0o700)
    assert run.returncode == 2
    paragraph = " ".join(errors.split())
    assert paragraph.startswith("error: a checkpoint could not be written to ")
    assert "none yet" in paragraph and "the same command then continues" in paragraph


def refuse_checkpoints(workdir):
    """Root may write anywhere, but not in a folder that is none."""
    folder = workdir / "checkpoints"
    if os.geteuid() == 0:
        folder.rename(workdir / "aside")
        folder.touch()
    folder.chmod(0o500)
