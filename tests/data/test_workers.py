"""Processes that read examples: the same batches, in order, and none that stays."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import PIL.Image
import pytest

from configs import joint
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment
from mt_diffusion.parallel import sharding


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Of a folder, flipped and with patches hidden, so that all draws count."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(30):
        (root / f"c{i % 3}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (12, 12), np.uint8)
        PIL.Image.fromarray(pixels).save(root / f"c{i % 3}" / f"{i}.png")
    config = joint.get_config("smoke")
    config.data.update(source="folder", path=str(root), random_flip=True, broken="skip")
    source = sources.open_source(config.data, "train")
    built = experiment.build(experiment.resolve(config, source))
    preprocess = pipeline.Preprocess(built.primary, built.modalities, True)
    return pipeline.training_batches(source, preprocess, 8, seed=0)


def through(batches, start, stop, num_workers):
    over_batch = sharding.over_batch(sharding.make_mesh())
    found = pipeline.prefetch(batches, start, stop, over_batch, num_workers)
    return [jax.device_get(batch) for batch in found]


def assert_same(found, batches, start):
    for step, batch in enumerate(found, start):
        jax.tree.map(np.testing.assert_array_equal, batch, batches[step])


def test_processes_give_the_batches_of_none_from_any_step_on(batches):
    found = through(batches, 3, 10, num_workers=2)
    assert len(found) == 7
    assert_same(found, batches, 3)
    assert not multiprocessing.active_children()


@pytest.mark.wide
@pytest.mark.parametrize("num_workers", [0, 1, 4])
@pytest.mark.parametrize("start", [0, 5])
def test_any_number_of_processes_gives_the_same(batches, num_workers, start):
    found = through(batches, start, 13, num_workers)
    assert len(found) == 13 - start
    assert_same(found, batches, start)
    assert not multiprocessing.active_children()


@pytest.mark.wide
def test_an_error_in_a_process_is_raised_here(batches):
    broken = batches.map(lambda batch: {}["x"])
    with pytest.raises(KeyError):
        through(broken, 0, 3, num_workers=1)
    dying = batches.map(lambda batch: os._exit(9))
    with pytest.raises(UserError, match="process of config.data.num_workers has ended"):
        through(dying, 0, 3, num_workers=1)
    assert not multiprocessing.active_children()


SCRIPT = """
import multiprocessing
import time
import grain
from mt_diffusion.data import pipeline

batches = grain.MapDataset.range(10**6).map(lambda i: i).batch(2)
found = pipeline.loaded(batches, 1)
next(found)
print(*(p.pid for p in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


def test_processes_outlive_signals_but_not_the_one_that_reads(tmp_path):
    """As where a cluster tells all of a job to stop, and then ends the trainer."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what is left of a killed process is told there
        text=True,
    ) as reader:
        (pid,) = map(int, reader.stdout.readline().split())
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        assert is_running(pid)
        reader.kill()
        deadline = time.monotonic() + 60
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid):
    """Whether it is there, and has not ended unasked after."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
