"""Which emoji are variants of one, so that no two of a kind are in different splits."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

HOLDOUT = 5  # of so many kinds one is for testing
# RMS difference, of 1, below which two pictures are nearly the same, at SIDE x SIDE:
# flags of Norway and Svalbard, two keycaps, families that differ by a child. At 0.08
# chains of it join whole groups.
NEAR, SIDE = 0.05, 16
TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}
SIGNS = {"2640", "2642", "FE0F"}  # female, male, and "as a picture"
ADULTS = {"1F468": "1F9D1", "1F469": "1F9D1"}  # man and woman, as person
JOINER, KEYCAP = "200D", "20E3"
FAMILIES = (  # that differ by direction, sex, age, colour, size or phase alone
    "1F3FB 1F3FC 1F3FD 1F3FE 1F3FF",  # skin tones by themselves
    "1F550 1F551 1F552 1F553 1F554 1F555 1F556 1F557 1F558 1F559 1F55A 1F55B "
    "1F55C 1F55D 1F55E 1F55F 1F560 1F561 1F562 1F563 1F564 1F565 1F566 1F567",  # clocks
    "1F311 1F312 1F313 1F314 1F315 1F316 1F317 1F318",  # the moon
    "1F31A 1F31B 1F31C 1F31D",  # its face
    "1F30D 1F30E 1F30F",  # globes
    "1F91B 1F91C",  # fists
    "1F446 1F447 1F448 1F449 261D",  # a finger
    "1F44D 1F44E",  # thumbs
    "1FAF1 1FAF2 1FAF7 1FAF8",  # hands to the right and to the left
    "1F57A 1F483",  # dancers
    "1F466 1F467 1F9D2",  # children
    "1F468 1F469 1F9D1",  # adults
    "1F474 1F475 1F9D3",  # the old
    "1F385 1F936",  # Father and Mother Christmas
    "1F934 1F478 1FAC5",  # crowned
    "1F935 1F470",  # at a wedding
    "1F46B 1F46C 1F46D",  # two who hold hands
    "1F507 1F508 1F509 1F50A",  # loudspeakers
    "1F4D5 1F4D7 1F4D8 1F4D9",  # books
    "231B 23F3",  # hourglasses
    "1F512 1F513 1F510 1F50F",  # locks
    "1F947 1F948 1F949",  # medals
    "2764 1F9E1 1F49B 1F49A 1F499 1FA75 1F49C 1F90E 1F5A4 1FA76 1F90D 1FA77",  # hearts
    "1F534 1F7E0 1F7E1 1F7E2 1F535 1F7E3 1F7E4 26AB 26AA",  # circles
    "1F7E5 1F7E7 1F7E8 1F7E9 1F7E6 1F7EA 1F7EB 2B1B 2B1C 25FC 25FB 25FE 25FD 25AA 25AB",
    "1F536 1F537 1F538 1F539",  # diamonds
    "1F53A 1F53B 1F53C 1F53D",  # triangles
    "2194 2195 2196 2197 2198 2199 2B05 2B06 2B07 27A1 2934 2935 21A9 21AA",  # arrows
    "23EA 23EB 23EC 23E9 23ED 23EE 25B6 25C0",  # arrows on buttons
)
FIRST = {code: f.split()[0] for f in FAMILIES for code in f.split()}


def base_of(unified: str) -> str:
    """The code points of an emoji without what makes variants of it.

    Skin tone, sex and direction, and what else makes one FAMILY.
    """
    whole = unified.upper().split("-")
    if KEYCAP in whole:
        return KEYCAP
    codes = [c for c in whole if c not in SIGNS and c not in TONES]
    if JOINER in codes:
        codes = [ADULTS.get(c, c) for c in codes]
    while codes and codes[-1] in (JOINER, "27A1"):  # an arrow to the right
        codes.pop()
    codes = codes or whole  # a tone by itself
    return FIRST.get(codes[0], codes[0]) if len(codes) == 1 else "-".join(codes)


def kinds(
    bases: Mapping[str, str],
    words: Mapping[str, Sequence[str]],
    hands: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, str]:
    """{base: the least base of its kind}: bases that share words or a picture are one.

    So the head of a cat and the whole of it, and the flags of Norway and of Bouvet
    Island. bases: {file: its base}. words: {file: what it is called}. hands: {file: its
    picture} of each.
    """
    kind = {base: base for base in bases.values()}

    def root(base: str) -> str:
        while kind[base] != base:
            base = kind[base]
        return base

    def join(a: str, b: str) -> None:
        low, high = sorted((root(a), root(b)))
        kind[high] = low

    called: dict[str, str] = {}
    for file, base in bases.items():
        for text in words[file]:
            join(called.setdefault(text, base), base)
    files = list(bases)
    for pictures in hands:
        for i, j in alike(np.stack([pictures[file] for file in files])):
            join(bases[files[i]], bases[files[j]])
    return {base: root(base) for base in kind}


def alike(pictures: np.ndarray) -> list[list[int]]:
    """[i, j] of all pictures, uint8 [N, S, S, 3], that are nearly the same."""
    num, side = pictures.shape[:2]
    by = max(side // SIDE, 1)
    squares = pictures.reshape(num, side // by, by, side // by, by, -1)
    flat = squares.mean(axis=(2, 4), dtype=np.float32).reshape(num, -1) / 255
    squared = np.sum(flat**2, axis=1)
    error = (squared[:, None] + squared - 2 * flat @ flat.T) / flat.shape[1]
    return np.argwhere(np.triu(error < NEAR**2, 1)).tolist()


def split(
    bases: Mapping[str, str],
    words: Mapping[str, Sequence[str]],
    hands: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, str]:
    """{file: 'train' or 'test'}, by a hash of its kind; as of `kinds`."""
    kind = kinds(bases, words, hands)
    return {file: _part(kind[base]) for file, base in bases.items()}


def _part(kind: str) -> str:
    number = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:6]) / 2**48
    return "test" if number < 1 / HOLDOUT else "train"
