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

from configs import image_label, joint
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
