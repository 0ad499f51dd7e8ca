"""What an evaluation asks a model for, and its answers on disk, part by part.

A draw is a set of given variables; the others are generated. The values given are those
of test examples. Example i depends on (seed, i) and its given values alone, so a draw
that was interrupted goes on where it ended, to the same result.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import paths, weights, writing
from mt_diffusion.inference import parts
from mt_diffusion.inference.generation import Generator
from mt_diffusion.protocol import Batch

FILLS = 4  # of each example of which only some pixels are known
VALUES = "values_"  # before the name of a vector as the model has it
Arrays = dict[str, np.ndarray]


class Draw(NamedTuple):
    """Which variables are given, in the experiment's order."""

    given: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its folder: joint, or given_A_B."""
        return "_".join(["given", *self.given]) if self.given else "joint"


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A draw with its answers.

    made: {variable: [N, ...]} as files have them. values: of generated vectors, as the
    model has them (a label's probabilities). truth: values {variable: [M, ...]} of test
    examples, of which row i mod M gave what row i was given; some of these lack values,
    `available` {modality: [M]}.
    """

    draw: Draw
    made: Arrays
    values: Arrays
    truth: Arrays
    available: Arrays

    def true(self, name: str) -> np.ndarray:
        """Values [N, ...] of the test examples row by row."""
        values = self.truth[name]
        return values[np.arange(self.num) % len(values)]

    @property
    def groups(self) -> np.ndarray:
        """Which rows hang together [N]: those of one given example, if one is given."""
        every = np.arange(self.num)
        return every % self.num_true if self.draw.given else every

    @property
    def num(self) -> int:
        """N."""
        return len(next(iter(self.made.values())))

    @property
    def num_true(self) -> int:
        """M."""
        return len(next(iter(self.truth.values())))


def every(experiment: Experiment) -> list[Draw]:
    """All proper subsets of the variables, the smallest first."""
    names = list(experiment.variables)
    sizes = range(len(names))
    return [Draw(s) for size in sizes for s in itertools.combinations(names, size)]


def choose(names: str, experiment: Experiment) -> list[Draw]:
    """The draws of a text such as 'joint,given_label'; all where it is empty."""
    found = {draw.name: draw for draw in every(experiment)}
    wanted = [name.strip() for name in names.split(",")] if names else list(found)
    if unknown := [name for name in wanted if name not in found]:
        raise UserError(
            f"--draws names {', '.join(unknown)}, which this model can't do; choose "
            f"some of {', '.join(found)}, separated by commas."
        )
    return [found[name] for name in dict.fromkeys(wanted)]


def fixes_pixels(draw: Draw, experiment: Experiment, truth: Mapping[str, Any]) -> bool:
    """Whether some pixels of the image are given, but not all: a restoration."""
    if experiment.primary.name in draw.given:
        return False
    given = [(experiment.variables[n], jnp.asarray(truth[n][:1])) for n in draw.given]
    return any(variable.known(value) is not None for variable, value in given)


def examples_for(
    draw: Draw, experiment: Experiment, test: Batch, num: int
) -> tuple[Arrays, Arrays]:
    """(truth, available) of the test examples that have all that is to be given.

    At most `num` of them; a quarter where each is to be filled in four times. Raises
    UserError where there are none.
    """
    there = np.ones(len(test.z0), bool)
    for name in draw.given:
        there &= np.asarray(test.available.get(name, there))
    rows = np.flatnonzero(there)
    if not len(rows):
        raise UserError(
            f"no test example has a value for {' and '.join(draw.given)}, so there is "
            f"nothing to give; leave {draw.name} out with --draws."
        )
    truth = {experiment.primary.name: test.z0} | dict(test.values)
    fills = FILLS if fixes_pixels(draw, experiment, truth) else 1
    rows = rows[: max(num // fills, 1)]
    available = {n: np.asarray(a)[rows] for n, a in test.available.items()}
    return {n: np.asarray(v)[rows] for n, v in truth.items()}, available


def carry_out(
    draw: Draw,
    experiment: Experiment,
    generator: Generator,
    params: Any,
    test: Batch,
    num: int,
    seed: int,
    folder: pathlib.Path,
) -> Drawn:
    """Draws `num` examples into folder/samples.npz, unless it is there."""
    truth, available = examples_for(draw, experiment, test, num)
    writing.stay_within(folder / parts.FOLDER, folder.parent)
    found = weights.kept(folder / "samples.npz")
    if found is None:
        given = {name: truth[name] for name in draw.given}

        def make(rows: range) -> Arrays:
            values = generator.values(params, seed, rows, given)
            return as_files(values, draw, experiment)

        place, size = folder / parts.FOLDER, generator.batch_size(num)
        place.mkdir(parents=True, exist_ok=True)
        found = parts.carry_out(place, num, size, make, draw.name)
        writing.arrays(folder / "samples.npz", found)
    paths.remove(folder / parts.FOLDER)
    values = {n: v for n, v in found.items() if n.startswith(VALUES)}
    return Drawn(
        draw=draw,
        made={n: v for n, v in found.items() if n not in values},
        values={n.removeprefix(VALUES): v for n, v in values.items()},
        truth=truth,
        available=available,
    )


def as_files(values: Arrays, draw: Draw, experiment: Experiment) -> Arrays:
    """Values as files have them; generated vectors also as the model has them."""
    made = {n: experiment.of(n).postprocess(v) for n, v in values.items()}
    vectors = {n: v for n, v in values.items() if v.ndim == 2 and n not in draw.given}
    return made | {VALUES + n: v for n, v in vectors.items()}
