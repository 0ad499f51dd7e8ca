"""AdamW or Muon behind a clip, with a warm-up; what is not finite is skipped."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, muon

from mt_diffusion.errors import UserError

MATRIX = "kernel"  # what flax calls the weights of a layer, its last axis the outputs
# Of each of five steps. Optax's default does the same, unrolled: on a CPU that adds 9 s
# to a step's compilation, and this 4 s; steps are as fast.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
LIKE_ADAM = 0.2  # RMS of an update by its rate (Liu et al. 2025), so one rate fits both


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a config; its state counts the steps that were skipped.

    Raises: UserError: if config.optimizer.kind is neither adamw nor muon.
    """
    optimizer = config.optimizer
    if optimizer.kind not in KINDS:
        raise UserError(
            f"config.optimizer.kind is {optimizer.kind!r}; choose {' or '.join(KINDS)}."
        )
    inner = KINDS[optimizer.kind](optimizer, build_rate(config))
    return clip_or_skip(inner, optimizer.clip_norm)


def adamw(optimizer: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformation:
    """Loshchilov & Hutter 2019."""
    return optax.adamw(
        rate, optimizer.b1, optimizer.b2, weight_decay=optimizer.weight_decay
    )


def orthogonal(
    optimizer: ConfigDict, rate: optax.Schedule
) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the layers' weights, NAdamW for all else.

    A convolution's weights are one matrix, from all that a place sees to its outputs.
    """
    return muon(
        rate,
        ns_coeffs=NEWTON_SCHULZ,
        weight_decay=optimizer.weight_decay,
        adam_b1=optimizer.b1,
        adam_b2=optimizer.b2,
        adam_weight_decay=optimizer.weight_decay,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=LIKE_ADAM,
    )


def matrices(params: Any) -> Any:
    """Which axes of each array of params are a matrix's; None: it is none."""

    def axes(path, x):
        if path[-1] != jax.tree_util.DictKey(MATRIX) or x.ndim < 2:
            return None
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree.map_with_path(axes, params)


KINDS = {"adamw": adamw, "muon": orthogonal}


def build_rate(config: ConfigDict) -> optax.Schedule:
    """The learning rate by the number of steps that were done before.

    It rises linearly to learning_rate, then follows a cosine down to its fraction
    `final_fraction` at the last step (1.0: constant).
    """
    optimizer, num_steps = config.optimizer, config.train.num_steps
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optimizer.learning_rate,
        warmup_steps=optimizer.warmup_steps,
        decay_steps=max(num_steps, optimizer.warmup_steps + 1),
        end_value=optimizer.learning_rate * optimizer.final_fraction,
    )


def clip_or_skip(
    inner: optax.GradientTransformation, clip_norm: float
) -> optax.GradientTransformation:
    """Gradients scaled to at most a global norm; no update where theirs is not finite.

    What optax.apply_if_finite of a chain with optax.clip_by_global_norm does, with one
    look at each gradient instead of three, and no branch, across which XLA fuses
    nothing: on a CPU a fifth less to compile.
    """

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return optax.ApplyIfFiniteState(zero, jnp.array(True), zero, inner.init(params))

    def update(grads, state, params=None):
        norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(norm)
        scale = jnp.minimum(1.0, clip_norm / norm)
        clipped = jax.tree.map(lambda g: scale * g, grads)
        updates, inner_state = inner.update(clipped, state.inner_state, params)

        def or_else(new, old):
            return jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, old)

        counted = optax.ApplyIfFiniteState(
            notfinite_count=jnp.where(is_finite, 0, state.notfinite_count + 1),
            last_finite=is_finite,
            total_notfinite=state.total_notfinite + ~is_finite,
            inner_state=or_else(inner_state, state.inner_state),
        )
        return or_else(updates, optax.tree.zeros_like(updates)), counted

    return optax.GradientTransformation(init, update)
