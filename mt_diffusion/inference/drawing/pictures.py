"""Examples as pictures: one grid with all variables of each example side by side."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw

from mt_diffusion.inference.drawing import captions
from mt_diffusion.protocol import DRAW, Variable

MIN_SIDE = 64  # smaller images are enlarged, pixel by pixel, to be looked at
MARGIN = 6
TEXT = 14
MOST_TILES, MOST_FILLINGS = 64, 6
TRUTH = "truth"
GIVEN, GENERATED = (214, 120, 0), (70, 70, 70)  # what was given stands out


def grid(
    examples: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    given: Collection[str] = (),
) -> PIL.Image.Image:
    """One tile per example: its pictures side by side, its words below.

    examples: {variable: [N, ...]}, postprocessed. Given variables have an orange frame.
    Of a modality that has a mean and a draw, the mean is shown, and said so.
    """
    means = {n for n in variables if n + DRAW in examples}
    examples = {n: values for n, values in examples.items() if n in variables}
    notes = dict.fromkeys(given, " (given)") | dict.fromkeys(means, " (mean)")
    text = " | ".join(n + notes.get(n, "") for n in examples)
    tiles = []
    for i in range(len(next(iter(examples.values())))):
        row = {n: (variables[n], values[i]) for n, values in examples.items()}
        tiles.append(tile({n: shown(*one) for n, one in row.items()}, given))
    return page(tiles, text)


def restored(
    examples: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    primary: Variable,
    given: Collection[str],
    num: int,
    truth: np.ndarray | None = None,
) -> PIL.Image.Image:
    """`grid`, but where some pixels are given: a tile for each thing to restore.

    In it are the truth, where it is known, what was given, and fillings, 6 at most.
    num: how many things there are, row i being of i mod num. truth: [num, ...].
    """
    known = [n for n in given if type(variables[n]).known is not Variable.known]
    if primary.name in given or not known:
        first = {n: values[:MOST_TILES] for n, values in examples.items()}
        return grid(first, variables, given)
    images = examples[primary.name]
    num = min(num, len(images))
    some = min(num, MOST_TILES)
    parts = {} if truth is None else {TRUTH: truth[:some]}
    parts |= {n: examples[n][:some] for n in given} | {primary.name: images[:some]}
    for k in range(1, min(len(images) // num, MOST_FILLINGS)):
        parts[f"filling {k + 1}"] = images[k * num : k * num + some]
    parts |= {n: values[:some] for n, values in examples.items() if n not in parts}
    made = dict.fromkeys(parts.keys() - examples.keys(), primary)
    return grid(parts, dict(variables) | made, given)


def shown(variable: Variable, value: np.ndarray) -> np.ndarray | str:
    """A value as a picture, or as words that a picture can have."""
    found = variable.show(value)
    return captions.word(found, value) if isinstance(found, str) else found


def legend(
    examples: Mapping[str, np.ndarray], variables: Mapping[str, Variable]
) -> dict[str, str]:
    """{what stands in the grid: the word that is meant}, where that can't be drawn."""
    found = {}
    for name in examples.keys() & variables.keys():
        for value in examples[name]:
            meant = variables[name].show(value)
            drawn = shown(variables[name], value)
            if isinstance(meant, str) and isinstance(drawn, str) and meant != drawn:
                found[drawn] = meant
    return found


def page(
    tiles: Sequence[PIL.Image.Image], text: str, columns: int = 0
) -> PIL.Image.Image:
    """Tiles of one size below a line of text; as a square where columns is 0."""
    num, (width, height) = len(tiles), tiles[0].size
    columns = columns or math.ceil(math.sqrt(num * height / width))
    heading, font = TEXT + 2 * MARGIN, captions.font()
    page_width = max(columns * width, math.ceil(font.getlength(text)) + 2 * MARGIN)
    size = (page_width, heading + math.ceil(num / columns) * height)
    whole = PIL.Image.new("RGB", size, "white")
    PIL.ImageDraw.Draw(whole).text((MARGIN, MARGIN), text, GENERATED, font)
    for i, part in enumerate(tiles):
        whole.paste(part, (i % columns * width, heading + i // columns * height))
    return whole


def tile(shown: Mapping[str, np.ndarray | str], given: Collection[str]):
    """One example: pictures, uint8 [H, W, C], side by side, and words below them."""
    pictures = {n: enlarge(v) for n, v in shown.items() if not isinstance(v, str)}
    words = {n: v for n, v in shown.items() if isinstance(v, str)}
    height = max(p.height for p in pictures.values())
    width = sum(p.width + MARGIN for p in pictures.values()) + MARGIN
    image = PIL.Image.new(
        "RGB", (width, height + TEXT * len(words) + 2 * MARGIN), "white"
    )
    draw = PIL.ImageDraw.Draw(image)
    left = MARGIN
    for name, picture in pictures.items():
        frame = (
            left - 2,
            MARGIN - 2,
            left + picture.width + 1,
            MARGIN + picture.height + 1,
        )
        draw.rectangle(frame, fill=GIVEN if name in given else "white")
        image.paste(picture, (left, MARGIN))
        left += picture.width + MARGIN
    for row, (name, word) in enumerate(words.items()):
        color = GIVEN if name in given else GENERATED
        text, font = captions.fitted(word, width - 2 * MARGIN)
        draw.text((MARGIN, height + MARGIN + 1 + row * TEXT), text, color, font)
    return image


def enlarge(pixels: np.ndarray) -> PIL.Image.Image:
    """uint8 [H, W, 1 or 3] as an image of at least 64 pixels, by a whole factor."""
    image = to_image(pixels)
    factor = math.ceil(MIN_SIDE / min(image.size))
    size = (image.width * factor, image.height * factor)
    return image.resize(size, PIL.Image.Resampling.NEAREST)


def to_image(pixels: np.ndarray) -> PIL.Image.Image:
    """uint8 [H, W, 1 or 3] as it is."""
    return PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
