"""Weights of the noise-prediction error by noise level: float64 tables [T + 1]."""

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError


def signal_to_noise(schedule: Schedule) -> np.ndarray:
    """alpha_bar_t / (1 - alpha_bar_t), [T + 1]; index 0, where it is infinite, is 1."""
    ratio = np.ones(schedule.num_steps + 1)
    ratio[1:] = schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])
    return ratio


def none(schedule: Schedule) -> np.ndarray:
    """1 at every t (Ho et al. 2020)."""
    return np.ones(schedule.num_steps + 1)


def min_snr(schedule: Schedule, gamma: float) -> np.ndarray:
    """min(SNR, gamma) / SNR, for a network that predicts noise (Hang et al. 2023)."""
    ratio = signal_to_noise(schedule)
    return np.minimum(ratio, gamma) / ratio


def p2(schedule: Schedule, gamma: float) -> np.ndarray:
    """1 / (1 + SNR)^gamma (Choi et al. 2022, with k = 1)."""
    return (1 + signal_to_noise(schedule)) ** -gamma


def build(settings: ConfigDict, schedule: Schedule) -> np.ndarray:
    """The weights that config.objective names. Raises UserError for unknown ones."""
    by_name = {
        "none": lambda: none(schedule),
        "min_snr": lambda: min_snr(schedule, settings.min_snr_gamma),
        "p2": lambda: p2(schedule, settings.p2_gamma),
    }
    if settings.weighting not in by_name:
        raise UserError(
            f"config.objective.weighting is {settings.weighting!r}; choose one of "
            f"{list(by_name)}."
        )
    return by_name[settings.weighting]()
