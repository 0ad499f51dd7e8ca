"""One training step, a pure function of state, batch and key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion.diffusion import objective
from mt_diffusion.experiment import Experiment
from mt_diffusion.modalities.base import Batch
from mt_diffusion.training.state import TrainState

Step = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, dict[str, Array]]]


def ema(average: Any, params: Any, step: Array, decay: float) -> Any:
    """Exponential moving average after `step` steps, with a decay that warms up.

    The decay after n steps is at most (1 + n) / (10 + n).
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)


def build_step(
    config: ConfigDict, experiment: Experiment, optimizer: optax.GradientTransformation
) -> Step:
    """The training step of a config; jit it with its state donated."""

    def loss(params, batch, key):
        weight = config.train.variance_weight
        return objective.loss(key, batch, experiment, params, weight, False)

    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        (_, terms), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, batch, key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        average = ema(state.ema_params, params, step, config.train.ema_decay)
        terms |= {
            "grad_norm": optax.tree.norm(grads),
            "skipped_in_a_row": opt_state.notfinite_count,
            "skipped": opt_state.total_notfinite,
        }
        return TrainState(step, params, average, opt_state), terms

    return train_step
