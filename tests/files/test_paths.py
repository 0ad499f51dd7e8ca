"""Paths are names, never patterns."""

import jax
import jax.numpy as jnp
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.files import paths

CONFIG = common.get_config("smoke").lock()
HOSTILE = "- [a]*? 'q\" $HOME;&|#%20{b}~ü日 " + 100 * "x"


def saves_and_loads(folder):
    """A checkpoint, as training writes one and sampling reads it."""
    state = {"params": {"w": jnp.arange(6.0)}}
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(1, state, CONFIG)
    checkpoints.close()
    step, _, found = Checkpoints(folder).newest(lambda _: jax.eval_shape(lambda: state))
    shapes = Checkpoints(folder).shapes(1, "params")
    return step == 1 and (found["params"]["w"] == state["params"]["w"]).all() and shapes


def test_checkpoints_lie_in_folders_of_any_name(tmp_path):
    folder = tmp_path / HOSTILE
    assert saves_and_loads(folder)
    assert [p.name for p in tmp_path.iterdir()] == [HOSTILE]


@pytest.mark.parametrize("name", ["a\\b", "a\udce4"])
def test_what_tensorstore_takes_for_another_folder_is_refused(tmp_path, name):
    """It makes a/b of a\\b, and knows no names but UTF-8."""
    for keep in (1, None):
        with pytest.raises(UserError, match="can't be kept in .*Rename the folder"):
            Checkpoints(tmp_path / name, keep)
    assert not (tmp_path / "a").exists()
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    assert saves_and_loads(tmp_path / "link")  # the remedy that is named


def test_a_folder_is_no_pattern_and_what_is_below_can_be_one(tmp_path):
    folder = tmp_path / "a[1]*"
    (folder / "x_1").mkdir(parents=True)
    (tmp_path / "a1").mkdir()
    found = list(paths.literal(folder).glob("x_*"))
    assert found == [paths.literal(folder / "x_1")]
    assert type(found[0] / "y") is paths.Literal
