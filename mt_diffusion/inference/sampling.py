"""`--mode=sample`: examples from a workdir's model, anything given, to PNG and npz."""

import contextlib
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import locks, paths, writing
from mt_diffusion.inference import calibration, parts, pictures, table
from mt_diffusion.inference.restoring import prepare, restore
from mt_diffusion.parallel import sharding

NUM_SAMPLES = 16  # where nothing given says how many
MAX_IN_GRID = 64
ADM = "arr_0"  # the name that evaluators of ADM's kind read images by
RARE = 0.05  # share of the training examples below which a state is warned of


def sample(
    workdir: pathlib.Path,
    out: pathlib.Path | None,
    num: int | None,
    seed: int,
    given: Sequence[str],
    overrides: dict,
    use_ema: bool,
) -> None:
    """Draws `num` examples and writes them below `out` (workdir/generated/NNN).

    given: texts NAME=VALUE. overrides: of the checkpoint's config.sampling. Raises
    UserError for a workdir without checkpoints, values that don't fit the model,
    guidance towards nothing, or an `out` that holds samples already.
    """
    mesh = sharding.make_mesh()
    step, config, experiment, params = restore(workdir, overrides, use_ema, mesh)
    values = read_given(given, experiment)
    check_guidance(overrides, experiment, values)
    check_resample(overrides, experiment, values)
    if num is None:
        num = max([NUM_SAMPLES, *map(len, values.values())])
    settings = config.sampling
    build, weights = prepare(settings, experiment, params, use_ema, mesh)
    alone: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if jax.process_index():
        out = None
    else:
        model_digest = exported.digest(params)
        again = parts.mark(model_digest, values, settings.to_json(), num, seed)
        out = make_folder(out, workdir, again)
        alone = locks.held(out, f"--out={out}")
    model = (workdir, step, use_ema, config, experiment, params, mesh)
    which = "averaged (EMA)" if use_ema else "raw"
    with alone:
        generator = build(calibration.find(*model))
        print(
            f"{num} samples from step {step:,}, {which} parameters: "
            f"{settings.sampler}, {settings.num_steps} steps, seed {seed}, given: "
            f"{', '.join(values) or 'none'}"
        )
        warn_of_rare_state(experiment, generator.states(values))

        def make(rows: range) -> dict[str, np.ndarray]:
            found = generator.values(weights, seed, rows, values)
            return {n: experiment.of(n).postprocess(v) for n, v in found.items()}

        place = out and out / parts.FOLDER / again
        size = generator.batch_size(num)
        examples = parts.carry_out(place, num, size, make, "samples")
        if out:
            inputs = table.inputs_of(given, values)
            write(out, examples, experiment, inputs, seed)
            paths.remove(out / parts.FOLDER)
    print(f"wrote {out}/samples.npz, {table.FILE}, grid.png and {num} PNG files")


def warn_of_rare_state(experiment: Experiment, states: Mapping[str, str]) -> None:
    """Prints a warning where a model was hardly trained in what it is to draw in."""
    share = experiment.presence.share(states)
    if states and share < RARE:
        said = ", ".join(f"{name} {state}" for name, state in states.items())
        print(
            f"warning: this model was trained in {share:.1%} of its examples with "
            f"{said}, as they are now; what it draws so may be poor. Give or leave out "
            "other values, choose another --guess, or train with a larger share of "
            "this state in config.presence."
        )


def make_folder(
    out: pathlib.Path | None, workdir: pathlib.Path, again: str = ""
) -> pathlib.Path:
    """A folder without samples in it: `out`, or the next of workdir/generated/NNN.

    again: the `mark` of a sampling, which goes on where it was cut off.
    """
    within = out or exported.home(workdir)
    if out is None:
        root = exported.home(workdir) / "generated"
        numbers = [int(p.name) for p in root.glob("*") if p.name.isdecimal()]
        last = root / f"{max(numbers, default=0):03d}"
        is_cut_off = again and (last / parts.FOLDER / again).is_dir()
        out = last if is_cut_off else root / f"{max(numbers, default=-1) + 1:03d}"
    if (out / "samples.npz").exists():
        raise UserError(f"--out={out} holds samples already; name another folder.")
    writing.make_folder(out / "samples", f"--out={out}", within)
    if again:
        writing.make_folder(out / parts.FOLDER / again, f"--out={out}", within)
    return out


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


def check_guidance(
    wishes: Mapping[str, Any], experiment: Experiment, given: Collection[str]
) -> None:
    """Raises UserError where guidance is wished for, but nothing given can guide.

    wishes: what the user says now; guidance in the config waits for something given.
    """
    modalities = experiment.modalities
    for field, neutral, able in (
        ("guidance", 1, [m.name for m in modalities]),
        ("head_guidance", 0, [m.name for m in modalities]),
    ):
        wish = wishes.get(field, neutral)
        if wish != neutral and not set(able) & set(given):
            one_of = f"add --given=NAME=VALUE with NAME one of {', '.join(able)}, or "
            raise UserError(
                f"--{field}={wish} would change nothing: none of what is given can "
                f"guide this model so; {one_of if able else ''}leave it out."
            )


def check_resample(
    wishes: Mapping[str, Any], experiment: Experiment, given: Mapping[str, Any]
) -> None:
    """Raises UserError where resampling is wished for, but no pixel is given."""
    repeats, variables = wishes.get("resample", 1), experiment.variables
    if repeats == 1:
        return
    values = {name: jnp.asarray(value[:1]) for name, value in given.items()}
    if not any(variables[n].known(value) for n, value in values.items()):
        raise UserError(
            f"--resample={repeats} lets the other pixels hear of those that are known, "
            "but none is given; leave it out, or give an image or a masked one."
        )


def write(
    out: pathlib.Path,
    examples: dict[str, np.ndarray],
    experiment: Experiment,
    inputs: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """The image of each example as PNG, a grid of the first 64, a table, samples.npz.

    inputs: {given variable: the text of each value}, row i having that of i mod M. In
    the .npz, NAME_names are the classes that the numbers of NAME are places among, and
    the images stand under ADM's name as well; that it is there says that all is.
    """
    classes = {n: getattr(experiment.of(n), "class_names", ()) for n in examples}
    names = {
        f"{n}_names": np.array([str(x) for x in c])
        for n, c in classes.items()
        if len(c)
    }
    images = examples[experiment.primary.name]
    for i, image in enumerate(images):
        writing.image(out / "samples" / f"{i:05d}.png", pictures.to_image(image))
    first = {name: values[:MAX_IN_GRID] for name, values in examples.items()}
    grid = pictures.grid(first, experiment.variables, list(inputs))
    writing.image(out / "grid.png", grid)
    table.write(out, examples, experiment, inputs, seed)
    writing.arrays(out / "samples.npz", {ADM: images} | examples | names)
