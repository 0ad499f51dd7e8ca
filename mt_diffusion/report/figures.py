"""Figures of a report: a picture inside the page, its caption, its words for the blind.

Every picture is a data URI, so that the page needs no other file.
"""

import base64
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from mt_diffusion.report import plots
from mt_diffusion.report.plots import Line
from mt_diffusion.report.record import NORM, SHARE, SPEED, TEST, WAIT, Run, Series
from mt_diffusion.training.watch import WALK

MOST_SIDE = 1400  # pixels of a picture
SIDE_BY_SIDE = 800  # the same where there are many, none of them wider than a column
MOST_BYTES = 300_000  # of a PNG; a picture that needs more becomes a JPEG
BROKEN = (200, 200)  # pixels of what stands in the place of a broken one
PANEL = (round(96 * plots.SIZE[0]), round(96 * plots.SIZE[1]))


class Figure(NamedTuple):
    """source: a data URI. alt: in place of the picture. size: in CSS pixels."""

    source: str
    title: str
    caption: str
    alt: str
    size: tuple[int, int]


class Key(NamedTuple):
    """What a colour stands for."""

    text: str
    color: str
    dashes: str


def key(texts: Sequence[str]) -> list[Key]:
    """The legend of the curves that have these places in the order."""
    return [Key(text, *plots.appearance(i)) for i, text in enumerate(texts)]


def number(value: float | None) -> str:
    """For people: 12,345, 0.1235, 1.2e-05; a dash where there is none."""
    if value is None:
        return "–"
    whole = isinstance(value, int) or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def picture(
    path: pathlib.Path, title: str, caption: str, alt: str, most_side: int = MOST_SIDE
) -> Figure:
    """A picture from disk, encoded anew with sides of at most most_side pixels.

    In place of a broken one stands a grey one, and its caption says so.
    """
    try:
        with path.open("rb") as file, PIL.Image.open(file) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # whatever a damaged file makes its reader raise
        print(f"passed over {path}, which is broken ({error})")
        image, caption = PIL.Image.new("RGB", BROKEN, "gray"), f"{caption}: broken file"
    image.thumbnail((most_side, most_side))
    data, kind = encoded(image, "PNG", optimize=True), "png"
    if len(data) > MOST_BYTES:
        data, kind = encoded(image, "JPEG", quality=85), "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Figure(source, title, caption, alt, image.size)


def encoded(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def losses(run: Run) -> list[Figure]:
    """One panel per term: training, its moving average, and test."""
    return [
        loss(name, run.series.get(name), run.series.get(TEST + name))
        for name in run.terms
    ]


def loss(name: str, train: Series | None, test: Series | None) -> Figure:
    """The panel of one term."""
    lines, words = [], []
    if train is not None:
        lines.append(Line(train, 0, True))
        words.append(f"train {course(plots.trend(lines[0]).values)}")
    if test is not None:
        lines.append(Line(test, 1, False))
        words.append(f"test {course(test.values)}")
    return panel(lines, name, "; ".join(words))


def course(values: np.ndarray) -> str:
    """The first and the last of some values."""
    first, last = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return last if len(values) == 1 else f"{first} → {last}"


def panel(lines: Sequence[Line], title: str, caption: str) -> Figure:
    """Curves of one quantity."""
    alt = f"Line chart over training steps, {title}: {caption}."
    return Figure(plots.panel(lines), title, caption, alt, PANEL)


def share_names(run: Run) -> list[str]:
    """The variables that have a gradient share."""
    names = [n.removeprefix(SHARE) for n in run.series if n.startswith(SHARE)]
    return sorted(names)


def shares(run: Run) -> Figure | None:
    """The share of each variable in the gradient of the shared network."""
    names = share_names(run)
    if not names:
        return None
    lines = [Line(run.series[SHARE + n], i, False) for i, n in enumerate(names)]
    last = [
        f"{n} {line.series.values[-1]:.0%}"
        for n, line in zip(names, lines, strict=True)
    ]
    title, caption = "Share of the gradient", "in the end " + ", ".join(last)
    alt = f"Line chart over training steps, {title}: {caption}."
    return Figure(plots.panel(lines, (0, 1)), title, caption, alt, PANEL)


def speed(run: Run) -> list[Figure]:
    """Images per second, how long they were waited for, and the gradient's norm."""
    found = []
    for name, title in ((SPEED, "Images per second"), (NORM, "Gradient norm")):
        if name in run.series:
            median = number(float(np.median(run.series[name].values)))
            line = Line(run.series[name], 0, True)
            caption = f"median {median}"
            if name == SPEED and WAIT in run.series:
                share = float(np.mean(run.series[WAIT].values))
                caption += f"; {share:.0%} of the time waited for data"
            found.append(panel([line], title, caption))
    return found


def spread(steps: Sequence[int]) -> dict[str, int]:
    """The last, the middle and the first of some steps in order, by these words."""
    last = len(steps) - 1
    places = {"middle": last // 2, "first": 0, "last": last}  # the later word wins
    words = {place: word for word, place in places.items()}
    return {words[place]: steps[place] for place in sorted(words, reverse=True)}


def grids(run: Run) -> dict[str, list[Figure]]:
    """{kind in words: its last, middle and first grid}."""
    found: dict[str, list[Figure]] = {}
    for kind, paths in run.pictures.items():
        words = kind_in_words(kind)
        found[words] = []
        for place, step in spread(sorted(paths)).items():
            alt = f"Grid of samples at step {step:,}. {words}."
            title = f"Step {step:,}"
            found[words].append(picture(paths[step], title, place, alt))
    return found


def kind_in_words(kind: str) -> str:
    """'joint', 'walk' or 'given_NAME' for people."""
    if kind == WALK:
        return "From noise on the left to the examples that are generated"
    is_given, name = kind.startswith("given_"), kind.removeprefix("given_")
    return f"Given {name}, the rest generated" if is_given else "Everything generated"


def overlaid(runs: Mapping[str, Run]) -> list[Figure]:
    """One panel per term and part of the data, with a curve of every run."""
    found = []
    terms = dict.fromkeys(term for run in runs.values() for term in run.terms)
    for term in terms:
        for part, prefix, is_noisy in (("train", "", True), ("test", TEST, False)):
            lines = {
                run_name: Line(run.series[prefix + term], i, is_noisy)
                for i, (run_name, run) in enumerate(runs.items())
                if prefix + term in run.series
            }
            if any(len(line.series.steps) > 1 for line in lines.values()):
                last = {n: plots.trend(x).values[-1] for n, x in lines.items()}
                least = min(last, key=last.__getitem__)
                caption = f"lowest in the end: {least} {number(float(last[least]))}"
                found.append(panel([*lines.values()], f"{term}, {part}", caption))
    return found
