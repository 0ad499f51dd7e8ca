"""Spacing: which of the times 1..T a walk of fewer steps visits."""

import numpy as np

from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError


def even(schedule: Schedule, num_steps: int) -> np.ndarray:
    """Even in t: the steps that ADM's `space_timesteps` keeps."""
    return np.round(np.linspace(schedule.num_steps, 1, num_steps)).astype(int)


def log_snr(schedule: Schedule, num_steps: int) -> np.ndarray:
    """As even in log-SNR as whole times can be: the longest step is the least possible.

    method.md, eq. 35. Where the schedule itself moves faster, steps are of one.
    """
    half = half_log_snr(schedule)
    low, high = 0.0, 1.01 * (half[1] - half[-1])
    for _ in range(50):  # to the last bit but a few
        middle = (low + high) / 2
        if len(strides(half, middle)) > num_steps:
            low = middle
        else:
            high = middle
    return filled(half, strides(half, high), num_steps)


def half_log_snr(schedule: Schedule) -> np.ndarray:
    """DPM-Solver's lambda, [T + 1], infinite at 0; falls with t."""
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(schedule.alpha_bar / (1 - schedule.alpha_bar))


def strides(half: np.ndarray, longest: float) -> list[int]:
    """Times from T to 1, each as far from the one before as `longest` allows."""
    times = [len(half) - 1]
    while times[-1] > 1:
        t = times[-1]
        reached = np.searchsorted(-half[1:t], -half[t] - longest) + 1
        times.append(min(int(reached), t - 1))
    return times


def filled(half: np.ndarray, times: list[int], num: int) -> np.ndarray:
    """`num` times: the longest steps are halved while there are too few."""
    while len(times) < num:
        pairs = list(zip(times[:-1], times[1:], strict=True))
        lengths = [(half[s] - half[t]) * (t - s > 1) for t, s in pairs]
        t, s = pairs[int(np.argmax(lengths))]
        inside = np.arange(s + 1, t)
        middle = inside[np.argmin(np.abs(half[inside] - (half[t] + half[s]) / 2))]
        times = sorted({*times, int(middle)}, reverse=True)
    return np.array(times)


SPACINGS = {"even": even, "log_snr": log_snr}


def respaced(schedule: Schedule, num_steps: int, name: str = "even") -> np.ndarray:
    """Times T = t_S > ... > t_1 = 1 > t_0 = 0, int [num_steps + 1].

    name: one of SPACINGS. Raises UserError for another one, and unless 2 <= num_steps
    <= T, or num_steps == T == 1.
    """
    if name not in SPACINGS:
        raise UserError(
            f"config.sampling.spacing is {name!r}; choose one of {list(SPACINGS)}, or "
            "'' for the sampler's own."
        )
    most = schedule.num_steps
    if not min(2, most) <= num_steps <= most:
        raise UserError(
            f"cannot sample in {num_steps} steps: choose between 2 and the "
            f"{most} diffusion steps of this model."
        )
    return np.append(SPACINGS[name](schedule, num_steps), 0)
