"""Which emoji are variants of one, so that no two of a kind are in different splits."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

HOLDOUT = 5  # of so many kinds one is for testing
TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
SIGNS = {"2640", "2642", "FE0F"}  # female, male, and "as a picture"
ADULTS = {"1F468": "1F9D1", "1F469": "1F9D1"}  # man and woman, as person
JOINER = "200D"
CLOCKS = range(0x1F550, 0x1F568)


def base_of(unified: str) -> str:
    """The code points of an emoji without what makes variants of it.

    Skin tone, sex and direction, and the time of a clock.
    """
    codes = unified.upper().split("-")
    if len(codes) == 1 and int(codes[0], 16) in CLOCKS:
        return f"{CLOCKS[0]:X}"
    codes = [c for c in codes if c not in SIGNS and c not in TONES]
    if JOINER in codes:
        codes = [ADULTS.get(c, c) for c in codes]
    while codes and codes[-1] in (JOINER, "27A1"):  # an arrow to the right
        codes.pop()
    return "-".join(codes) or unified


def kinds(
    bases: Mapping[str, str], hands: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, str]:
    """{base: the least base of its kind}: bases that share a picture are of one.

    So the flag of Norway and that of Bouvet Island, which is the same. bases: {file:
    its base}. hands: {file: its picture} of each.
    """
    kind = {base: base for base in bases.values()}

    def root(base: str) -> str:
        while kind[base] != base:
            base = kind[base]
        return base

    for pictures in hands:
        seen: dict[bytes, str] = {}
        for file, base in bases.items():
            first = seen.setdefault(pictures[file].tobytes(), base)
            low, high = sorted((root(first), root(base)))
            kind[high] = low
    return {base: root(base) for base in kind}


def split(
    bases: Mapping[str, str], hands: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, str]:
    """{file: 'train' or 'test'}, by a hash of its kind."""
    kind = kinds(bases, hands)
    return {file: _part(kind[base]) for file, base in bases.items()}


def _part(kind: str) -> str:
    number = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:6]) / 2**48
    return "test" if number < 1 / HOLDOUT else "train"
