"""The aggregated diffusion process, as plain DDPM algebra in a co-moving frame.

With d_t(X) the drift, u_t = z_t - d_t(X) is exactly a DDPM of z_0. So every formula
here is DDPM's: subtract the drift at t, step, add the drift at s (Theorem 2, which is
method.md, eq. 3 and 4, has s = t - 1).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mt_diffusion.diffusion.aggregation import Aggregation, Codes, combine, over
from mt_diffusion.diffusion.schedule import Schedule

Image = Float[Array, "b h w c"]
Table = Any  # a number per step: float64 numpy, or jax under a transformation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transition:
    """What a step from t down to s < t needs; every field has t's shape, [] or [B].

    Built in float64 by `Process.transition`; cast to the arrays' dtype at use.
    """

    t: Table
    signal_t: Table  # sqrt(alpha_bar_t)
    noise_t: Table  # sqrt(1 - alpha_bar_t)
    signal_s: Table
    noise_s: Table
    mean_z0: Table  # the posterior mean of u_s is mean_z0 z_0 + mean_u u_t,
    mean_u: Table
    variance: Table  # its variance (beta_tilde), 0 at s = 0,
    log_variance_min: Table  # its logarithm, that of the step before where s = 0,
    log_variance_max: Table  # and the logarithm of beta
    drift_t: Mapping[str, Table]
    drift_s: Mapping[str, Table]

    @property
    def log_snr_t(self) -> Array:
        """Half the log of the signal-to-noise ratio at t (DPM-Solver's lambda)."""
        return jnp.log(self.signal_t) - jnp.log(self.noise_t)

    @property
    def log_snr_s(self) -> Array:
        """The same at s; infinite at s = 0."""
        return jnp.log(self.signal_s) - jnp.log(self.noise_s)

    def to_comoving(self, z_t: Image, codes: Codes) -> Image:
        """u_t = z_t - d_t(X) (method.md, eq. 5)."""
        return z_t - combine(self.drift_t, codes)

    def from_comoving(self, u_s: Image, codes: Codes) -> Image:
        """z_s = u_s + d_s(X) (method.md, eq. 6)."""
        return u_s + combine(self.drift_s, codes)

    def at_start(self, u_t: Image, codes: Codes) -> Image:
        """z_t = u_t + d_t(X)."""
        return u_t + combine(self.drift_t, codes)

    def at_end(self, z_s: Image, codes: Codes) -> Image:
        """u_s = z_s - d_s(X)."""
        return z_s - combine(self.drift_s, codes)

    def z0_from_eps(self, u_t: Image, eps: Image) -> Image:
        """The z_0 that u_t and its noise eps imply."""
        scale = over(1 / self.signal_t, u_t)
        return scale * u_t - over(self.noise_t / self.signal_t, u_t) * eps

    def eps_from_z0(self, u_t: Image, z0: Image) -> Image:
        """The noise that u_t and its z_0 imply."""
        return (u_t - over(self.signal_t, u_t) * z0) / over(self.noise_t, u_t)

    def posterior_mean(self, u_t: Image, z0: Image) -> Image:
        """Mean of q(u_s | u_t, z_0); with the drift at s, of z_s (method.md, eq. 6)."""
        return over(self.mean_z0, u_t) * z0 + over(self.mean_u, u_t) * u_t

    def log_variance(self, v: Image) -> Image:
        """Learned range: v in [-1, 1] goes from beta_tilde to beta, geometrically."""
        low, high = over(self.log_variance_min, v), over(self.log_variance_max, v)
        return low + (v + 1) / 2 * (high - low)


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """q(z_1..z_T | z_0, X), the paper's forward aggregation (method.md, eq. 1)."""

    schedule: Schedule
    aggregation: Aggregation

    def diffuse(
        self, z0: Image, codes: Codes, t: Int[Array, " b"], eps: Image
    ) -> Image:
        """The z_t of q(z_t | z_0, X) that eps makes (method.md, eq. 3); t in 0..T."""
        mean, variance = self.marginal(z0, codes, t)
        return mean + jnp.sqrt(variance) * eps

    def marginal(
        self, z0: Image, codes: Codes, t: Int[Array, " b"]
    ) -> tuple[Image, Float[Array, "b 1 1 1"]]:
        """Mean and variance of q(z_t | z_0, X) (method.md, eq. 3); t [B] in 0..T."""
        signal = over(jnp.asarray(np.sqrt(self.schedule.alpha_bar))[t], z0)
        variance = over(jnp.asarray(1 - self.schedule.alpha_bar)[t], z0)
        return signal * z0 + self.aggregation.drift(codes, t), variance

    def transition(self, t: np.ndarray | int, s: np.ndarray | int) -> Transition:
        """Float64 tables for steps t -> s, elementwise; integers, 0 <= s < t <= T."""
        t, s = np.asarray(t), np.asarray(s)
        alpha_bar = self.schedule.alpha_bar
        variance, beta = self._variances(t, s)
        # Where s = 0 the posterior is a point; like ADM, the range then starts at the
        # variance of the step above it.
        above = np.minimum(t + 1, self.schedule.num_steps)
        floor, _ = self._variances(above, np.minimum(t, above - 1))
        widest = np.maximum(np.where(s == 0, floor, variance), 1e-30)
        return Transition(
            t=t,
            signal_t=np.sqrt(alpha_bar[t]),
            noise_t=np.sqrt(1 - alpha_bar[t]),
            signal_s=np.sqrt(alpha_bar[s]),
            noise_s=np.sqrt(1 - alpha_bar[s]),
            mean_z0=np.sqrt(alpha_bar[s]) * beta / (1 - alpha_bar[t]),
            mean_u=np.sqrt(1 - beta) * (1 - alpha_bar[s]) / (1 - alpha_bar[t]),
            variance=variance,
            log_variance_min=np.log(widest),
            log_variance_max=np.log(beta),
            drift_t={n: a[t] for n, a in self.aggregation.alpha_tilde.items()},
            drift_s={n: a[s] for n, a in self.aggregation.alpha_tilde.items()},
        )

    def adjacent(self, t: Int[Array, " b"]) -> Transition:
        """The transition t -> t - 1 for traced t [B] in 1..T."""
        times = np.arange(1, self.schedule.num_steps + 1)
        table = self.transition(times, times - 1)
        return jax.tree.map(lambda x: jnp.asarray(x)[t - 1], table)

    def _variances(self, t: Table, s: Table) -> tuple[Table, Table]:
        """Variance of q(u_s | u_t, z_0), and beta of the step s -> t."""
        alpha_bar = self.schedule.alpha_bar
        beta = 1 - alpha_bar[t] / alpha_bar[s]
        return beta * (1 - alpha_bar[s]) / (1 - alpha_bar[t]), beta
