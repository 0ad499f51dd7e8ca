"""Words in a picture: in the scripts that the font has, no wider than their place."""

import functools
import unicodedata

import numpy as np
import PIL.features
import PIL.ImageFont

SIZE, SMALLEST = 12, 8  # pixels
DOTS = "…"


@functools.cache
def font(size: int = SIZE) -> PIL.ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, ..."""
    return PIL.ImageFont.truetype(_path(), size)


def _path() -> str:
    import matplotlib  # where words are drawn, and not before

    return f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@functools.cache
def _letters() -> frozenset[int]:
    from matplotlib import ft2font

    return frozenset(ft2font.FT2Font(_path()).get_charmap())


def can_draw(text: str) -> bool:
    """Whether the font has all of a text, and what puts it from right to left."""
    is_shaped = PIL.features.check("raqm")
    return all(
        ord(letter) in _letters()
        and (is_shaped or unicodedata.bidirectional(letter) not in ("R", "AL"))
        for letter in text
    )


def word(shown: str, value: np.ndarray) -> str:
    """What a picture says of a value that is shown as this word.

    Where the font has no letters for it, the number of its class; of what has none, its
    code points, as U+732B.
    """
    if can_draw(shown):
        return shown
    if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer):
        return f"class {int(value)}"
    return " ".join(f"U+{ord(letter):04X}" for letter in shown)


def fitted(text: str, width: int) -> tuple[str, PIL.ImageFont.FreeTypeFont]:
    """A text and its font, so that it is `width` pixels wide at most.

    It shrinks; where that is not enough, dots stand for its end.
    """
    for size in range(SIZE, SMALLEST - 1, -1):
        if font(size).getlength(text) <= width:
            return text, font(size)
    smallest = font(SMALLEST)
    while text and smallest.getlength(text + DOTS) > width:
        text = text[:-1]
    return text + DOTS, smallest
