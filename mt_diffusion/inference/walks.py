"""The steps of a walk, and what they saw, kept beside what it ends in."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.diffusion import solvers, spacing
from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.experiment import Experiment

MOST = 64  # examples


class Trajectory(NamedTuple):
    """S steps of a walk of N examples, in their order, from noise to the example.

    t: of each step, int32 [S], falling from T. noise: the deviation sigma_t of the
    noise in z_t, float32 [S]. values: {variable: [S, N, ...]}, the estimate of each:
    images uint8 [S, N, H, W, C], classes as probabilities [S, N, K], vectors float32;
    of what is given, what was given.
    """

    t: np.ndarray
    noise: np.ndarray
    values: dict[str, np.ndarray]


def build(settings: ConfigDict, schedule: Schedule) -> tuple[solvers.Step, np.ndarray]:
    """The step that config.sampling names, and the times that a walk by it visits.

    Raises UserError for steps, spacings and numbers of steps that there are not.
    """
    name, repeats = settings.sampler, settings.resample
    step = solvers.build_step(name, settings.eta)
    if repeats > 1 and name not in solvers.REPEATABLE:
        raise UserError(
            f"config.sampling.resample is {repeats}, but {name} reads where the walk "
            f"was before, so it can't go back; use one of {list(solvers.REPEATABLE)}."
        )
    word = settings.spacing or solvers.SPACING[name]
    return step, spacing.respaced(schedule, settings.num_steps, word)


def check(num: int) -> None:
    """Raises UserError for more examples than are kept."""
    if num > MOST:
        raise UserError(
            f"a trajectory keeps every step of every example, so it is of {MOST} "
            f"examples at most, and not of {num:,}: draw fewer."
        )


def estimates(
    kept: Mapping[str, np.ndarray],
    given: Mapping[str, np.ndarray],
    experiment: Experiment,
) -> dict[str, np.ndarray]:
    """{variable: estimates [B, S, ...]} of one batch, for people.

    kept: {variable: [S, B, ...]} of z_0 and what is generated. given: {variable: values
    [B, ...]}.
    """
    steps = len(kept[experiment.primary.name])
    found = {}
    for name, variable in experiment.variables.items():
        if name in kept:
            whole = np.moveaxis(kept[name], 0, 1)
            flat = variable.estimate(whole.reshape(-1, *whole.shape[2:]))
            found[name] = flat.reshape(*whole.shape[:2], *flat.shape[1:])
        else:
            one = variable.estimate(np.asarray(given[name]))[:, None]
            found[name] = np.repeat(one, steps, axis=1)
    return found


def of(
    by_example: Mapping[str, np.ndarray], times: np.ndarray, schedule: Schedule
) -> Trajectory:
    """The trajectory of estimates [N, S, ...]. times: of the steps and their end."""
    t = np.asarray(times[:-1], np.int32)
    noise = np.sqrt(1 - schedule.alpha_bar[t]).astype(np.float32)
    return Trajectory(
        t, noise, {n: np.moveaxis(x, 1, 0) for n, x in by_example.items()}
    )
