"""A second training on a workdir is refused before it touches anything."""

import jax.numpy as jnp
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.files import locks

CONFIG = common.get_config("smoke").lock()
STATE = {"params": {"w": jnp.ones(3)}}


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    first = Checkpoints(tmp_path, keep=1)
    with pytest.raises(UserError, match=f"--workdir={tmp_path} is being written to by"):
        Checkpoints(tmp_path, keep=1)
    first.save(1, STATE, CONFIG)
    first.close()
    Checkpoints(tmp_path, keep=1).close()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_a_save_under_way_is_left_alone_by_all_others(tmp_path):
    """A new writer takes one for cut off, and removes it in the background."""
    first = Checkpoints(tmp_path, keep=1)
    first.save(1, STATE, CONFIG)
    first.close()
    draft = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    draft.mkdir()
    with locks.held(tmp_path, "another"):
        with pytest.raises(UserError, match="is being written to by"):
            Checkpoints(tmp_path, keep=1)
        assert Checkpoints(tmp_path).steps == [1] and draft.exists()
    last = Checkpoints(tmp_path, keep=1)
    last.save(3, STATE, CONFIG)  # once that is done
    last.close()
    assert not draft.exists() and Checkpoints(tmp_path).steps == [3]
