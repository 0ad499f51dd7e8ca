"""The optimizer, against the parts of optax that do the same one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.training.optimizer import build_optimizer, clip_or_skip

CLIP = 1.0
STEPS = 8


def params():
    draw = np.random.default_rng(0)
    return {"a": draw.normal(size=(3, 4)), "b": {"c": draw.normal(size=5)}}


def gradients(broken):
    """Of STEPS steps, some above the clip and some below; `broken` at steps 3, 4, 6."""
    draw = np.random.default_rng(1)
    for step in range(STEPS):
        grads = jax.tree.map(lambda x: draw.normal(size=x.shape), params())
        grads = jax.tree.map(lambda g, s=step: g * 10.0 ** (s - 4), grads)
        if step in (3, 4, 6):
            grads["b"]["c"][2] = broken
        yield jax.tree.map(jnp.float32, grads)


def run(optimizer, broken):
    here = jax.tree.map(jnp.float32, params())
    state = optimizer.init(here)
    update, counts = jax.jit(optimizer.update), []
    for grads in gradients(broken):
        updates, state = update(grads, state, here)
        here = optax.apply_updates(here, updates)
        counts.append((int(state.notfinite_count), int(state.total_notfinite)))
    return here, state.inner_state, counts


def check_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [1.0, np.nan, np.inf, -np.inf])
def test_it_does_what_the_parts_of_optax_do(broken):
    adamw = optax.adamw(0.1, weight_decay=0.1)
    clipped = optax.chain(optax.clip_by_global_norm(CLIP), adamw)
    expected, inner, counts = run(optax.apply_if_finite(clipped, 100), broken)
    found, found_inner, found_counts = run(clip_or_skip(adamw, CLIP), broken)
    for ours, theirs in ((found, expected), (found_inner, inner[1])):
        jax.tree.map(check_close, ours, theirs)
    assert found_counts == counts
    assert counts[-1][1] == (0 if broken == 1 else 3)


def test_gradients_whose_norm_overflows_are_skipped():
    optimizer = clip_or_skip(optax.sgd(1.0), CLIP)
    here = {"a": jnp.ones(4)}
    grads = {"a": jnp.full(4, 1e30)}
    updates, state = optimizer.update(grads, optimizer.init(here), here)
    np.testing.assert_array_equal(updates["a"], 0)
    assert int(state.notfinite_count) == 1


def test_no_gradient_is_no_update():
    optimizer = clip_or_skip(optax.sgd(1.0), CLIP)
    here = {"a": jnp.ones(4)}
    updates, state = optimizer.update({"a": jnp.zeros(4)}, optimizer.init(here), here)
    np.testing.assert_array_equal(updates["a"], 0)
    assert int(state.notfinite_count) == 0


def test_the_rate_warms_up_and_falls_to_its_fraction():
    """With a constant gradient, Adam moves by the rate; of the step after the last."""
    config = common.get_config("smoke")
    config.train.num_steps = 20
    config.optimizer.update(
        learning_rate=0.5, warmup_steps=4, final_fraction=0.1, weight_decay=0.0
    )
    optimizer, here = build_optimizer(config), jnp.zeros(())
    state, moves = optimizer.init(here), []
    for _ in range(21):
        update, state = optimizer.update(jnp.ones(()), state, here)
        moves.append(-float(update))
    np.testing.assert_allclose(moves[:5], np.arange(5) / 8, rtol=1e-5, atol=1e-6)
    assert np.all(np.diff(moves[4:]) < 0)
    halfway = 0.5 * (0.1 + 0.9 * (1 + np.cos(np.pi / 2)) / 2)
    np.testing.assert_allclose((moves[12], moves[20]), (halfway, 0.05), rtol=1e-5)


def test_muon_moves_layers_along_orthogonal_matrices_and_all_else_by_adam():
    """A convolution's is one matrix; Newton and Schulz leave values from 0.6 to 1.3."""
    config = common.get_config("smoke")
    config.optimizer.update(kind="muon", learning_rate=0.1, warmup_steps=0)
    draw = np.random.default_rng(0)
    here = {
        "conv": {"kernel": draw.normal(size=(3, 3, 4, 8)), "bias": draw.normal(size=8)},
        "null_tokens": draw.normal(size=(2, 8)),
    }
    here = jax.tree.map(jnp.float32, here)
    optimizer = build_optimizer(config)
    update, _ = optimizer.update(here, optimizer.init(here), here)
    matrix = update["conv"]["kernel"].reshape(36, 8) / (0.1 * 0.2 * np.sqrt(36))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3
    adam = optax.nadamw(0.1, weight_decay=0.0)
    expected, _ = adam.update(here, adam.init(here), here)
    check_close(update["conv"]["bias"], expected["conv"]["bias"])
    check_close(update["null_tokens"], expected["null_tokens"])


def test_an_unknown_kind_is_refused():
    config = common.get_config("smoke")
    config.optimizer.kind = "lion"
    with pytest.raises(UserError, match="'lion'; choose adamw or muon"):
        build_optimizer(config)
