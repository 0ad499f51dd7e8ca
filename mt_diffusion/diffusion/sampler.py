"""Sampling: z_T walked back to z_0 in one scan, with any modalities given.

Every sampler known for DDPM works in the co-moving frame: subtract the drift at t,
step, add the drift at s. A step is a function of u_t alone; `sample` does the rest.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mt_diffusion.diffusion.aggregation import Codes, over
from mt_diffusion.diffusion.process import Image, Process, Transition
from mt_diffusion.errors import UserError


@runtime_checkable
class Step(Protocol):
    """One step of plain DDPM: u_s from u_t, its z_0, its v, and noise [B, H, W, C]."""

    def __call__(
        self, transition: Transition, u_t: Image, z0: Image, v: Image, noise: Image
    ) -> Image: ...


def ancestral(transition, u_t, z0, v, noise):
    """Draws u_s ~ p(u_s | u_t); v puts its log variance between beta_tilde and beta."""
    scale = jnp.exp(0.5 * transition.log_variance(v)) * over(
        transition.noise_s > 0, u_t
    )
    return transition.posterior_mean(u_t, z0) + scale * noise


@dataclasses.dataclass(frozen=True)
class DDIM:
    """Song et al. 2021; eta = 0 is deterministic, eta = 1 has DDPM's variance."""

    eta: float

    def __call__(self, transition, u_t, z0, v, noise):
        eps = transition.eps_from_z0(u_t, z0)
        variance = self.eta**2 * transition.variance
        towards = jnp.sqrt(jnp.maximum(transition.noise_s**2 - variance, 0))
        mean = over(transition.signal_s, z0) * z0 + over(towards, eps) * eps
        return mean + over(jnp.sqrt(variance), noise) * noise


STEPS = {"ancestral": lambda eta: ancestral, "ddim": DDIM}


def build_step(name: str, eta: float) -> Step:
    """The step of that name. Raises UserError for one that does not exist."""
    if name not in STEPS:
        raise UserError(
            f"the sampler {name!r} does not exist; choose one of {list(STEPS)}."
        )
    return STEPS[name](eta)


class Denoised(NamedTuple):
    """What is known at z_t: its noise, v, all modalities, and their codes.

    values: x_i where it is given, else the mean of p(x_i | z_t).
    """

    eps: Image
    v: Image
    values: dict[str, Array]
    codes: Codes


class Result(NamedTuple):
    """z_0 [B, H, W, C] and the modalities, given or read at the last step."""

    z0: Image
    values: dict[str, Array]


def sample(
    keys: Key[Array, " b"],
    shape: tuple[int, int, int],
    denoise: Callable[[Image, Array], Denoised],
    process: Process,
    times: np.ndarray,
    step: Step,
    restrict: Callable[[Image], Image],
) -> Result:
    """Walks from noise at T back to z_0 (METHOD section 6), one key per example [B].

    denoise: (z_t, t [B]) -> Denoised. times: decreasing, from T to 0. restrict: brings
    a predicted z_0 back to what is possible, or known of it. An example depends on its
    own key and values alone, not on its batch.
    """
    transitions = jax.tree.map(jnp.asarray, process.transition(times[:-1], times[1:]))

    def noise(i: Array | int) -> Float[Array, "b h w c"]:
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, i), shape)  # noqa: E731
        return jax.vmap(draw)(keys)

    def body(carry: tuple[Image, Any], transition: Transition):
        z_t, _ = carry
        eps, v, values, codes = denoise(z_t, jnp.full(z_t.shape[0], transition.t))
        u_t = transition.to_comoving(z_t, codes)
        z0 = restrict(transition.z0_from_eps(u_t, eps))
        u_s = step(transition, u_t, z0, v, noise(transition.t))
        return (transition.from_comoving(u_s, codes), values), None

    z_T, t = noise(0), jnp.full(keys.shape[0], times[0])
    shapes = jax.eval_shape(lambda: denoise(z_T, t).values)
    no_values = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (z0, values), _ = jax.lax.scan(body, (z_T, no_values), transitions)
    return Result(restrict(z0), values)
