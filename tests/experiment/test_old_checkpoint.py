"""A checkpoint of commit f625185 draws and goes on as it did there.

What is expected is what that commit's code gave (tests/data/old_checkpoint/README.md).
"""

import pathlib
import tarfile

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import from_run
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.inference import calibration, restoring, sampling
from mt_diffusion.parallel import sharding
from mt_diffusion.training import loop

KEPT = pathlib.Path(__file__).parents[1] / "data" / "old_checkpoint"
STEPS = 20  # that it has had
NUM_STEPS = 5  # of draws; all else is as its config says
NEAR = 1e-5  # of the largest number: rounding, which is the processor's own


def copy_of_run(folder):
    """The workdir as that commit left it."""
    with tarfile.open(KEPT / "checkpoint.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "old"


@pytest.fixture(scope="module")
def expected():
    with np.load(KEPT / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(experiment, what draws, its weights), as --mode=sample makes them."""
    workdir, mesh = copy_of_run(tmp_path_factory.mktemp("run")), sharding.make_mesh()
    restored = restoring.restore(workdir, {"num_steps": NUM_STEPS}, True, mesh)
    step, config, experiment, params = restored
    assert step == STEPS
    args = (experiment, params, True, mesh)
    build, weights = restoring.prepare(config.sampling, *args)
    measured = calibration.find(workdir, step, True, config, experiment, params, mesh)
    return experiment, build(measured), weights


def check_near(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR * scale)


@pytest.mark.parametrize("name, given", [("joint", []), ("given_label", ["label=3"])])
def test_it_draws_what_it_drew(model, expected, name, given):
    experiment, generator, weights = model
    values = sampling.read_given(given, experiment)
    drawn = generator.values(weights, 0, range(2), values)
    assert drawn.keys() == {"image", "label"}
    for variable, x in drawn.items():
        check_near(x, expected[f"{name}/{variable}"])


def test_it_goes_on_as_it_did(tmp_path, expected):
    workdir, logged = copy_of_run(tmp_path), []
    config = from_run.get_config(str(workdir))
    loop.train(config, workdir, lambda *line: logged.append(line))
    ((step, terms),) = logged
    assert step == STEPS + 1
    kept = [n.removeprefix("terms/") for n in expected if n.startswith("terms/")]
    assert {"eps", "label", "loss", "grad_norm"} <= {*kept}
    for name in kept:
        check_near(terms[name], expected[f"terms/{name}"])
    for part, params in parts_of(workdir, step, "params", "ema_params"):
        check_near(params, expected[part])


def parts_of(workdir, step, *names):
    """(name, all its numbers in the order of their names) of parts of a state."""
    checkpoints, place = Checkpoints(workdir), sharding.replicated(sharding.make_mesh())
    shapes = {name: checkpoints.shapes(step, name) for name in names}
    shapes = sharding.placed(shapes, place)
    for name, part in checkpoints.restore(step, shapes).items():
        arrays = flatten_dict(part["params"], sep="/")
        yield name, np.concatenate([np.ravel(arrays[n]) for n in sorted(arrays)])
