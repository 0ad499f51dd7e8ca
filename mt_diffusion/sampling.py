"""`--mode=sample`: examples from a workdir's model, anything given, to PNG and npz."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion import experiment as experiments
from mt_diffusion import pictures
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import Experiment
from mt_diffusion.generation import Generator
from mt_diffusion.modalities.base import Variable
from mt_diffusion.training import sharding
from mt_diffusion.training.checkpoint import Checkpoints
from mt_diffusion.training.state import init_params

NUM_SAMPLES = 16  # where nothing given says how many
MAX_IN_GRID = 64


def sample(
    workdir: pathlib.Path,
    out: pathlib.Path | None,
    num: int | None,
    seed: int,
    given: Sequence[str],
    overrides: dict,
    use_ema: bool,
) -> None:
    """Draws `num` examples and writes them below `out` (default: workdir/generated).

    given: texts NAME=VALUE. overrides: of the checkpoint's config.sampling. Raises
    UserError for a workdir without checkpoints, or values that don't fit the model.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is not a folder; train into it first.")
    step, config, mesh, params = restore(workdir, use_ema)
    config.sampling.update(overrides)
    experiment = experiments.build(config)
    values = read_given(given, experiment)
    if num is None:
        num = max([NUM_SAMPLES, *map(len, values.values())])
    if num < 1:
        raise UserError(f"--num_samples={num}: draw one sample or more.")
    settings = config.sampling
    which = "averaged (EMA)" if use_ema else "raw"
    print(
        f"{num} samples from step {step:,}, {which} parameters: {settings.sampler}, "
        f"{settings.num_steps} steps, seed {seed}, "
        f"given: {', '.join(values) or 'nothing'}"
    )
    examples = Generator(experiment, settings, mesh)(params, seed, num, values)
    out = out or workdir / "generated"
    write(out, examples, experiment.variables, list(values))
    print(f"wrote {out}/samples.npz, {out}/grid.png and {num} PNG files")


def restore(workdir: pathlib.Path, use_ema: bool) -> tuple[int, ConfigDict, Mesh, Any]:
    """(step, config, mesh, parameters on it) of the newest whole checkpoint."""
    part = "ema_params" if use_ema else "params"

    def abstract(config: ConfigDict) -> dict[str, Any]:
        experiment = experiments.build(config)
        shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
        everywhere = sharding.replicated(sharding.make_mesh(config.mesh.fsdp))
        return {part: sharding.placed(shapes, everywhere)}

    found = Checkpoints(workdir).newest(abstract)
    if found is None:
        raise UserError(
            f"--workdir={workdir} has no checkpoint yet; train into it first: "
            "python -m mt_diffusion.main --config=... --workdir=..."
        )
    step, config, state = found
    return step, config, sharding.make_mesh(config.mesh.fsdp), state[part]


def read_given(texts: Sequence[str], experiment: Experiment) -> dict[str, np.ndarray]:
    """{variable: values [M, ...]} of texts NAME=VALUE."""
    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name not in experiment.variables or not separator:
            raise UserError(
                f"--given={text} names nothing that this model knows; write "
                "--given=NAME=VALUE with NAME one of "
                f"{', '.join(experiment.variables)}."
            )
        if name in values:
            raise UserError(f"--given={name}=... was given twice; give it once.")
        values[name] = experiment.variables[name].read(value)
    return values


def write(
    out: pathlib.Path,
    examples: dict[str, np.ndarray],
    variables: dict[str, Variable],
    given: Sequence[str],
) -> None:
    """samples.npz, one PNG per example, and a grid of the first 64."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "samples.npz", **examples)
    for i in range(len(next(iter(examples.values())))):
        one = {name: values[i : i + 1] for name, values in examples.items()}
        pictures.grid(one, variables, given).save(out / "samples" / f"{i:05d}.png")
    first = {name: values[:MAX_IN_GRID] for name, values in examples.items()}
    pictures.grid(first, variables, given).save(out / "grid.png")
