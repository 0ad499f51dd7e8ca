"""From one example to another: by their noise, or by a value that is given."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import writing
from mt_diffusion.inference.drawing import pictures
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import batches, sharding
from mt_diffusion.protocol import Variable

SEED = "seed"
FILE = "interpolation.gif"
MOST = 1000  # pictures


class Way(NamedTuple):
    """N places from one end to the other.

    name: of what changes. seeds: whose noise there is at the ends. angles: from that of
    the first to that of the second, [N]. given: {variable: values [N, ...]}. texts:
    what says where each is.
    """

    name: str
    seeds: tuple[int, int]
    angles: np.ndarray
    given: dict[str, np.ndarray]
    texts: list[str]


def parse(
    text: str,
    experiment: Experiment,
    given: Mapping[str, np.ndarray],
    seed: int,
    num: int,
) -> Way:
    """What `--interpolate=seed=A,B` or `--interpolate=NAME=A,B` says.

    given: other values, one of each variable. seed: of the noise, where that stays.
    num: of places, with both ends. Raises UserError for what has no two ends, or
    nothing between them.
    """
    name, _, rest = text.partition("=")
    flag = f"--interpolate={text}"
    if name != SEED and name not in experiment.variables:
        raise UserError(
            f"{flag} names nothing that has a way from one to another: write "
            f"--interpolate={SEED}=A,B for the noise of two seeds, or NAME=A,B for "
            f"values of it, with NAME one of {', '.join(experiment.variables)}."
        )
    if not 2 <= num <= MOST:
        raise UserError(
            f"{flag} is a way of 2 to {MOST} pictures, its two ends among them, and "
            f"not of {num}; name another --num_samples."
        )
    several = [n for n, values in given.items() if len(values) != 1]
    if several or name in given:
        wrong = name if name in given else several[0]
        raise UserError(
            f"{flag} can't go with several values of --given={wrong}=...: give one "
            "value of each variable that stays as it is, and none of the one that "
            "changes."
        )
    shares = np.linspace(0, 1, num)
    stay = {n: np.repeat(values, num, axis=0) for n, values in given.items()}
    texts = [f"{text} at {share:.3f}" for share in shares]
    if name == SEED:
        ends = seeds_of(rest, flag)
        return Way(name, ends, shares * np.pi / 2, stay, texts)
    variable = experiment.variables[name]
    values = variable.read(rest)
    found = 0 if values is None else len(values)
    if values is None or found != 2:
        raise UserError(
            f"{flag} names {found} values of {name}; a way is from one to "
            "another, so it takes two."
        )
    stay[name] = variable.between(values[0], values[1], shares.astype(np.float32))
    return Way(name, (seed, seed), 0 * shares, stay, texts)


def seeds_of(text: str, flag: str) -> tuple[int, int]:
    """Two seeds, A,B; UserError for anything else."""
    parts = text.split(",")
    if len(parts) == 2 and all(p.isascii() and p.isdecimal() for p in parts):
        first, second = map(int, parts)
        if max(first, second) < 2**31:
            return first, second
    raise UserError(
        f"{flag} takes two seeds, whole numbers from 0 to {2**31 - 1} with a comma "
        f"between them, as --interpolate={SEED}=3,7."
    )


def draw(generator: Generator, params: Any, way: Way, what: str) -> dict[str, Any]:
    """Example 0 at all places of a way, postprocessed. what: before the progress."""
    num = len(way.angles)

    def at(places: np.ndarray) -> dict[str, np.ndarray]:
        angles = {"": way.angles.astype(np.float32)}  # the name of no variable
        rows, values = generator.placed(places, way.given | angles)
        turned = way.seeds[1], values.pop("")
        args = (params, way.seeds[0], 0 * rows, values, turned)
        return generator.checked(sharding.fetch(generator.draw(*args)), args)

    places = batches.through(at, range(num), generator.batch_size(num), what)
    return generator.postprocess(places)


def write(
    out: pathlib.Path,
    examples: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    name: str,
) -> None:
    """The examples of a way one after the other, as a film, there and back."""
    num = len(next(iter(examples.values())))
    frames = [
        pictures.grid({n: x[i : i + 1] for n, x in examples.items()}, variables, [name])
        for i in range(num)
    ]
    writing.animation(out / FILE, frames + frames[-2:0:-1], last=0)
