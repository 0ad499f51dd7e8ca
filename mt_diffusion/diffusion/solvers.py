"""Solvers: one step of a walk from t down to s, in the co-moving frame.

Every sampler known for DDPM works there: subtract the drift at t, step, add the drift
at s. What a walk was at an earlier time is put into the frame of the codes in use now,
for it stood there before these were known.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mt_diffusion.diffusion.aggregation import Codes, over
from mt_diffusion.diffusion.process import Image, Transition
from mt_diffusion.errors import UserError

# How much longer than the step before, in log-SNR, a step of 2M may be to follow its
# line all the way. Steps even in log-SNR are below; those even in t overshoot at the
# end: error of the flow in 10 steps, linear schedule, 0.53 with 2 and 0.59 with 1.
FURTHEST = 2.0

# Gauss and Legendre's places and weights on [0, 1].
PLACES, WEIGHTS = (0.5 * x for x in np.polynomial.legendre.leggauss(5))
PLACES += 0.5


class Point(NamedTuple):
    """Where a walk stands: the transition ahead, z_t, and z_0 and codes as seen there.

    codes: those that drift z_t, whether given, drawn or expected. before: where it
    stood one step earlier, of a walk whose step looks back two.
    """

    transition: Transition
    z_t: Image
    z0: Image
    codes: Codes
    before: "Point | None" = None

    def comoving(self, codes: Codes) -> Image:
        """u_t, were these the codes."""
        return self.transition.to_comoving(self.z_t, codes)


@runtime_checkable
class Step(Protocol):
    """z_s from where the walk stands and stood before.

    i: number of the step, from 0, where `before` means nothing. v: the variance's place
    in its range. noise: standard normal. All but i are [B, H, W, C]. soft: modalities
    whose codes are expectations, which change smoothly; all others are values.
    """

    def __call__(
        self,
        here: Point,
        before: Point,
        i: Any,
        v: Image,
        noise: Image,
        soft: Collection[str] = (),
    ) -> Image: ...


Correct = Callable[[Point, Point, Any, Collection[str]], Point]


def corrector(step: Step) -> Correct | None:
    """How a step mends where it led, once the network has been there; None for not."""
    return getattr(step, "correct", None)


def ancestral(here, before, i, v, noise, soft=()):
    """Draws u_s ~ p(u_s | u_t); v puts its log variance between beta_tilde and beta."""
    transition, u_t = here.transition, here.comoving(here.codes)
    scale = jnp.exp(0.5 * transition.log_variance(v)) * over(
        transition.noise_s > 0, u_t
    )
    u_s = transition.posterior_mean(u_t, here.z0) + scale * noise
    return transition.from_comoving(u_s, here.codes)


@dataclasses.dataclass(frozen=True)
class DDIM:
    """Song et al. 2021 (method.md, eq. 32); eta = 1: DDPM's variance, 0: none."""

    eta: float

    def __call__(self, here, before, i, v, noise, soft=()):
        transition, z0 = here.transition, here.z0
        eps = transition.eps_from_z0(here.comoving(here.codes), z0)
        variance = self.eta**2 * transition.variance
        towards = jnp.sqrt(jnp.maximum(transition.noise_s**2 - variance, 0))
        mean = over(transition.signal_s, z0) * z0 + over(towards, eps) * eps
        u_s = mean + over(jnp.sqrt(variance), noise) * noise
        return transition.from_comoving(u_s, here.codes)


def exponential(start: Transition, end: Transition, u_t: Image, z0: Image) -> Image:
    """u_s, s the end's, from u_t at the start's t, were z_0 the same all the way.

    The first-order exponential integrator, which is DDIM (method.md, eq. 33).
    """
    ratio = end.noise_s / start.noise_t
    return over(ratio, u_t) * u_t + over(end.signal_s - start.signal_t * ratio, z0) * z0


def on_line(
    start: Point, end: Point, place: Array, soft: Collection[str]
) -> tuple[Image, Codes]:
    """z_0 and codes on the line through two points, `place` 0 at start and 1 at end.

    Codes of values are the start's: between two values there is none.
    """
    z0 = start.z0 + over(place, start.z0) * (end.z0 - start.z0)
    moved = {
        n: code + over(place, code) * (end.codes[n] - code)
        for n, code in start.codes.items()
        if n in soft
    }
    return z0, dict(start.codes) | moved


def ahead_of(here: Point, before: Point, i: Any, soft: Collection[str]) -> Point:
    """`here`, with z_0 and codes half a step further on the line of two points.

    As they are in the first step and the last.
    """
    now = here.transition
    ahead = now.log_snr_s - now.log_snr_t
    behind = now.log_snr_t - before.transition.log_snr_t
    ratio = jnp.minimum(ahead / behind, FURTHEST)
    slope = jnp.where((i > 0) & (now.noise_s > 0), ratio / 2, 0.0)
    z0, codes = on_line(here, before, -slope, soft)
    return here._replace(z0=z0, codes=codes)


def multistep(here, before, i, v, noise, soft=()):
    """DPM-Solver++(2M), Lu et al. 2022: the line of two z_0 (method.md, eq. 34).

    First order in the first step and the last.
    """
    now, seen = here.transition, ahead_of(here, before, i, soft)
    u_s = exponential(now, now, here.comoving(seen.codes), seen.z0)
    return now.from_comoving(u_s, seen.codes)


def stochastic_multistep(here, before, i, v, noise, soft=()):
    """SDE-DPM-Solver++(2M), Lu et al. 2022: an ancestral step to the z_0 of 2M.

    That of 2M is eq. 34 of method.md. Were z_0 the same all the way, an ancestral step
    with variance beta_tilde would solve the reverse SDE, as `exponential` the flow; so
    that is its variance, whatever is measured or learned.
    """
    beta_tilde = jnp.full_like(v, -1)
    return ancestral(ahead_of(here, before, i, soft), before, i, beta_tilde, noise)


def singlestep(here, before, i, v, noise, soft=()):
    """DPM-Solver++(2S), Lu et al. 2022: every second step repeats two as one.

    Even steps are of first order and find what is seen at the intermediate time; odd
    ones start again from the time before, with what was seen there and is here.
    """
    start, now = before.transition, here.transition
    whole = now.log_snr_s - start.log_snr_t
    half = now.log_snr_t - start.log_snr_t
    slope = jnp.where(now.noise_s > 0, whole / (2 * half), 1.0)
    z0, codes = on_line(before, here, slope, soft)
    second = exponential(start, now, before.comoving(codes), z0)
    second = now.from_comoving(second, codes)
    first = exponential(now, now, here.comoving(here.codes), here.z0)
    return jnp.where(i % 2 == 1, second, now.from_comoving(first, here.codes))


class UniPC:
    """UniPC of order 2, Zhao et al. 2023: 2M's steps, each mended once its end is seen.

    What the network says at the end of a step serves the next one, and before that it
    takes this one again, along the parabola of three z_0 (method.md, after eq. 34):
    so the walk is of third order in z_0, with no evaluation more.
    """

    looks_back = 2

    def __call__(self, here, before, i, v, noise, soft=()):
        return multistep(here, before, i, v, noise, soft)

    def correct(self, here: Point, before: Point, i: Any, soft: Collection[str]):
        """`here`, where z_t had led had the step to it known what is seen there.

        By the line of two z_0 after the first step, and as it is before that.
        """
        start, earlier = before.transition, before.before or before
        length = start.log_snr_s - start.log_snr_t
        behind = earlier.transition.log_snr_t - start.log_snr_t
        place = jnp.where(i > 1, behind / length, -1.0)
        mean, mean_square = means_of_step(length)
        # Shares of the z_0 here and earlier in the parabola's mean; the rest is before.
        bend = (mean_square - mean) / (1 - place)
        of_earlier = jnp.where(i > 1, -bend / place, 0.0)
        of_here = mean + jnp.where(i > 1, bend, 0.0)
        z0, codes = on_line(before, here, of_here, soft)
        z0 += over(of_earlier, z0) * (earlier.z0 - before.z0)
        bent = dict(codes)
        for n in codes.keys() & set(soft):
            change = earlier.codes[n] - before.codes[n]
            bent[n] += over(of_earlier, change) * change
        u_t = exponential(start, start, before.comoving(bent), z0)
        mended = start.from_comoving(u_t, bent)
        return here._replace(z_t=jnp.where(i > 0, mended, here.z_t))


def means_of_step(length: Array) -> tuple[Array, Array]:
    """The means of x and x^2 over a step of that log-SNR, as the flow weighs places.

    x: 0 at its start, 1 at its end. By five places, for the closed forms lose all
    digits where steps are short.
    """
    weights = [
        w * jnp.exp(length * (x - 1)) for x, w in zip(PLACES, WEIGHTS, strict=True)
    ]
    total = sum(weights)
    first, second = (
        sum(w * x**n for x, w in zip(PLACES, weights, strict=True)) / total
        for n in (1, 2)
    )
    return first, second


STEPS: dict[str, Callable[[float], Step]] = {
    "ancestral": lambda eta: ancestral,
    "ddim": DDIM,
    "dpmpp_2m": lambda eta: multistep,
    "dpmpp_2m_sde": lambda eta: stochastic_multistep,
    "dpmpp_2s": lambda eta: singlestep,
    "unipc": lambda eta: UniPC(),
}
# What each step needs of its times to be as accurate as it can; see spacing.py.
SPACING = {
    "ancestral": "even",
    "ddim": "even",
    "dpmpp_2m": "log_snr",
    "dpmpp_2m_sde": "log_snr",
    "dpmpp_2s": "log_snr",
    "unipc": "log_snr",
}
REPEATABLE = ("ancestral", "ddim")  # the others read where the walk was before


def build_step(name: str, eta: float) -> Step:
    """The step of that name. Raises UserError for one that does not exist."""
    if name not in STEPS:
        raise UserError(
            f"the sampler {name!r} does not exist; choose one of {list(STEPS)}."
        )
    return STEPS[name](eta)
