"""Damage to a checkpoint is noticed, and the study sees what it should."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from studies import damage

CONFIG = common.get_config("smoke").lock()


def state(x):
    params = {"w": jax.random.normal(jax.random.key(x), (5, 4))}
    return {"params": params, "ema_params": params, "step": jnp.asarray(x)}


@pytest.fixture
def workdir(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(step), CONFIG)
    checkpoints.close()
    return tmp_path


def load(workdir, parts):
    """Those parts of the newest checkpoint."""
    wanted = {n: x for n, x in jax.eval_shape(lambda: state(0)).items() if n in parts}
    return Checkpoints(workdir).newest(lambda _: wanted)


@pytest.fixture
def loaders(monkeypatch):
    """All of a state, as training loads, and the averaged parameters alone."""
    found = {
        "training": functools.partial(load, parts=("params", "ema_params", "step")),
        "sampling": functools.partial(load, parts=("ema_params",)),
    }
    monkeypatch.setattr(damage, "LOADERS", found)


def test_no_damage_is_silent_or_misleading(workdir, loaders):
    """Some files, in all ways; the study itself tries every one."""
    rows = damage.measure(workdir, most=3)
    assert len(rows) > 2 * 3 * 3
    wrong = [r for r in rows if r["outcome"] in ("silent", "misleading")]
    assert wrong == []
    assert {r["outcome"] for r in rows} >= {"harmless", "fallback"}


@pytest.mark.wide
def test_no_damage_to_any_file_is_silent_or_misleading(workdir, loaders):
    rows = damage.measure(workdir)
    assert [r for r in rows if r["outcome"] in ("silent", "misleading")] == []


def test_every_way_is_told_from_the_others(workdir, capsys):
    sound = {s: (s, CONFIG, state(s)) for s in (1, 2)}

    def falls_back(_):
        print("checkpoint 2 is broken and passed over (torn)")
        return sound[1]

    def fails(error):
        raise error

    expected = {
        "harmless": lambda _: sound[2],
        "fallback": falls_back,
        "refused": lambda _: fails(UserError("all checkpoints are broken")),
        "silent": lambda _: (2, CONFIG, state(3)),
    }
    for word, loader in expected.items():
        assert damage.outcome(loader, workdir, sound) == word
    misleading = [
        lambda _: sound[1],
        lambda _: fails(UserError("train into it first")),
        lambda _: fails(KeyError("w")),
    ]
    for loader in misleading:
        assert damage.outcome(loader, workdir, sound) == "misleading"
    other = CONFIG.copy_and_resolve_references()
    other.diffusion.num_steps = 7
    changed = lambda _: (2, other, state(2))  # noqa: E731
    assert damage.outcome(changed, workdir, sound) == "silent"


def test_without_digests_a_flipped_bit_is_silent(workdir, loaders):
    """What they are for: checkpoints of before are loaded as they are."""
    (workdir / "checkpoints" / "2" / "digests.json").unlink()
    path = workdir / "checkpoints" / "2" / "config" / "metadata"
    stored = json.loads(path.read_text())
    stored["diffusion"]["num_steps"] += 1
    path.write_text(json.dumps(stored))
    step, config, _ = load(workdir, ("ema_params",))
    assert step == 2 and config.diffusion.num_steps == CONFIG.diffusion.num_steps + 1
