"""Models as checkpoints keep them: the one that is asked for, and its guide."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.inference.generation import Generator
from mt_diffusion.inference.guiding import Weights
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.parallel import sharding


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what Orbax warns of, which is none of the user's."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def restore(
    workdir: pathlib.Path,
    overrides: Mapping[str, Any],
    use_ema: bool,
    mesh: Mesh,
    step: int | None = None,
) -> tuple[int, ConfigDict, Experiment, Any]:
    """(step, config, experiment, parameters on the mesh) of a checkpoint.

    overrides: of its config.sampling. step: its number; None for the newest one.
    Raises UserError for a workdir without it.
    """
    if not workdir.is_dir():
        raise UserError(
            f"--workdir={workdir} is not a folder; train into it first, or name one of "
            f"the models that are here: {', '.join(exported.names())}."
        )
    if exported.is_one(workdir):
        step, config, arrays = exported.read(workdir, step, use_ema)
        params = jax.device_put(arrays, sharding.replicated(mesh))
    else:
        step, config, params = restore_run(workdir, use_ema, mesh, step)
    override(config, overrides)
    experiment = experiments.build(config)
    tables = jax.device_put(experiment.tables, sharding.replicated(mesh))
    return step, config, experiment, params | tables


def restore_run(
    workdir: pathlib.Path, use_ema: bool, mesh: Mesh, step: int | None
) -> tuple[int, ConfigDict, Any]:
    """(step, config, parameters on the mesh) of a checkpoint, as `restore` has it."""
    from mt_diffusion.experiment.checkpoint import Checkpoints  # Orbax: not in models

    part = "ema_params" if use_ema else "params"

    def abstract(config: ConfigDict) -> dict[str, Any]:
        experiment = experiments.build(config)
        shapes = experiments.shapes_of(experiment)
        return {part: sharding.placed(shapes, sharding.replicated(mesh))}

    found = Checkpoints(workdir).newest(abstract, step)
    if found is None:
        raise UserError(
            f"--workdir={workdir} has no checkpoint yet; train into it first: "
            "python -m mt_diffusion.main --config=... --workdir=..."
        )
    step, config, state = found
    return step, config, state[part]


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Sets fields of config.sampling, and of other sections where a name says so."""
    for name, value in overrides.items():
        *sections, field = name.split(".")
        part = config
        for section in sections or ["sampling"]:
            part = part.get(section, {})
        if field not in part:
            has = f"its modalities are {list(config.modalities)}"
            why = has if sections[0] == "modalities" else "it is none of latents"
            raise UserError(
                f"this run has no config.{name}, for {why}; leave "
                f"--config.{name}={value} out."
            )
        part[field] = value


def prepare(
    settings: ConfigDict, experiment: Experiment, params: Any, use_ema: bool, mesh: Mesh
) -> tuple[Callable[..., Generator], Weights]:
    """(from what was measured of the model to a Generator, the variables it draws by).

    Raises UserError for what can't be, before anything is measured or written.
    """
    experiment.space.files()  # what pictures need is here, or is missed now
    guide, weights = load_guide(settings, experiment, params, use_ema, mesh)
    build = functools.partial(Generator, experiment, settings, mesh, guide=guide)
    build()
    return build, weights


def load_guide(
    settings: ConfigDict, experiment: Experiment, params: Any, use_ema: bool, mesh: Mesh
) -> tuple[Denoiser | None, Weights]:
    """The guide that config.sampling names, and the variables of both.

    Raises UserError for one of another process or other codes, or that does nothing.
    """
    name, scale = settings.guide, settings.autoguidance
    if not name:
        if scale == 1:
            return None, Weights(params)
        raise UserError(
            f"--autoguidance={scale} needs a guide to go away from: add "
            "--guide=WORKDIR of a smaller or less trained model, or WORKDIR:STEP."
        )
    if scale == 1:
        raise UserError(
            f"--guide={name} would change nothing: autoguidance is 1. Add a scale, "
            "such as --autoguidance=2, or leave the guide out."
        )
    place, step = place_of_guide(name)
    if not place.is_dir():
        raise UserError(
            f"--guide={name} is not the folder of a run; name a workdir, or "
            "WORKDIR:STEP for one of its checkpoints, of which "
            "config.watch.keep_checkpoints are kept."
        )
    _, _, guide, weak = restore(place, {}, use_ema, mesh, step)
    if different := differences(experiment, guide):
        raise UserError(
            f"--guide={name} can't guide this model: its {different} are others, so "
            "the same z_t means something else to it. Use a checkpoint of this run, or "
            "of one whose config differs in the network alone."
        )
    return guide.denoiser, Weights(params, weak)


def place_of_guide(name: str) -> tuple[pathlib.Path, int | None]:
    """The folder and step of WORKDIR or WORKDIR:STEP; a folder's name may have both."""
    whole = exported.find(name)
    folder, _, step = name.rpartition(":")
    if whole.is_dir() or not folder or not step.isdecimal():
        return whole, None
    return exported.find(folder), int(step)


def differences(one: Experiment, other: Experiment) -> str:
    """Which of the things that decide what z_t means are not the same; '' for none."""
    tables = [e.process.aggregation.alpha_tilde for e in (one, other)]
    told = [getattr(e.space, "found", {}) for e in (one, other)]
    spaces = [[of.get(n) for n in ("digest", "scaling", "shift")] for of in told]
    if (one.shape, spaces[0]) != (other.shape, spaces[1]):
        return "images"
    if not same_arrays(one.process.schedule.alpha, other.process.schedule.alpha):
        return "noise schedules"
    if not same_arrays(*tables):
        return "modalities or their drifts"
    return "" if same_arrays(one.tables, other.tables) else "codes"


def same_arrays(one: Any, other: Any) -> bool:
    """Whether two trees have the same structure and numbers."""
    structure: object = jax.tree.structure(one)
    if structure != jax.tree.structure(other):
        return False
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
