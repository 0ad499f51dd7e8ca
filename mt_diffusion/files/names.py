"""Names that strangers gave: shown so that no terminal acts on them; their order."""

import os
import re
import unicodedata
from collections.abc import Sequence

# Control, format (as what reverses the direction of writing), surrogates of bytes that
# are no UTF-8, separators of lines, and what is not assigned.
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MOST = 3  # names that an error lists


def shown(name: object) -> str:
    r"""A name with what can't be seen as an escape, such as \x1b; else as it is.

    name: a text, a path, or what has its name as its text, as a part of a file does.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else str(name)
    return "".join(map(_shown, text))


def _shown(letter: str) -> str:
    if unicodedata.category(letter) not in UNSEEN:
        return letter
    return ascii(letter)[1:-1]


def some(found: Sequence[str | os.PathLike]) -> str:
    """The first three of some names, and dots where there are more."""
    dots = ", ..." if len(found) > MOST else ""
    return ", ".join(map(shown, found[:MOST])) + dots


def natural(name: str | os.PathLike) -> tuple:
    """What to sort by, so that 2 comes before 10, in each part of a path."""
    text = os.fspath(name)
    parts = (re.split("([0-9]+)", part) for part in text.split("/"))
    return tuple(tuple(map(_weight, part)) for part in parts), text


def _weight(part: str) -> tuple[int, int, str]:
    is_number = part.isascii() and part.isdecimal()
    return (0, int(part), "") if is_number else (1, 0, part)


def same(name: str) -> str:
    """A name in the one form of Unicode (NFC) that is compared."""
    return unicodedata.normalize("NFC", name)
