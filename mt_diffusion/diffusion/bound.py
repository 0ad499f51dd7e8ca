"""Bounds on the likelihood: the terms of Theorem 1 and what they add up to.

Everything is in nats per example, [B], and an expectation over q(z_t | z_0, X), drawn
once for each t. The terms are those of the paper's Theorem 1 (method.md, eq. 26).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from mt_diffusion.diffusion import likelihood
from mt_diffusion.diffusion.aggregation import Codes
from mt_diffusion.diffusion.process import Image, Process, Transition

Nats = Float[Array, " b"]
LogProb = Callable[[Array, Array, Array], Array]  # of x, mean, log variance
Restrict = Callable[[Image], Image]


class Reading(NamedTuple):
    """What p_theta(z_{t-1} | z_t) is made of: z_0, v, and codes E_i of each x_i.

    The codes are of the model's own guesses of x_i, or of x_i where it is known.
    """

    z0: Image
    v: Image
    codes: Codes


class Belief(NamedTuple):
    """What a model says of z_t: knowing z_t alone, and knowing X as well.

    nll: {modality: -log p_theta(x_i | z_t)} in nats [B].
    """

    joint: Reading
    conditional: Reading
    nll: Mapping[str, Nats]


class Terms(NamedTuple):
    """Terms of one t, [B], or of several, [S, B], in nats: of z and each modality."""

    joint: Float[Array, "*s b"]
    conditional: Float[Array, "*s b"]
    nll: Mapping[str, Float[Array, "*s b"]]


class Bounds(NamedTuple):
    """All terms in nats [B]; L2: summed over t >= 1, nll: its term that counts."""

    L0: Nats
    L0_conditional: Nats
    L1: Nats
    L3: Nats
    L1_conditional: Nats
    L3_conditional: Nats
    L2: Mapping[str, Nats]
    nll: Mapping[str, Nats]

    @property
    def image(self) -> Nats:
        """L0 + L1 + L3, the share of z_0 in both bounds on the joint."""
        return self.L0 + self.L1 + self.L3

    @property
    def paper_elbo(self) -> Nats:
        """Theorem 1 (method.md, eq. 26): every modality at every t, no likelihood."""
        return self.image + sum(self.L2.values())

    @property
    def joint_nll_bound(self) -> Nats:
        """At least -log p_theta(z_0, X); every modality once (method.md, eq. 28, 29).

        At T, where the model draws it first and keeps it; else at t = 1. There even a
        perfect network leaves a gap, I(z_0; X | z_1) and the I(z_t; X | z_{t-1}) of all
        t > 1: q drifts every step by one X, p_theta guesses X anew at each.
        """
        return self.image + sum(self.nll.values())

    @property
    def conditional_bound(self) -> Nats:
        """At least -log p_theta(z_0 | X) (method.md, eq. 30)."""
        return self.L0_conditional + self.L1_conditional + self.L3_conditional


def estimate(
    keys: Key[Array, " b"],
    z0: Image,
    codes: Codes,
    read: Callable[[Image, Array], Belief],
    process: Process,
    num_times: int,
    log_prob: LogProb,
    restrict: Restrict,
    held: Sequence[str] = (),
) -> Bounds:
    """All terms of examples z_0 with codes E_i(x_i), zero where x_i is missing.

    read: (z_t, t [B]) -> Belief. num_times: into so many equal strata, 1 to T - 1, the
    times 2..T are divided, with one t drawn in each; T - 1 takes all of them, fewer
    leave the sums unbiased. t = 1 always counts. log_prob: of p(z_0 | z_1),
    elementwise. restrict: clips the z_0 that the model predicts. The noise of t is
    drawn from fold_in(key, t).
    held: modalities that the model draws first, from p(x | z_T), and keeps: their nats
    are those at T. `read` has to give their true codes.
    """
    num_steps = process.schedule.num_steps

    def draw_noise(key: Array, t: Array) -> Array:
        key = jax.random.fold_in(key, t)
        return jax.random.normal(key, z0.shape[1:], z0.dtype)

    def draw_time(key: Array, first: Array, size: Array) -> Array:
        key = jax.random.fold_in(key, num_steps + first)
        return jax.random.randint(key, (), first, first + size)

    def sample_terms(stratum: tuple[Array, Array]) -> Terms:
        first, size = stratum
        t = jax.vmap(draw_time, (0, None, None))(keys, first, size)
        noise = jax.vmap(draw_noise)(keys, t)
        found = terms(t, noise, z0, codes, read, process, log_prob, restrict)
        return jax.tree.map(lambda x: size * x, found)

    found = jax.lax.map(sample_terms, strata(num_steps, num_times))
    bounds = collect(prior_kl(process, z0, codes), found)
    if not held:
        return bounds
    last = jnp.full(len(z0), num_steps)
    z_T = process.diffuse(z0, codes, last, jax.vmap(draw_noise)(keys, last))
    first = read(z_T, last).nll
    return bounds._replace(nll={**bounds.nll, **{name: first[name] for name in held}})


def collect(L0: Nats, found: Terms) -> Bounds:
    """All terms under their names, of those of t = 1 and others, [S, B]."""
    end = jax.tree.map(lambda x: x[0], found)
    rest = jax.tree.map(lambda x: jnp.sum(x[1:], axis=0), found)
    return Bounds(
        L0=L0,
        L0_conditional=L0,
        L1=rest.joint,
        L3=end.joint,
        L1_conditional=rest.conditional,
        L3_conditional=end.conditional,
        L2={name: end.nll[name] + rest.nll[name] for name in end.nll},
        nll=end.nll,
    )


def strata(num_steps: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """First time and size, each [1 + num], of t = 1 and of `num` even parts of 2..T."""
    edges = 2 + np.arange(num + 1) * (num_steps - 1) // max(num, 1)
    return np.append(1, edges[:-1]), np.append(1, np.diff(edges))


def terms(
    t: Int[Array, " b"],
    noise: Image,
    z0: Image,
    codes: Codes,
    read: Callable[[Image, Array], Belief],
    process: Process,
    log_prob: LogProb,
    restrict: Restrict,
) -> Terms:
    """Terms of L1, or L3 at t = 1, and of L2 at the z_t that `noise` makes of z_0."""
    z_t = process.diffuse(z0, codes, t, noise)
    belief, step = read(z_t, t), process.adjacent(t)
    return Terms(
        step_nats(step, z_t, z0, codes, belief.joint, log_prob, restrict),
        step_nats(step, z_t, z0, codes, belief.conditional, log_prob, restrict),
        belief.nll,
    )


def step_nats(
    step: Transition,
    z_t: Image,
    z0: Image,
    codes: Codes,
    reading: Reading,
    log_prob: LogProb,
    restrict: Restrict,
) -> Nats:
    """KL(q(z_{t-1} | z_t, z_0, X) || p_theta(z_{t-1} | z_t)); at t = 1 L3."""
    mean, log_variance = reverse(step, z_t, reading, restrict)
    true_mean = _mean(step, z_t, z0, codes)
    true_log_variance = step.log_variance(-jnp.ones_like(z_t))
    kl = likelihood.gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    nll = -log_prob(z0, mean, log_variance)
    at_end = jnp.asarray(step.t == 1).reshape(-1, 1, 1, 1)
    return jnp.sum(jnp.where(at_end, nll, kl), axis=(1, 2, 3))


def reverse(
    step: Transition, z_t: Image, reading: Reading, restrict: Restrict
) -> tuple[Image, Image]:
    """Mean and log variance of p_theta(z_{t-1} | z_t), its z_0 restricted."""
    z0 = restrict(reading.z0)
    return _mean(step, z_t, z0, reading.codes), step.log_variance(reading.v)


def _mean(step: Transition, z_t: Image, z0: Image, codes: Codes) -> Image:
    u_t = step.to_comoving(z_t, codes)
    return step.from_comoving(step.posterior_mean(u_t, z0), codes)


def prior_kl(process: Process, z0: Image, codes: Codes) -> Nats:
    """L0 = KL(q(z_T | z_0, X) || N(0, I))."""
    t = jnp.full(len(z0), process.schedule.num_steps)
    mean, variance = process.marginal(z0, codes, t)
    zeros = jnp.zeros_like(mean)
    kl = likelihood.gaussian_kl(mean, zeros + jnp.log(variance), zeros, zeros)
    return jnp.sum(kl, axis=(1, 2, 3))


def bits_per_dim(nats: Nats, shape: tuple[int, ...]) -> Nats:
    """Nats of an example of that shape, [B], in bits per dimension."""
    return nats / (np.prod(shape) * np.log(2.0))


def variational_bound(
    step: Transition, z_t: Image, z0: Image, predicted: Image, v: Image, codes: Codes
) -> Nats:
    """ADM's vb term, in bits per dimension [B]: `step_nats` where X is known.

    predicted: the model's z_0. Unclipped, as in training.
    """
    reading = Reading(predicted, v, codes)
    nats = step_nats(
        step, z_t, z0, codes, reading, likelihood.discretised, lambda z0: z0
    )
    return bits_per_dim(nats, z0.shape[1:])
