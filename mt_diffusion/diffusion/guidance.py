"""Guidance: noise predictions pushed further towards what is given."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.process import Image
from mt_diffusion.errors import UserError


def classifier_free(eps: Image, eps_null: Image, scale: float) -> Image:
    """Away from what the network says without its condition (Ho & Salimans 2022).

    scale: 1 leaves eps as it is, 0 is the unconditional eps_null.
    """
    return eps_null + scale * (eps - eps_null)


def by_classifier(
    eps: Image,
    u_t: Image,
    noise_t: ArrayLike,
    log_prob: Callable[[Image], Float[Array, " b"]],
    scale: float,
) -> Image:
    """Eps - scale sqrt(1 - alpha_bar_t) grad log p(x | u_t) (Dhariwal & Nichol 2021).

    log_prob: of the given value under a head that reads u_t, [B], in nats. noise_t:
    sqrt(1 - alpha_bar_t), [] or [B].
    """
    score = jax.grad(lambda u: jnp.sum(log_prob(u)))(u_t)
    return eps - scale * over(noise_t, eps) * score


def check_interval(interval: Sequence[float], where: str) -> None:
    """Raises UserError unless these are two shares of T, the lower first."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise UserError(
            f"{where} is {interval}; give two shares of T from 0 to 1, the lower "
            "first, such as 0.1,0.8."
        )


def within(t: Array, interval: Sequence[float], num_steps: int) -> Array:
    """Whether t / T lies in the interval (Kynkaanniemi et al. 2024)."""
    low, high = interval
    return (low * num_steps <= t) & (t <= high * num_steps)
