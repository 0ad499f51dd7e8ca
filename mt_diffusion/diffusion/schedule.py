"""Noise schedules: float64 tables of alpha_t and alpha_bar_t, indexed by t in 0..T."""

import dataclasses

import numpy as np

from mt_diffusion.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """alpha and alpha_bar, float64 [T + 1], indexed by t in 0..T; index 0 holds 1."""

    alpha: np.ndarray

    @property
    def num_steps(self) -> int:
        """T, the number of diffusion steps."""
        return len(self.alpha) - 1

    @property
    def alpha_bar(self) -> np.ndarray:
        """Cumulative products of alpha, float64 [T + 1]."""
        return np.cumprod(self.alpha)


def from_betas(betas: np.ndarray) -> Schedule:
    """Schedule whose alpha_t is 1 - betas[t - 1]; betas [T] in (0, 1)."""
    return Schedule(np.concatenate([[1.0], 1.0 - np.asarray(betas, np.float64)]))


def linear(num_steps: int) -> Schedule:
    """Betas linear in t, scaled so that any T ends at equal noise (Ho et al. 2020)."""
    scale = 1000 / num_steps
    return from_betas(np.linspace(scale * 1e-4, scale * 0.02, num_steps))


def scaled_linear(num_steps: int) -> Schedule:
    """Roots of betas linear in t, at any T of equal noise (Rombach et al. 2022).

    Stable Diffusion's; even z_T holds a fifteenth of z_0.
    """
    roots = np.linspace(0.00085**0.5, 0.012**0.5, num_steps)
    return from_betas(1000 / num_steps * roots**2)


def cosine(num_steps: int) -> Schedule:
    """alpha_bar follows a squared cosine, beta <= 0.999 (Nichol & Dhariwal 2021)."""
    time = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


BY_NAME = {"linear": linear, "cosine": cosine, "scaled_linear": scaled_linear}


def shifted(table: Schedule, shift: float) -> Schedule:
    """The schedule whose log alpha_bar / (1 - alpha_bar) is larger by `shift` at all t.

    But for t = 0; less is noisier, as large images want it (Hoogeboom et al. 2023).
    """
    if not shift:
        return table
    alpha_bar = table.alpha_bar
    alpha_bar[1:] /= alpha_bar[1:] + (1 - alpha_bar[1:]) * np.exp(-shift)
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def build(schedule: str, num_steps: int, shift: float = 0.0) -> Schedule:
    """The schedule of that name with T = num_steps. Raises UserError on bad values.

    shift: as of `shifted`.
    """
    if schedule not in BY_NAME:
        raise UserError(
            f"config.diffusion.schedule is {schedule!r}; choose one of {list(BY_NAME)}."
        )
    if num_steps < 1:
        raise UserError(f"config.diffusion.num_steps is {num_steps}; use 1 or more.")
    table = BY_NAME[schedule](num_steps)
    if not np.all(table.alpha > 0):
        raise UserError(
            f"the {schedule} schedule has a beta of 1 or more with "
            f"config.diffusion.num_steps = {num_steps}; use at least 21, or the cosine "
            "schedule."
        )
    return shifted(table, shift)
