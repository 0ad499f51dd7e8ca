"""A walk as pictures: each example at the noise levels that it went through."""

import pathlib
from collections.abc import Collection, Mapping

import numpy as np
import PIL.Image
import PIL.ImageDraw

from mt_diffusion.files import writing
from mt_diffusion.inference.drawing import pictures
from mt_diffusion.inference.walks import Trajectory
from mt_diffusion.protocol import Variable

FILE = "trajectory"
MOST_FRAMES, MOST_COLUMNS = 60, 10
IN_FRAME, IN_STRIP = 16, 8  # examples
HEIGHT = 24  # pixels of a bar that means 1
MOST_BARS = 20  # classes, the likeliest at the end of any walk


def write(
    out: pathlib.Path,
    walk: Trajectory,
    variables: Mapping[str, Variable],
    given: Collection[str],
) -> None:
    """The walk as trajectory.gif, a strip of it as .png, and all of it as .npz."""
    writing.animation(out / f"{FILE}.gif", frames(walk, variables, given))
    writing.image(out / f"{FILE}.png", strip(walk, variables, given))
    writing.arrays(
        out / f"{FILE}.npz", {"t": walk.t, "noise": walk.noise} | walk.values
    )


def frames(
    walk: Trajectory, variables: Mapping[str, Variable], given: Collection[str]
) -> list[PIL.Image.Image]:
    """Pictures of the first 16 examples, of 60 steps at most, the last among them."""
    made = []
    for step in spread(len(walk.t), MOST_FRAMES):
        tiles = [
            tile(walk, step, i, variables, given)
            for i in range(min(num_of(walk), IN_FRAME))
        ]
        text = f"t = {walk.t[step]:4d}  noise {walk.noise[step]:.2f}"
        made.append(pictures.page(tiles, text))
    return made


def strip(
    walk: Trajectory, variables: Mapping[str, Variable], given: Collection[str]
) -> PIL.Image.Image:
    """The first 8 examples, one a row, at 10 steps or fewer, from left to right."""
    steps = spread(len(walk.t), MOST_COLUMNS)
    tiles = [
        tile(walk, step, i, variables, given)
        for i in range(min(num_of(walk), IN_STRIP))
        for step in steps
    ]
    text = "t = " + ", ".join(str(walk.t[step]) for step in steps)
    return pictures.page(tiles, text, len(steps))


def num_of(walk: Trajectory) -> int:
    """N."""
    return len(next(iter(walk.values.values()))[0])


def spread(num: int, most: int) -> list[int]:
    """So many of 0 to num - 1, evenly, with both ends."""
    return sorted({round(x) for x in np.linspace(0, num - 1, min(num, most))})


def tile(
    walk: Trajectory,
    step: int,
    i: int,
    variables: Mapping[str, Variable],
    given: Collection[str],
) -> PIL.Image.Image:
    """One example at one step: its pictures, and chances of its classes as bars."""
    shown: dict[str, np.ndarray | str] = {}
    chances = {}
    for name, values in walk.values.items():
        variable, value = variables[name], values[step, i]
        if value.shape == (len(getattr(variable, "class_names", ())),):
            best = variable.postprocess(value[None])[0]
            shown[name] = f"{value.max():.0%} {pictures.shown(variable, best)}"
            chances[name] = value[likeliest(values)]
        else:
            shown[name] = pictures.shown(variable, value)
    found = pictures.tile(shown, given)
    for name, heights in chances.items():
        color = pictures.GIVEN if name in given else pictures.GENERATED
        found = above(found, bars(heights, found.width, color))
    return found


def likeliest(values: np.ndarray) -> np.ndarray:
    """Numbers of the classes, in their order, that chances [S, N, K] end with."""
    ranked = np.argsort(-values[-1].max(axis=0), kind="stable")
    return np.sort(ranked[:MOST_BARS])


def bars(
    heights: np.ndarray, width: int, color: tuple[int, int, int]
) -> PIL.Image.Image:
    """A bar for each number in [0, 1]."""
    image = PIL.Image.new("RGB", (width, HEIGHT + 2), "white")
    draw = PIL.ImageDraw.Draw(image)
    edges = np.linspace(pictures.MARGIN, width - pictures.MARGIN, len(heights) + 1)
    draw.line((edges[0], HEIGHT, edges[-1], HEIGHT), (200, 200, 200))
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        top = round(HEIGHT * (1 - float(height)))
        draw.rectangle((round(left), top, max(round(right) - 2, left), HEIGHT), color)
    return image


def above(upper: PIL.Image.Image, lower: PIL.Image.Image) -> PIL.Image.Image:
    """One picture above another of the same width."""
    whole = PIL.Image.new("RGB", (upper.width, upper.height + lower.height), "white")
    whole.paste(upper, (0, 0))
    whole.paste(lower, (0, upper.height))
    return whole
