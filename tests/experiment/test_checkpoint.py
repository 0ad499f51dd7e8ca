import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.files import digests
from mt_diffusion.training import resume, watch

CONFIG = common.get_config("smoke").lock()


def state(x):
    rows = jax.random.normal(jax.random.key(x), (50, 40))
    return {"params": {"w": rows}, "step": jnp.asarray(x)}


def abstract(config):
    return jax.eval_shape(lambda: state(0))


@pytest.fixture
def written(tmp_path):
    """Steps 1, 2 and 3 saved, the newest two kept."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), CONFIG)
    checkpoints.close()
    return tmp_path


def test_a_checkpoint_comes_back_to_the_bit_with_its_config(written):
    step, config, found = Checkpoints(written).newest(abstract)
    assert step == 3
    assert json.loads(config.to_json()) == json.loads(CONFIG.to_json())
    jax.tree.map(np.testing.assert_array_equal, found, state(3))
    assert config.is_locked


def test_only_the_newest_are_kept_and_a_part_can_be_had_alone(written):
    checkpoints = Checkpoints(written)
    assert checkpoints.steps == [3, 2]
    params = checkpoints.restore(2, {"params": abstract(None)["params"]})
    assert params.keys() == {"params"}
    np.testing.assert_array_equal(params["params"]["w"], state(2)["params"]["w"])


def data_files(folder):
    return sorted((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.name)


@pytest.mark.parametrize("damage", ["truncate", "delete", "metadata"])
def test_a_broken_checkpoint_is_passed_over_and_said(written, capsys, damage):
    broken = written / "checkpoints" / "3"
    if damage == "metadata":
        (broken / "config" / "metadata").write_text("{")
    for path in data_files(broken / "params"):
        if damage == "truncate":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        if damage == "delete":
            path.unlink()
    step, _, found = Checkpoints(written).newest(abstract)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, found, state(2))
    assert "checkpoint 3 is broken" in capsys.readouterr().out


def test_what_a_newer_version_wrote_is_said_and_read(written, capsys):
    """It is not damaged: only this version can't compare digests of that kind."""
    path = written / "checkpoints" / "3" / digests.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "blake3"}))
    step, _, found = Checkpoints(written).newest(abstract)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, found, state(3))
    told = capsys.readouterr().out
    assert told.count("checkpoint 3 ") == 1 and "a newer version" in told


def test_all_broken_is_an_error_that_touches_nothing(written):
    for step in ("2", "3"):
        for path in data_files(written / "checkpoints" / step):
            path.write_bytes(b"")
    before = sorted(written.rglob("*"))
    with pytest.raises(UserError, match="all checkpoints.*\\[3, 2\\]"):
        Checkpoints(written).newest(abstract)
    assert sorted(written.rglob("*")) == before


def test_a_checkpoint_set_aside_makes_room_for_its_step(written):
    checkpoints = Checkpoints(written, keep=2)
    moved = checkpoints.set_aside(3)
    assert checkpoints.steps == [2] and (moved / "params").is_dir()
    checkpoints.save(3, state(4), CONFIG)
    checkpoints.close()
    _, _, found = Checkpoints(written).newest(abstract)
    np.testing.assert_array_equal(found["params"]["w"], state(4)["params"]["w"])


def test_an_empty_workdir_has_none_and_stays_empty(tmp_path):
    assert Checkpoints(tmp_path).newest(abstract) is None
    assert list(tmp_path.iterdir()) == []


def test_only_what_may_change_may_change():
    old = ConfigDict({"train": {"num_steps": 1, "batch_size": 2}, "watch": {"x": 1}})
    new = ConfigDict({"train": {"num_steps": 9, "batch_size": 2}, "watch": {"x": 3}})
    resume.check_same(new, old)
    new.train.batch_size = 4
    with pytest.raises(UserError, match=r"train.batch_size \(2 there, 4 now\)"):
        resume.check_same(new, old)
    tuples = ConfigDict({"a": (1, 2)}), ConfigDict({"a": [1, 2]})
    resume.check_same(*tuples)
    new.train = {"num_steps": 1, "batch_size": 2, "num_microbatches": 2}
    new.update({"init_from": "there", "unet": {"remat": "blocks"}})
    resume.check_same(new, old)
    moved = (ConfigDict({"data": {"pair_path": place}}) for place in ("here", "there"))
    resume.check_same(*moved)


@pytest.mark.parametrize(
    "old, new, alike",
    [
        (((0.5, -2.0), (1e-16, 3.0)), ((0.50001, -2.0), (0.0, 3.0)), True),
        ((0.5, -2.0), (0.501, -2.0), False),
        ((0.5, -2.0), (0.5, -2.0, 0.0), False),
        ((), (0.5,), False),
        (("a", "b"), ("b", "a"), False),
        ((1, 20_000), (1, 20_001), False),
        (0.9999, 0.99995, False),  # a setting, not fitted
    ],
)
def test_fitted_numbers_may_differ_a_little(old, new, alike):
    both = ConfigDict({"a": {"b": new}}), ConfigDict({"a": {"b": old}})
    assert (resume.differences(*both) == {}) == alike


def test_metrics_of_steps_that_are_done_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3, 4)]
    path.write_text("\n".join(lines) + '\n{"step": 2, "lo')
    watch.keep_lines(path, 2)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in kept] == [1, 2]
    watch.keep_lines(tmp_path / "none.jsonl", 2)
