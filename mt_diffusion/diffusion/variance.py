"""The reverse variance of a network that learns none: fixed, or measured.

Of all isotropic variances the one that is best for L1 at a step t -> s is
beta_tilde + E|mu_tilde - mu_theta|^2 / D. The difference of means has two parts, that
of z_0 and that of each guess (method.md, eq. 27 and 31); without a modality this is
Analytic-DPM (Bao et al. 2022), whose estimate has the first alone.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mt_diffusion.diffusion.process import Process, Transition
from mt_diffusion.diffusion.spacing import half_log_snr
from mt_diffusion.errors import UserError

MEASURED = "measured"
FIXED = {"beta_tilde": -1.0, "beta": 1.0}  # places v in the range of a learned one
Z_0 = ""  # the name of z_0 among those of modalities


def check(word: str) -> None:
    """Raises UserError for a variance that there is not."""
    if word not in (MEASURED, *FIXED):
        raise UserError(
            f"config.sampling.variance is {word!r}; choose one of {[MEASURED, *FIXED]}."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Errors:
    """Second moments of what a model gets wrong, of z_0 and of each code.

    names: of the rows, Z_0 first. times: [G], rising. moments: [G, R, R], the means
    over pixels and examples of products of two errors.
    """

    names: tuple[str, ...]
    times: np.ndarray
    moments: np.ndarray

    def variance(
        self, process: Process, step: Transition, known: Collection[str] = ()
    ) -> np.ndarray:
        """The best variance of steps t -> s, [S]; step: float64 tables of them.

        known: modalities whose codes are given, and so are right.
        """
        of_code = lambda n: step.drift_s[n] - step.mean_u * step.drift_t[n]  # noqa: E731
        none = np.zeros_like(step.mean_z0)
        weights = [
            step.mean_z0 if n == Z_0 else none if n in known else of_code(n)
            for n in self.names
        ]
        moments = self._at(process, step.t)
        error = np.einsum("rs,srq,qs->s", np.stack(weights), moments, np.stack(weights))
        return step.variance + error

    def _at(self, process: Process, t: np.ndarray) -> np.ndarray:
        """Moments at times [S]: a line between neighbours in log-SNR.

        Of errors over the noise-to-signal ratio, which change little with t.
        """
        half = half_log_snr(process.schedule)
        scaled = self.moments * np.exp(2 * half[self.times])[:, None, None]
        flat = scaled.reshape(len(self.times), -1)
        found = [np.interp(-half[t], -half[self.times], column) for column in flat.T]
        found = np.stack(found, axis=-1) * np.exp(-2 * half[t])[:, None]
        return found.reshape(len(t), *self.moments.shape[1:])

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "names": list(self.names),
            "times": self.times.tolist(),
            "moments": self.moments.tolist(),
        }

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> "Errors":
        """From a file; KeyError, TypeError or ValueError for what is none."""
        names, times = tuple(stored["names"]), np.asarray(stored["times"], int)
        moments = np.asarray(stored["moments"], np.float64)
        if moments.shape != (len(times), len(names), len(names)):
            raise ValueError(f"moments of shape {moments.shape}")
        if not np.isfinite(moments).all():
            raise ValueError("moments that are not finite")
        return cls(names, times, moments)


def places(
    word: str,
    errors: Errors | None,
    process: Process,
    times: np.ndarray,
    known: Collection[str] = (),
) -> np.ndarray:
    """The v of a walk's steps by t, [T + 1]; 0 where it does not come.

    times: decreasing, to 0. errors: None where none were measured, which leaves
    beta_tilde.
    """
    found = np.zeros(process.schedule.num_steps + 1)
    if word != MEASURED or errors is None:
        found[times[:-1]] = FIXED.get(word, FIXED["beta_tilde"])
        return found
    step = process.transition(times[:-1], times[1:])
    low, high = step.log_variance_min, step.log_variance_max
    log_variance = np.log(errors.variance(process, step, known))
    found[times[:-1]] = 2 * (log_variance - low) / (high - low) - 1
    return found
