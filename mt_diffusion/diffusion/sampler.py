"""Sampling: z_T walked back to z_0 in one scan, with any modalities given.

Every sampler known for DDPM works in the co-moving frame: subtract the drift at t,
step, add the drift at s. A step is a function of u_t alone; `sample` does the rest.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mt_diffusion.diffusion.aggregation import Codes, over
from mt_diffusion.diffusion.process import Image, Process, Transition
from mt_diffusion.errors import UserError


class Point(NamedTuple):
    """Where a walk stands: the transition ahead, u_t, and the z_0 predicted there."""

    transition: Transition
    u_t: Image
    z0: Image


@runtime_checkable
class Step(Protocol):
    """One step of plain DDPM: u_s from where the walk stands and stood before.

    i: number of the step, from 0, where `before` means nothing. v: the variance's place
    in its range. noise: standard normal. All but i are [B, H, W, C].
    """

    def __call__(
        self, here: Point, before: Point, i: Any, v: Image, noise: Image
    ) -> Image: ...


def ancestral(here, before, i, v, noise):
    """Draws u_s ~ p(u_s | u_t); v puts its log variance between beta_tilde and beta."""
    transition, u_t, z0 = here
    scale = jnp.exp(0.5 * transition.log_variance(v)) * over(
        transition.noise_s > 0, u_t
    )
    return transition.posterior_mean(u_t, z0) + scale * noise


@dataclasses.dataclass(frozen=True)
class DDIM:
    """Song et al. 2021; eta = 0 is deterministic, eta = 1 has DDPM's variance."""

    eta: float

    def __call__(self, here, before, i, v, noise):
        transition, u_t, z0 = here
        eps = transition.eps_from_z0(u_t, z0)
        variance = self.eta**2 * transition.variance
        towards = jnp.sqrt(jnp.maximum(transition.noise_s**2 - variance, 0))
        mean = over(transition.signal_s, z0) * z0 + over(towards, eps) * eps
        return mean + over(jnp.sqrt(variance), noise) * noise


def exponential(start: Transition, end: Transition, u_t: Image, z0: Image) -> Image:
    """u_s, s the end's, from u_t at the start's t, were z_0 the same all the way.

    The first-order exponential integrator, which is DDIM (DPM-Solver++, eq. 8).
    """
    ratio = end.noise_s / start.noise_t
    return over(ratio, u_t) * u_t + over(end.signal_s - start.signal_t * ratio, z0) * z0


def multistep(here, before, i, v, noise):
    """DPM-Solver++(2M), Lu et al. 2022: the line through the last two z_0.

    First order in the first step and the last. The line is not followed further than
    it was drawn: in times even in t the last steps grow fast in log-SNR, and would
    overshoot. As these ratios tend to 1 with more steps, the order stays two.
    """
    now = here.transition
    ahead = now.log_snr_s - now.log_snr_t
    behind = now.log_snr_t - before.transition.log_snr_t
    ratio = jnp.minimum(ahead / behind, 1.0)
    slope = jnp.where((i > 0) & (now.noise_s > 0), ratio / 2, 0.0)
    z0 = here.z0 + over(slope, here.z0) * (here.z0 - before.z0)
    return exponential(now, now, here.u_t, z0)


def singlestep(here, before, i, v, noise):
    """DPM-Solver++(2S), Lu et al. 2022: every second step repeats two as one.

    Even steps are of first order and find the z_0 of the intermediate time; odd ones
    start again from the time before, with what z_0 was there and is here.
    """
    start, now = before.transition, here.transition
    whole = now.log_snr_s - start.log_snr_t
    half = now.log_snr_t - start.log_snr_t
    slope = jnp.where(now.noise_s > 0, whole / (2 * half), 1.0)
    z0 = before.z0 + over(slope, here.z0) * (here.z0 - before.z0)
    second = exponential(start, now, before.u_t, z0)
    return jnp.where(i % 2 == 1, second, exponential(now, now, here.u_t, here.z0))


STEPS = {
    "ancestral": lambda eta: ancestral,
    "ddim": DDIM,
    "dpmpp_2m": lambda eta: multistep,
    "dpmpp_2s": lambda eta: singlestep,
}


def build_step(name: str, eta: float) -> Step:
    """The step of that name. Raises UserError for one that does not exist."""
    if name not in STEPS:
        raise UserError(
            f"the sampler {name!r} does not exist; choose one of {list(STEPS)}."
        )
    return STEPS[name](eta)


def unclipped(z0: Image) -> Image:
    """For a space without bounds."""
    return z0


def static(z0: Image) -> Image:
    """Into the range of pixels, [-1, 1]."""
    return jnp.clip(z0, -1, 1)


def dynamic(z0: Image) -> Image:
    """Down to the 99.5th percentile of |z_0| where that is above 1 (Imagen)."""
    limit = jnp.quantile(jnp.abs(z0), 0.995, axis=(1, 2, 3), keepdims=True)
    limit = jnp.maximum(limit, 1.0)
    return jnp.clip(z0, -limit, limit) / limit


CLIPS = {"none": unclipped, "static": static, "dynamic": dynamic}


def build_clip(name: str) -> Callable[[Image], Image]:
    """How a predicted z_0 is clipped. Raises UserError for a way that there is not."""
    if name not in CLIPS:
        raise UserError(
            f"config.sampling.clip is {name!r}; choose one of {list(CLIPS)}."
        )
    return CLIPS[name]


class Denoised(NamedTuple):
    """What is known at z_t: z_0, v, all modalities, and the codes that drift it.

    guesses: what each modality that is generated is taken to be, kept for the next
    step. values: x_i as it is reported, where the walk ends here.
    """

    z0: Image
    v: Image
    values: dict[str, Array]
    guesses: dict[str, Array]
    codes: Codes


class Result(NamedTuple):
    """z_0 [B, H, W, C] and the modalities, given or as of the last step."""

    z0: Image
    values: dict[str, Array]


Denoise = Callable[[Image, Transition, Any, dict[str, Array]], Denoised]


def sample(
    keys: Key[Array, " b"],
    shape: tuple[int, int, int],
    denoise: Denoise,
    process: Process,
    times: np.ndarray,
    step: Step,
    restrict: Callable[[Image], Image],
    guesses: Mapping[str, Array] | None = None,
) -> Result:
    """Walks from noise at T back to z_0, one key per example [B].

    denoise: (z_t, the transition ahead, is it the first, guesses of the step before) ->
    Denoised. times: decreasing, from T to 0. restrict: brings a predicted z_0 back to
    what is possible, or known of it. guesses: arrays of the guesses' shapes, for the
    first step, which does not read them. An example depends on its own key and values
    alone, not on its batch.
    """
    transitions = jax.tree.map(jnp.asarray, process.transition(times[:-1], times[1:]))

    def noise(i: Array | int) -> Float[Array, "b h w c"]:
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, i), shape)  # noqa: E731
        return jax.vmap(draw)(keys)

    def body(carry: tuple, this: tuple[Array, Transition]):
        z_t, before, _, guesses = carry
        i, transition = this
        z0, v, values, guesses, codes = denoise(z_t, transition, i == 0, guesses)
        u_t = transition.to_comoving(z_t, codes)
        here = Point(transition, u_t, restrict(z0))
        u_s = step(here, before, i, v, noise(transition.t))
        return (transition.from_comoving(u_s, codes), here, values, guesses), None

    z_T, start = noise(0), dict(guesses or {})
    first = jax.tree.map(lambda x: x[0], transitions)
    shapes = jax.eval_shape(lambda: denoise(z_T, first, jnp.array(True), start).values)
    no_values = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    carry = (z_T, Point(first, z_T, z_T), no_values, start)
    steps = (jnp.arange(len(times) - 1), transitions)
    (z0, _, values, _), _ = jax.lax.scan(body, carry, steps)
    return Result(restrict(z0), values)
