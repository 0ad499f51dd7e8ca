"""Guidance: estimates of z_0 pushed further towards what is given.

Evaluations of the network are compared as the z_0 that each implies, for its outputs
may be of different frames.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.process import Image, Transition
from mt_diffusion.errors import UserError


def classifier_free(z0: Image, z0_null: Image, scale: float) -> Image:
    """Away from what the network says untold (Ho & Salimans 2022; method.md, eq. 36).

    scale: 1 leaves z_0 as it is, 0 is the unconditional z0_null.
    """
    return z0_null + scale * (z0 - z0_null)


def away(z0: Image, z0_weak: Image, scale: float) -> Image:
    """Further from a weaker model's (Karras et al. 2024; method.md, eq. 38).

    scale: 1 leaves z_0 as it is, 0 is the weaker model's.
    """
    return z0_weak + scale * (z0 - z0_weak)


def by_classifier(
    z0: Image,
    u_t: Image,
    step: Transition,
    log_prob: Callable[[Image], Float[Array, " b"]],
    scale: float,
) -> Image:
    """The z_0 of eps - scale sigma_t grad log p(x | u_t) (Dhariwal & Nichol 2021).

    method.md, eq. 37.

    log_prob: of the given value under a head that reads u_t, [B], in nats. step: of
    the same t, [] or [B].
    """
    score = jax.grad(lambda u: jnp.sum(log_prob(u)))(u_t)
    return z0 + scale * over(step.noise_t**2 / step.signal_t, z0) * score


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
