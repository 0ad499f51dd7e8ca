"""A second training on a workdir is refused before it touches anything."""

import jax.numpy as jnp
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints

CONFIG = common.get_config("smoke").lock()
STATE = {"params": {"w": jnp.ones(3)}}


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    first = Checkpoints(tmp_path, keep=1)
    first.save(1, STATE, CONFIG)
    draft = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    first.close()
    first = Checkpoints(tmp_path, keep=1)
    draft.mkdir()  # as of a save under way, which a new writer takes for cut off
    with pytest.raises(UserError, match=f"--workdir={tmp_path} is being written to by"):
        Checkpoints(tmp_path, keep=1)
    assert draft.exists() and Checkpoints(tmp_path).steps == [1]
    draft.rmdir()
    first.close()
    Checkpoints(tmp_path, keep=1).close()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]
