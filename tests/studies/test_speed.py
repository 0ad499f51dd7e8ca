import argparse
import dataclasses
import os
import sys

import jax
import numpy as np
import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed import ours, shapes

TINY = shapes.Shape(8, 1, 8, (1,), 1, (False,), 4, 4, 2, 2)


def test_facts_are_those_of_the_network():
    _, experiment = ours.build(TINY, "")
    params = jax.eval_shape(
        lambda: ours.experiments.init_params(jax.random.key(0), experiment)
    )
    facts = ours.facts(experiment, params)
    # Five residual blocks, two of them with a skip as wide as their input: without the
    # products with padding, and with a tenth or so for all that is not a convolution.
    least = 2 * (22 * 22) * (8 * 8) * 12
    assert least < facts["flops_per_image"] < 2 * least
    assert facts["parameters"] == sum(x.size for x in jax.tree.leaves(params))


def test_our_jobs_train_and_sample():
    for build in (ours.train, ours.sample):
        job, facts = build(dataclasses.replace(TINY, batch_size=8, num_sampled=8), "")
        assert facts["parameters"] > 0
        job()


JOB = """
import time
from benchmarks.speed import serve

def job(shape, variant):
    print("what a library says is no answer")
    return lambda: time.sleep(0.05), {"size": shape.size, "variant": variant}

serve.serve({"job": job})
"""


def test_a_side_answers_with_the_time_of_that_many_jobs():
    order = '{"shape": "28x28x1", "job": "job", "variant": "v"}'
    side = speed.Side([sys.executable, "-c", JOB, order], dict(os.environ))
    assert side.facts == {"size": 28, "variant": "v"}
    assert side.first_seconds > 0.05
    answer = side.time(4)
    assert 0.2 < answer["seconds"] < side.first_seconds + 10
    assert answer["peak_bytes"] > 2**20
    side.close()


def test_a_side_that_fails_ends_the_run_with_what_it_said():
    with pytest.raises(SystemExit, match="no such side"):
        speed.Side([sys.executable, "-c", "raise OSError('no such side')"], {})


def test_what_a_python_lacks_is_said(tmp_path):
    assert "No such file" in speed.lacks(str(tmp_path / "python"))
    without = tmp_path / "without"
    without.write_text("#!/bin/sh\necho No module named torch >&2; exit 1\n")
    without.chmod(0o700)
    assert speed.lacks(str(without)) == "No module named torch"
    assert speed.lacks("false") == "status 1"
    assert speed.lacks("true") == ""


def side(seconds):
    return {
        "parameters": 10,
        "flops_per_image": 100.0,
        "seconds": seconds,
        "peak_bytes": 2**30,
        "cold": 20.0,
        "warm": [5.0, 6.0, 4.0],
    }


def test_a_ratio_is_taken_within_each_round():
    # The machine was ten times slower in the second round, for both sides.
    ours_, other = side([1.0, 10.0, 2.0]), side([2.0, 20.0, 4.0])
    np.testing.assert_allclose(speed.ratios(ours_, other), [2, 2, 2])


def test_the_table_compares_with_the_fastest_variant():
    found = {name: side([2.0, 2.0]) for name in speed.VARIANTS}
    found |= {speed.OURS: side([2.0, 2.0]), "PyTorch, compile": side([1.0, 1.0])}
    options = argparse.Namespace(rounds=2, starts=1)
    text = speed.table({"28x28x1 train": found}, options)
    bold = [line for line in text.splitlines() if "| **" in line]
    assert len(bold) == 1
    assert "**PyTorch, compile** | 32.0 | **0.50 (0.50 to 0.50)**" in bold[0]


@pytest.mark.parametrize("field", ["parameters", "flops_per_image"])
def test_another_network_is_refused(field):
    found = {speed.OURS: side([1.0]), "PyTorch eager": side([1.0])}
    speed.check("tiny", found)
    found["PyTorch eager"][field] *= 2
    with pytest.raises(AssertionError):
        speed.check("tiny", found)


def test_shapes_are_those_of_the_presets():
    from configs import common

    shape, config = shapes.SHAPES["28x28x1"], common.fashion_mnist()
    assert shape.model_channels == config.unet.model_channels
    assert shape.channel_mult == tuple(config.unet.channel_mult)
    assert shape.num_res_blocks == config.unet.num_res_blocks
    assert dataclasses.astuple(shape)[:2] == (28, 1)
