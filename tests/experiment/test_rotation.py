"""Reading while a training run writes newer checkpoints and removes older ones."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints

CONFIG = common.get_config("smoke").lock()


def state(x):
    return {"params": {"w": jnp.full(3, float(x))}}


def save(workdir, step):
    """The newest alone is kept."""
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(step, state(step), CONFIG)
    checkpoints.close()


@pytest.fixture
def reader(tmp_path):
    save(tmp_path, 1)
    return Checkpoints(tmp_path)


def newest(reader, meanwhile, only=None):
    """What is found where something happens after the config has been read."""
    happens = [meanwhile]

    def abstract(_):
        if happens:
            happens.pop()()
        return jax.eval_shape(lambda: state(0))

    return reader.newest(abstract, only)


def test_one_that_is_replaced_is_not_called_broken(reader, tmp_path, capsys):
    step, _, found = newest(reader, lambda: save(tmp_path, 2))
    assert step == 2
    np.testing.assert_array_equal(found["params"]["w"], state(2)["params"]["w"])
    assert "broken" not in capsys.readouterr().out


def test_one_that_is_being_removed_is_not_called_broken(reader, tmp_path, capsys):
    """Its folder is there yet, some of its files are not."""

    def meanwhile():
        kept = shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "kept")
        save(tmp_path, 2)
        shutil.rmtree(kept / "params")
        kept.rename(tmp_path / "checkpoints" / "1")

    assert newest(reader, meanwhile)[0] == 2
    assert "broken" not in capsys.readouterr().out


def test_where_all_are_removed_there_is_none(reader, tmp_path):
    gone = lambda: shutil.rmtree(tmp_path / "checkpoints" / "1")  # noqa: E731
    assert newest(reader, gone) is None


def test_one_that_was_asked_for_by_name_and_is_gone_is_said_to_be(reader, tmp_path):
    with pytest.raises(UserError, match="has no checkpoint 1; it has 2"):
        newest(reader, lambda: save(tmp_path, 2), only=1)
