"""What a trained model gets wrong at each t, and what follows for its walk.

A bias of the network's noise that costs nothing in training is divided by
sqrt(alpha_bar_t) in z_0, so at high noise z_0 may be too bright, say, in all images.
The best affine reading of it, m + k_t (z_0 - b_t), with b_t its mean, m that of the
data, k_t the regression's slope, is known once both are measured on training data.

Of a network that learns no variance: of all isotropic ones the best for L1 at a step
t -> s is beta_tilde + E|mu_tilde - mu_theta|^2 / D. The difference of means has two
parts, that of z_0 and that of each guess; without a modality this is Analytic-DPM (Bao
et al. 2022), whose estimate has the first alone.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mt_diffusion.diffusion.process import Process, Transition
from mt_diffusion.diffusion.spacing import half_log_snr
from mt_diffusion.errors import UserError

MEASURED, NONE = "measured", "none"
FIXED = {"beta_tilde": -1.0, "beta": 1.0}  # places v in the range of a learned one
OF_STEPS, OF_BOUNDS = "beta_tilde", MEASURED  # where none is named
Z_0 = ""  # the name of z_0 among those of modalities


def check(variance: str, correction: str) -> None:
    """Raises UserError for a variance or a correction that there is not."""
    if variance not in ("", MEASURED, *FIXED):
        raise UserError(
            f"config.sampling.variance is {variance!r}; choose one of "
            f"{[MEASURED, *FIXED]}, or '' for {OF_STEPS} of steps and {OF_BOUNDS} of "
            "bounds."
        )
    if correction not in (MEASURED, NONE):
        raise UserError(
            f"config.sampling.correction is {correction!r}; choose one of "
            f"{[MEASURED, NONE]}."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Errors:
    """Second moments of what a model gets wrong, of z_0 and of each code.

    names: of the rows, Z_0 first. times: [G], rising. moments: [G, R, R], the means
    over pixels and examples of products of two errors. slopes: k_t, [G]. means: b_t,
    [G, H, W, C]. mean: m, [H, W, C]. Where nothing is corrected the last three say so.
    """

    names: tuple[str, ...]
    times: np.ndarray
    moments: np.ndarray
    slopes: np.ndarray
    means: np.ndarray
    mean: np.ndarray

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
        half = half_log_snr(process.schedule)
        # Errors over the noise-to-signal ratio change little with t.
        scale = np.exp(2 * half[self.times])
        moments = self._between(process, step.t, self.moments, scale)
        moments = moments * np.exp(-2 * half[step.t])[:, None, None]
        error = np.einsum("rs,srq,qs->s", np.stack(weights), moments, np.stack(weights))
        return step.variance + error

    def slopes_at(self, process: Process, t: np.ndarray) -> np.ndarray:
        """k_t at times [S]."""
        return self._between(process, t, self.slopes)

    def places_at(self, process: Process, t: np.ndarray) -> np.ndarray:
        """Where times [S] lie among those measured, [S]: 1.5 between the second two."""
        half = half_log_snr(process.schedule)
        return np.interp(-half[t], -half[self.times], np.arange(len(self.times)))

    def _between(self, process, t, table, scale=None) -> np.ndarray:
        """A table [G, ...] at times [S]: a line between neighbours in log-SNR."""
        flat = table.reshape(len(self.times), -1)
        if scale is not None:
            flat = flat * scale[:, None]
        place = self.places_at(process, t)
        low = place.astype(int)
        high, share = np.minimum(low + 1, len(self.times) - 1), (place - low)[:, None]
        found = (1 - share) * flat[low] + share * flat[high]
        return found.reshape(len(t), *table.shape[1:])

    def as_arrays(self) -> dict[str, np.ndarray]:
        """For a file."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"names": np.array(self.names)}

    @classmethod
    def of_arrays(cls, stored: Mapping[str, np.ndarray]) -> "Errors":
        """From a file; KeyError or ValueError for what is none."""
        found: dict[str, Any] = {
            f.name: stored[f.name] for f in dataclasses.fields(cls)
        }
        found["names"] = tuple(map(str, found["names"]))
        errors, rows = cls(**found), len(found["names"])
        if errors.moments.shape != (len(errors.times), rows, rows):
            raise ValueError(f"moments of shape {errors.moments.shape}")
        if errors.means.shape != (len(errors.times), *errors.mean.shape):
            raise ValueError(f"means of shape {errors.means.shape}")
        numbers = (errors.moments, errors.slopes, errors.means, errors.mean)
        if not all(np.isfinite(x).all() for x in numbers):
            raise ValueError("numbers that are not finite")
        return errors


def regressed(
    names: tuple[str, ...],
    times: np.ndarray,
    products: np.ndarray,
    means: np.ndarray,
    correct: bool,
) -> Errors:
    """Errors from what was summed up of rows (data's z_0, model's z_0, codes' errors).

    products: [G, R + 1, R + 1], means over pixels and examples. means: [G, R + 1, H, W,
    C], over examples. correct: whether z_0 is read anew.
    """
    data, model = means[:, 0], means[:, 1]
    flat = means.reshape(*means.shape[:2], -1)
    centred = products - np.einsum("gad,gbd->gab", flat, flat) / flat.shape[-1]
    slopes = centred[:, 0, 1] / np.maximum(centred[:, 1, 1], 1e-12)
    if not correct:
        slopes = np.ones(len(times))
        model, data = np.zeros_like(model), np.zeros_like(data)
    # The error of z_0 is one row of this, and has no mean where it is corrected.
    turn = np.zeros((len(times), len(names), len(names) + 1))
    turn[:, 0, 0], turn[:, 0, 1] = -1, slopes
    turn[:, np.arange(1, len(names)), np.arange(2, len(names) + 1)] = 1
    of_codes = np.einsum("gra,gab,gqb->grq", turn, products, turn)
    moments = of_codes.copy()
    if correct:
        of_z0 = np.einsum("gra,gab,gqb->grq", turn, centred, turn)
        moments[:, 0], moments[:, :, 0] = of_z0[:, 0], of_z0[:, :, 0]
    return Errors(names, times, moments, slopes, model, data.mean(axis=0))


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
