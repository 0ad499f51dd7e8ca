"""`--mode=read`: what the heads say of given images (classify, represent, ...).

An image is noised to some levels t, without drift, each head is read at each, and its
means are averaged. Which levels serve a modality best is found on one half of the test
examples, `choose`, and measured on the other.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.roles import READ_BELOW
from mt_diffusion.files import writing
from mt_diffusion.files.captions import lines
from mt_diffusion.inference import table
from mt_diffusion.inference.restoring import restore
from mt_diffusion.inference.sampling import make_folder, read_given, write
from mt_diffusion.parallel import batches, sharding
from mt_diffusion.protocol import Modality, Variable

FILE = "reading.json"
NUM_LEVELS = 24  # candidates, evenly spaced in 1..T
NUM_TEXTS = 5  # that are told of each image
NUM_EXAMPLES = 1000  # of the test split, at most, half of them to choose by


def read(
    workdir: pathlib.Path,
    out: pathlib.Path | None,
    given: Sequence[str],
    seed: int,
    overrides: dict,
    use_ema: bool,
    captions: pathlib.Path | None = None,
) -> None:
    """Reads the heads at the images given; without any, chooses their noise levels.

    given: one text NAME=FILES of the primary image, or none. captions: a file with a
    text in each line, to compare what is read with; None for those that the model
    knows. overrides: of the checkpoint's config.sampling, whose batch_size is used.
    Writes what it reads as sampling does, and the levels to workdir/reading.json.
    Raises UserError where images are given before levels were chosen for this
    checkpoint.
    """
    mesh = sharding.make_mesh()
    step, config, experiment, params = restore(workdir, overrides, use_ema, mesh)
    if not experiment.modalities:
        raise UserError(f"the model of --workdir={workdir} has no head to read.")
    compare_with(captions, experiment, given)
    reader = build_reader(
        experiment, params, config.sampling.batch_size, mesh, "reading"
    )
    digest = exported.digest(params)
    facts = {"step": step, "averaged": use_ema, "parameters": digest}
    if given:
        values = read_given(given, experiment)
        if set(values) != {experiment.primary.name}:
            raise UserError(
                f"reading takes --given={experiment.primary.name}=FILE_OR_FOLDER and "
                "nothing else; --mode=sample takes any modalities together."
            )
        levels = load_levels(workdir, facts)
        out = make_folder(out, workdir)
        inputs = table.inputs_of(given, values)
        read_images(experiment, reader, values, levels, out, seed, inputs)
        return
    file = exported.home(workdir) / FILE
    if out is not None:
        raise UserError(
            f"--out={out} is for what is read of given images; the levels that this "
            f"command chooses are written to {file}. Leave it out."
        )
    levels = choose(config, experiment, reader, seed)
    if not levels:
        raise UserError("no test example has a value of any modality to choose by.")
    writing.make_folder(file.parent, f"--workdir={workdir}")
    writing.as_json(file, facts | {"levels": levels})
    print(f"wrote {file}; --given={experiment.primary.name}=... reads now")


def load_levels(
    workdir: pathlib.Path, facts: Mapping[str, Any]
) -> dict[str, list[int]]:
    """The levels chosen for this checkpoint. Raises UserError for those of another.

    A file from before parameters were named in it is of those that are there.
    """
    paths = exported.kept(workdir, FILE)
    for path in reversed(paths):  # what was chosen last
        # Where there is none, or a broken one.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = {"parameters": facts.get("parameters")}
            found = known | json.loads(path.read_bytes())
            if {name: found[name] for name in facts} == facts:
                return found["levels"]
    raise UserError(
        f"{paths[-1]} has no noise levels for this checkpoint ({facts}): let them be "
        "chosen first, by this command without --given."
    )


def levels(
    workdir: pathlib.Path, facts: Mapping[str, Any], experiment: Experiment
) -> dict[str, list[int]]:
    """The levels chosen for this checkpoint; where none were, six low ones."""
    with contextlib.suppress(UserError):
        return load_levels(workdir, facts)
    num_steps = experiment.process.schedule.num_steps
    low = np.unique(np.linspace(1, max(READ_BELOW * num_steps, 1), 6).astype(int))
    return {m.name: low.tolist() for m in experiment.modalities}


def read_images(
    experiment: Experiment,
    reader: "Reader",
    values: dict[str, np.ndarray],
    levels: Mapping[str, Sequence[int]],
    out: pathlib.Path,
    seed: int,
    inputs: Mapping[str, Sequence[str]],
) -> None:
    """Writes what the heads say of the images in `values`, the primary variable's.

    inputs: the texts that say which these are, as of `inputs_of`.
    """
    primary = experiment.primary
    means = averaged(reader, values[primary.name], levels, seed)
    examples = {
        n: experiment.variables[n].postprocess(v) for n, v in (values | means).items()
    }
    write(out, examples, experiment, inputs, seed)
    told_below = [n for n in means if knows_words(experiment.variables[n])]
    table.tell(examples, experiment, [*values, *told_below])
    files = [inputs[primary.name][i] for i in range(len(examples[primary.name]))]
    for name in means:
        near = experiment.variables[name].nearest(examples[name], NUM_TEXTS)
        if near is not None and all(near):  # else it knows no words
            table.write_nearest(out / f"{name}.csv", files, near)
            for file, ((text, cosine), *_) in zip(files, near, strict=True):
                print(f"{file}: {text} ({cosine:.2f})")
            print(f"wrote {out}/{name}.csv, the {NUM_TEXTS} nearest of each")
    print(f"wrote {out}/samples.npz, {out}/{table.FILE} and {out}/grid.png")


def compare_with(
    captions: pathlib.Path | None, experiment: Experiment, given: Sequence[str]
) -> None:
    """What is read as words will be one of this file, if there is one.

    Raises UserError where nothing would be compared with its texts.
    """
    if captions is None:
        return
    able = [m for m in experiment.modalities if knows_words(m)]
    if not (able and given):
        why = "this model reads no words" if given else "no image is given to be read"
        raise UserError(f"--captions={captions} would change nothing: {why}.")
    texts = lines(captions)
    for m in able:  # which encodes them: what lacks for that is said before all else
        m.compare_with(texts)


def knows_words(variable: Variable) -> bool:
    """Whether its values are told by the texts that are nearest to them."""
    return type(variable).nearest is not Modality.nearest


Reader = Callable[[np.ndarray, Sequence[int], int], dict[int, dict[str, np.ndarray]]]


def build_reader(
    experiment: Experiment,
    params: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    what: str | None = None,
) -> Reader:
    """(images [N, H, W, C], levels t, seed) -> {t: {modality: means [N, ...]}}.

    What is read of image i depends on (seed, i, t) and the image alone. what: before
    its progress; None shows none.
    """

    @jax.jit
    def means(params, seed: Array, rows: Array, z0: Float[Array, "b h w c"], t: Array):
        def noise(i: Array) -> Array:
            key = jax.random.fold_in(jax.random.key(seed), i)
            return jax.random.normal(jax.random.fold_in(key, t), experiment.shape)

        times = jnp.full(len(z0), t)
        z_t = experiment.process.diffuse(z0, {}, times, jax.vmap(noise)(rows))
        # Nothing drifts here, so codes have nothing to say.
        heads = experiment.denoiser(params, z_t, times, {}, {}, {}).features
        return {m.name: m.mean(heads[m.name]) for m in experiment.modalities}

    def reader(images, levels, seed):
        def at_levels(rows):
            batch = (rows, images[rows % len(images)])
            rows, z0 = jax.device_put(batch, sharding.over_batch(mesh))
            return {t: means(params, seed, rows, z0, t) for t in levels}

        size = sharding.batch_size(batch_size, len(images), mesh)
        return batches.through(at_levels, range(len(images)), size, what, "image")

    return reader


def averaged(
    reader: Reader,
    images: np.ndarray,
    levels: Mapping[str, Sequence[int]],
    seed: int,
) -> dict[str, np.ndarray]:
    """{modality: means [N, ...]}, each over its levels."""
    times = sorted({t for chosen in levels.values() for t in chosen})
    found = reader(images, times, seed)
    return {n: np.mean([found[t][n] for t in ts], axis=0) for n, ts in levels.items()}


def choose(
    config: ConfigDict, experiment: Experiment, reader: Reader, seed: int
) -> dict[str, list[int]]:
    """{modality: levels t}, by the error on even test examples; prints that on odd.

    Levels are ranked by their own error, and so many of the best are taken as make the
    error of the averaged mean least.
    """
    source = sources.open_source(config.data, "test")
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    num = min(len(source), NUM_EXAMPLES)
    batch = pipeline.first_examples(source, preprocess, num, seed)
    num_steps = experiment.process.schedule.num_steps
    candidates = np.unique(np.linspace(1, num_steps, NUM_LEVELS).round().astype(int))
    found = reader(batch.z0, [int(t) for t in candidates], seed)
    levels = {}
    for m in experiment.modalities:
        there = np.asarray(batch.available[m.name])
        even, odd = (there & (np.arange(num) % 2 == part) for part in (0, 1))
        if not (even.any() and odd.any()):
            print(f"{m.name}: no test example has a value to choose by")
            continue
        means = {t: x[m.name] for t, x in found.items()}
        value = np.asarray(batch.values[m.name])
        parts = {t: np.asarray(m.comparable(mean)) for t, mean in means.items()}
        levels[m.name] = best_levels(parts, np.asarray(m.comparable(value)), even)
        average = np.mean([means[t] for t in levels[m.name]], axis=0)
        report(m, average[odd], value[odd], levels[m.name])
    return levels


def error(mean: np.ndarray, value: np.ndarray, rows: np.ndarray) -> float:
    """Mean squared error; the Brier score (over K) of a label's probabilities."""
    return float(np.mean((mean[rows] - value[rows]) ** 2))


def best_levels(
    means: Mapping[int, np.ndarray], value: np.ndarray, rows: np.ndarray
) -> list[int]:
    """The levels whose average has the least error on these rows."""
    ranked = sorted(means, key=lambda t: error(means[t], value, rows))
    averages = [
        np.mean([means[t] for t in ranked[:num]], axis=0)
        for num in range(1, len(ranked) + 1)
    ]
    num = int(np.argmin([error(mean, value, rows) for mean in averages])) + 1
    return sorted(ranked[:num])


def report(
    modality: Modality, mean: np.ndarray, value: np.ndarray, levels: Sequence[int]
) -> None:
    """Prints the error of means [N, ...], and how many are right where that is said."""
    every = np.arange(len(value))
    said, true = (np.asarray(modality.comparable(x)) for x in (mean, value))
    wrong = error(said, true, every)
    line = f"{modality.name}: mean squared error {wrong:.4g} on {len(value)} test "
    line += f"examples, averaged over t = {list(levels)}"
    answers, truth = modality.postprocess(mean), modality.postprocess(value)
    if truth.ndim == 1:
        line += f"; right: {np.mean(answers == truth):.1%}"
    print(line)
