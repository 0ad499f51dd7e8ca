"""`--mode=sample`: examples from a workdir's model, anything given, to PNG and npz."""

import contextlib
import math
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
from mt_diffusion.inference import calibration, parts, table, walks
from mt_diffusion.inference.drawing import between, pictures
from mt_diffusion.inference.drawing import walk as drawn_walk
from mt_diffusion.inference.generation import Generator
from mt_diffusion.inference.restoring import prepare, restore
from mt_diffusion.parallel import sharding

NUM_SAMPLES = 16  # where nothing given says how many
SAID = "samples"  # before the progress
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
    trajectory: bool = False,
    interpolate: str = "",
) -> None:
    """Draws `num` examples and writes them below `out` (workdir/generated/NNN).

    given: texts NAME=VALUE. overrides: of the checkpoint's config.sampling. trajectory:
    whether pictures of the walk are written too. interpolate: text of a way, of which
    they are `num` places. Raises UserError for a workdir without checkpoints, values
    that don't fit the model, guidance towards nothing, or an `out` that holds samples
    already.
    """
    mesh = sharding.make_mesh()
    step, config, experiment, params = restore(workdir, overrides, use_ema, mesh)
    values = read_given(given, experiment)
    inputs = table.inputs_of(given, values)
    if num is None:
        num = max([NUM_SAMPLES, *map(len, values.values())])
    if trajectory:
        walks.check(num)
    way = None
    if interpolate:
        way = between.parse(interpolate, experiment, values, seed, num)
        values, inputs = way.given, inputs | {way.name: way.texts}
    check_guidance(overrides, experiment, values)
    check_resample(overrides, experiment, values)
    settings = config.sampling
    build, weights = prepare(settings, experiment, params, use_ema, mesh)
    alone: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    model_digest = ""
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
        generator = build(calibration.find(*model, model_digest))
        print(
            f"{num} samples from step {step:,}, {which} parameters: "
            f"{settings.sampler}, {settings.num_steps} steps, seed {seed}, given: "
            f"{', '.join(values) or 'none'}"
        )
        warn_of_rare_state(experiment, generator.roles.states(values))

        if way is not None:
            examples = between.draw(generator, weights, way, SAID)
        elif trajectory:
            examples, walk = generator.trajectory(
                weights, seed, range(num), values, SAID
            )
        else:
            place = out and out / parts.FOLDER / again
            examples = in_parts(generator, weights, seed, num, values, place)
        if out:
            if way is not None:
                between.write(out, examples, experiment.variables, way.name)
            elif trajectory:
                drawn_walk.write(out, walk, experiment.variables, list(inputs))
            write(out, examples, experiment, inputs, seed)
            table.tell(examples, experiment, list(values))
            paths.remove(out / parts.FOLDER)
    film = f"{between.FILE}, " if interpolate else ""
    film = f"{drawn_walk.FILE}.gif, .png and .npz, " if trajectory else film
    print(f"wrote {out}/samples.npz, {film}{table.FILE}, grid.png and {num} PNG files")


def in_parts(
    generator: Generator,
    weights: Any,
    seed: int,
    num: int,
    values: Mapping[str, np.ndarray],
    place: pathlib.Path | None,
) -> dict[str, np.ndarray]:
    """Examples, postprocessed; the parts that are drawn are kept in the folder."""

    def make(rows: range) -> dict[str, np.ndarray]:
        return generator.postprocess(generator.values(weights, seed, rows, values))

    return parts.carry_out(place, num, generator.batch_size(num), make, SAID)


def warn_of_rare_state(experiment: Experiment, states: Mapping[str, str]) -> None:
    """Prints a warning where a model was hardly trained in what it is to draw in."""
    if said := rare_state(experiment, states):
        print(f"warning: {said}")


def rare_state(experiment: Experiment, states: Mapping[str, str]) -> str:
    """What is said where a model was hardly trained in these states; else ''."""
    share = experiment.presence.share(states)
    if not states or share >= RARE:
        return ""
    said = ", ".join(f"{name} {state}" for name, state in states.items())
    return (
        f"this model was trained in {share:.1%} of its examples with {said}, as they "
        "are now; what it draws so may be poor. Give or leave out other values, choose "
        "another --guess, or train with a larger share of this state in "
        "config.presence."
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
    """{variable: values [M, ...]} of texts NAME=VALUE, without what is said absent."""
    values: dict[str, np.ndarray | None] = {}
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
    return {name: x for name, x in values.items() if x is not None}


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
    """The image of each example as PNG, a grid of the first, a table, samples.npz.

    Beside a grid whose font lacks letters of words, grid.txt has what it says instead.
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
    files = table.files_of(examples, experiment)
    for file, image in zip(files, images, strict=True):
        writing.image(out / "samples" / file, pictures.to_image(image))
    given = [name for name in inputs if name in experiment.variables]
    num = math.lcm(*(len(texts) for texts in inputs.values()))
    model = experiment.variables, experiment.primary
    writing.image(out / "grid.png", pictures.restored(examples, *model, given, num))
    first = {name: values[: pictures.MOST_TILES] for name, values in examples.items()}
    if legend := pictures.legend(first, experiment.variables):
        lines = [f"{drawn}: {meant}\n" for drawn, meant in sorted(legend.items())]
        writing.text(out / "grid.txt", "".join(lines))
    table.write(out, examples, experiment, inputs, seed)
    writing.arrays(out / "samples.npz", {ADM: images} | examples | names)
