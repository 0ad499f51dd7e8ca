"""What the page shows, as HTML that holds its own pictures: nothing lies in a file.

Names are escaped here, and nowhere else.
"""

import base64
import html
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mt_diffusion.demo import asked
from mt_diffusion.files import names
from mt_diffusion.protocol import DRAW, Variable

WIDTH = 112  # pixels of a picture on the page, about
MOST_BARS = 20  # classes; of more the most probable are shown
MOST_FRAMES = 60  # of a walk
NEAR = 0.1  # of the way that a picture changes in a walk, from which on it is decided
TYPES = {"png": "image/png", "npy": "application/octet-stream", "csv": "text/csv"}
TYPES["npz"] = TYPES["npy"]


class Walk(NamedTuple):
    """One example's walk of S steps: t, and what each step takes the end to be.

    times: [S], falling. pictures: {variable: uint8 [S, H, W, C]}. chances: {variable:
    probabilities [S, K]}.
    """

    times: np.ndarray
    pictures: Mapping[str, np.ndarray]
    chances: Mapping[str, np.ndarray]


def text(name: str) -> str:
    """A name, for a page."""
    return html.escape(names.shown(name))


def data(content: bytes, kind: str) -> str:
    """The address of a file's content that is the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(pixels: np.ndarray, name: str, is_given: bool = False) -> str:
    """Of uint8 [H, W, 1 to 4], enlarged by a whole factor."""
    height, width, _ = pixels.shape
    factor = math.ceil(WIDTH / max(height, width))
    marked = " mt-given" if is_given else ""
    return (
        f'<img class="mt-picture{marked}" src="{data(asked.png(pixels), "image/png")}" '
        f'width="{factor * width}" height="{factor * height}" alt="{text(name)}" '
        f'title="{text(name)}{" (given)" if is_given else ""}">'
    )


def example(
    items: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    given: Collection[str],
) -> str:
    """One example: its pictures side by side, its words below."""
    pictures, words = [], []
    for name, item in items.items():
        found = variables[name].show(item)
        if isinstance(found, str):
            words.append(f"<b>{text(found)}</b>" if name in given else text(found))
        else:
            pictures.append(picture(found, name, name in given))
    caption = f"<figcaption>{' · '.join(words)}</figcaption>" if words else ""
    return f"<figure>{''.join(pictures)}{caption}</figure>"


def gallery(
    examples: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    given: Collection[str],
) -> str:
    """Examples {variable: [N, ...]}, postprocessed; of a mean and a draw, the mean."""
    means = [n for n in examples if n + DRAW in examples]
    shown = {n: values for n, values in examples.items() if n in variables}
    head = " | ".join(
        text(n) + (" (given)" if n in given else " (mean)" if n in means else "")
        for n in shown
    )
    num = len(next(iter(shown.values())))
    items = [{n: values[i] for n, values in shown.items()} for i in range(num)]
    return (
        f'<p class="mt-head">{head}</p><div class="mt-gallery">'
        + "".join(example(item, variables, given) for item in items)
        + "</div>"
    )


def bars(chances: np.ndarray, classes: Sequence[str]) -> str:
    """Probabilities [K] as bars, in the order of the classes; the largest of many."""
    chosen = np.sort(np.argsort(-chances)[:MOST_BARS])
    best = int(np.argmax(chances))
    rows = "".join(
        f'<div class="mt-bar{" mt-best" if k == best else ""}">'
        f"<span>{text(classes[k])}</span>"
        f'<i><b style="width:{100 * float(chances[k]):.1f}%"></b></i>'
        f"<span>{100 * float(chances[k]):.0f}%</span></div>"
        for k in chosen
    )
    return f'<div class="mt-bars">{rows}</div>'


def reading(
    pixels: np.ndarray,
    said: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    classes: Mapping[str, Sequence[str]],
) -> str:
    """A picture, and what the heads say of it: {modality: its mean}."""
    parts = [picture(pixels, "given", True)]
    for name, mean in said.items():
        if name in classes:
            told = bars(mean, classes[name])
        else:
            item = variables[name].postprocess(mean[None])[0]
            told = example({name: item}, variables, ())
        parts.append(f'<div><div class="mt-head">{text(name)}</div>{told}</div>')
    return f'<div class="mt-frame mt-reading">{"".join(parts)}</div>'


def walk(
    found: Walk, classes: Mapping[str, Sequence[str]], given: Collection[str]
) -> str:
    """A walk to play and to go through: `walk.js` shows one of its frames at a time."""
    num = len(found.times)
    chosen = np.unique(np.linspace(0, num - 1, min(num, MOST_FRAMES)).astype(int))
    frames = []
    for i in chosen:
        pictures = "".join(
            picture(x[i], n, n in given) for n, x in found.pictures.items()
        )
        chances = "".join(
            f'<div><div class="mt-head">{text(n)}</div>{bars(x[i], classes[n])}</div>'
            for n, x in found.chances.items()
        )
        frames.append(
            f'<div class="mt-frame" data-t="{int(found.times[i])}">'
            f"<div>{pictures}</div>{chances}</div>"
        )
    return (
        '<div class="mt-walk"><div class="mt-row"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" '
        'aria-label="step of the walk"><output></output></div>'
        f"{''.join(frames)}</div><p>{decided(found, classes, given)}</p>"
    )


def decided(
    found: Walk, classes: Mapping[str, Sequence[str]], given: Collection[str]
) -> str:
    """From which noise level on what was made stayed what it is in the end."""
    said = []
    for name in [n for n in found.chances if n not in given]:
        chances = found.chances[name]
        best = np.argmax(chances, -1)
        t = since(best == best[-1], found.times)
        said.append(f"{text(name)} is {text(classes[name][best[-1]])} from t = {t} on")
    for name in [n for n in found.pictures if n not in given]:
        steps = found.pictures[name]
        away = np.abs(steps.astype(float) - steps[-1]).mean((1, 2, 3))
        t = since(away <= NEAR * max(away.max(), 1e-9), found.times)
        said.append(f"{text(name)} is within {NEAR:.0%} of its end from t = {t} on")
    return "; ".join(said) + "."


def since(holds: np.ndarray, times: np.ndarray) -> int:
    """The time of the first step from which on all hold, the last one at least."""
    last = np.flatnonzero(~holds[:-1])
    return int(times[last[-1] + 1 if len(last) else 0])


def downloads(files: Mapping[str, bytes]) -> str:
    """Links that save what they hold."""
    links = (
        f'<a download="{text(name)}" href="{data(content, kind)}">{text(name)}</a>'
        for name, content in files.items()
        for kind in [TYPES[name.rpartition(".")[2]]]
    )
    return f'<p class="mt-downloads">{" ".join(links)}</p>'
