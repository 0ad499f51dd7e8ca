"""Weights of errors by noise level, of network and heads: float64 tables [T + 1]."""

from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.diffusion.prediction import Prediction
from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.presence import ABSENT
from mt_diffusion.protocol import Modality

Weight = Callable[[np.ndarray], np.ndarray]
# Beyond this log SNR times weigh what those at it do: a cosine's lie so far apart there
# that by a sigmoid two of 1000, of pure noise, would have 47% of all weight.
OUTERMOST = 6.0


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


def by_log_snr(schedule: Schedule, weight: Weight) -> np.ndarray:
    """A weight w(lambda) of log SNR, for t that is uniform: -dlambda/dt w, of mean 1.

    The form that all diffusion losses have (Kingma & Gao 2023, eq. 2), between log SNRs
    of -OUTERMOST and OUTERMOST, and the same beyond as there.
    """
    log_snr = np.log(signal_to_noise(schedule)[1:])
    found = -np.gradient(log_snr) * weight(log_snr)
    inner = np.flatnonzero(np.abs(log_snr) <= OUTERMOST)
    found = np.interp(np.arange(len(found)), inner, found[inner])
    return np.concatenate([[1.0], found / found.mean()])


def sigmoid(schedule: Schedule, bias: float) -> np.ndarray:
    """The weight 1 / (1 + e^(lambda - bias)) (Kingma & Gao 2023)."""
    return by_log_snr(schedule, lambda x: 1 / (1 + np.exp(x - bias)))


def edm(schedule: Schedule) -> np.ndarray:
    """EDM's weight, N(lambda; 2.4, 2.4^2) (e^-lambda + 0.5^2).

    Karras et al. 2022, for images of a deviation of 0.5; so written by Kingma & Gao
    2023, table 1.
    """
    return by_log_snr(
        schedule,
        lambda x: np.exp(-(((x - 2.4) / 2.4) ** 2) / 2) * (np.exp(-x) + 0.25),
    )


def of_heads(
    settings: ConfigDict, schedule: Schedule, modalities: Sequence[Modality]
) -> dict[str, np.ndarray]:
    """alpha_bar_t^last_power, of mean 1 over 1..T, of what is read at last alone.

    A modality whose guess is 'absent' is nothing on the way, so its head is asked where
    z_t is nearly clean. The others count alike at every t, as all do with a power of 0.
    """
    weights = schedule.alpha_bar**settings.last_power
    weights = weights / weights[1:].mean()
    at_last = [m.name for m in modalities if m.guess == ABSENT]
    return dict.fromkeys(at_last, weights) if settings.last_power else {}


def build(
    settings: ConfigDict, schedule: Schedule, prediction: Prediction
) -> np.ndarray:
    """The weights that config.objective names. Raises UserError for unknown ones.

    Those but 'none' are given for a network that predicts noise, and turned into the
    same weights of the error of z_0 for the others.
    """
    of_noise = {
        "min_snr": lambda: min_snr(schedule, settings.min_snr_gamma),
        "p2": lambda: p2(schedule, settings.p2_gamma),
        "sigmoid": lambda: sigmoid(schedule, settings.sigmoid_bias),
        "edm": lambda: edm(schedule),
    }
    if settings.weighting == "none":
        return none(schedule)
    if settings.weighting not in of_noise:
        raise UserError(
            f"config.objective.weighting is {settings.weighting!r}; choose one of "
            f"{['none', *of_noise]}."
        )
    return prediction.weights(of_noise[settings.weighting](), schedule)
