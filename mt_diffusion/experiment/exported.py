"""A model as a folder that leaves the house: its averaged parameters and its config.

    model.safetensors  parameters by dotted names; in its header step, version, digests
    config.json        the config as resolved
    autoencoder/       of a diffusion of latents, as diffusers saves it
    measured/, reading.json, metrics.jsonl, README.md: what else is known of the run

Wherever a workdir is read, such a folder can be; training into one can't.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

import mt_diffusion
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.stored import FOLDER, of_this_version, stored_config
from mt_diffusion.files import paths, weights
from mt_diffusion.models.mt_diffusion import TABLES

WEIGHTS, CONFIG = "model.safetensors", "config.json"
AUTOENCODER = "autoencoder"
SHIPPED = pathlib.Path(__file__).parents[1] / "shipped"
RUNS = pathlib.Path("runs")  # where what is made of a folder that stays as it is goes
AGAIN = "Nothing was changed; export it once more, or restore it from a copy."


def is_one(folder: pathlib.Path) -> bool:
    """Whether a folder is an exported model, and no run of its own."""
    return (folder / WEIGHTS).is_file() and not (folder / FOLDER).is_dir()


def names() -> list[str]:
    """Of the models that come with the package."""
    return sorted(path.name for path in SHIPPED.glob("*") if is_one(path))


def find(name: str | pathlib.Path) -> pathlib.Path:
    """The folder of that path, or of a model of that name where there is no path."""
    path = paths.of(name)
    return SHIPPED / str(name) if not path.exists() and str(name) in names() else path


def home(folder: pathlib.Path) -> pathlib.Path:
    """Where what is made of a model goes: its folder, but for one that stays as it is.

    Of a model of the package, in a bucket, or in a folder that can't be written to, it
    is runs/NAME (runs/NAME_exported beside a run of that name).
    """
    whole = folder.resolve()
    if not is_one(folder):
        return folder
    if os.access(folder, os.W_OK) and not whole.is_relative_to(SHIPPED.resolve()):
        return folder
    apart = RUNS / whole.name
    is_run = (apart / FOLDER).exists()
    return apart.with_name(f"{apart.name}_exported") if is_run else apart


def check_trainable(workdir: pathlib.Path) -> None:
    """Raises UserError for an exported model, which is no place to train in."""
    if is_one(workdir):
        raise UserError(
            f"--workdir={workdir} is an exported model, without what training goes on "
            f"from. Start from its parameters with --config.init_from={workdir} and "
            "another --workdir."
        )


def kept(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """The files of that name that may be there: the model's own, and one made since."""
    return list(dict.fromkeys([folder / name, home(folder) / name]))


def dotted(path: tuple[str, ...]) -> str:
    """The name of a parameter: its path without the collection."""
    return ".".join(path[1:])


def digest(params: Mapping[str, Any]) -> str:
    """Stands for the values of all parameters; tables follow from the config."""
    trained = {name: part for name, part in params.items() if name != TABLES}
    return weights.digest(flatten_dict(jax.device_get(trained), sep="/"))


def write(
    folder: pathlib.Path,
    step: int,
    config: ConfigDict,
    params: Mapping[str, Any],
    dtype: str,
) -> None:
    """Writes parameters and config into a folder that is there.

    params: the network's variables. dtype: float32, float16 or bfloat16. Raises
    UserError for values that it can't hold.
    """
    trained = {name: part for name, part in params.items() if name != TABLES}
    state = weights.rounded(
        {dotted(p): x for p, x in flatten_dict(jax.device_get(trained)).items()}, dtype
    )
    text = json.dumps(json.loads(config.to_json()), indent=2) + "\n"
    said = {
        "format": "mt_diffusion",
        "version": mt_diffusion.__version__,
        "step": str(step),
        "dtype": dtype,
        "digest": of_named(weights.widened(state)),
        "config_digest": of_text(text),
    }
    (folder / CONFIG).write_text(text, "utf-8")
    weights.write(folder / WEIGHTS, state, said)


def of_named(state: Mapping[str, Any]) -> str:
    """The digest of parameters that are called by dotted names."""
    return weights.digest(
        {f"params/{name.replace('.', '/')}": x for name, x in state.items()}
    )


def facts(folder: pathlib.Path) -> dict[str, str]:
    """What the header of an exported model says: step, version, dtype, digests."""
    return weights.facts(folder / WEIGHTS)


def of_text(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(
    folder: pathlib.Path, only: int | None = None, ema: bool = True
) -> tuple[int, ConfigDict, dict[str, Any]]:
    """(step, config, {"params": arrays of the host, float32}) of an exported model.

    only, ema: the step and whether averages are asked for; there is one step, and
    averages. Raises UserError for others, and for files that are not as written.
    """
    state, said = weights.read(folder / WEIGHTS), facts(folder)
    try:
        text = (folder / CONFIG).read_text("utf-8")
        stored, step = json.loads(text), int(said["step"])
        digests = said["digest"], said["config_digest"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is no whole exported model ({error}). {AGAIN}"
        ) from error
    if digests != (of_named(state), of_text(text)):
        raise UserError(
            f"{folder} is damaged, or was changed: {WEIGHTS} and {CONFIG} are not "
            f"those that were written together. {AGAIN}"
        )
    if only not in (None, step) or not ema:
        raise UserError(
            f"{folder} is an exported model: it has the averaged parameters of step "
            f"{step} alone. Leave out what asks for others, or name the run's workdir."
        )
    try:
        with of_this_version(step):
            config = stored_config(stored, str(folder))
            if (folder / AUTOENCODER).is_dir():
                if paths.is_remote(folder):
                    raise UserError(
                        f"{folder} has an autoencoder inside, which is read from a "
                        "folder of this machine: copy the model here."
                    )
                config.primary.space.autoencoder = str(folder / AUTOENCODER)
            experiment = experiments.build(config)
    except (TypeError, ValueError) as error:  # of values of another type
        raise UserError(
            f"{folder / CONFIG} is no config of a model ({error}). {AGAIN}"
        ) from error
    shapes = experiments.shapes_of(experiment)
    wanted = {dotted(path): (path, x) for path, x in flatten_dict(shapes).items()}
    weights.check(
        {name: x.shape for name, x in state.items()},
        {name: x.shape for name, (_, x) in wanted.items()},
        f"{folder} has other parameters than its config wants",
    )
    return step, config, unflatten_dict({wanted[n][0]: x for n, x in state.items()})
