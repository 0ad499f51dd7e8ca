"""What encoders of sentences give, and what they have in common."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mt_diffusion.files.names import shown

AT_ONCE = 64  # texts


class Encoded(NamedTuple):
    """Texts as an encoder has them.

    pooled: float32 [N, D], of length 1. tokens: float32 [N, L, E], E mostly D. mask:
    bool [N, L]. lengths: int32 [N], of the tokens that a text has, which may be more.
    """

    pooled: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray

    def tell_unread(self, texts: Sequence[str]) -> None:
        """Says of which texts some tokens are not among the L."""
        room = self.mask.shape[1]
        long = np.flatnonzero(self.lengths > room)
        if len(long):
            print(
                f"the network reads {room} tokens of each text (most_tokens): not all "
                f"of {len(long):,} of {len(texts):,}, as {told(texts[long[0]])} ..."
            )


@runtime_checkable
class Sentences(Protocol):
    """An encoder; size: D, width: E."""

    size: int
    width: int

    @property
    def digest(self) -> str:
        """Stands for all that its vectors depend on."""
        ...

    def __call__(self, texts: Sequence[str], num_tokens: int) -> Encoded:
        """Texts, of which the first `num_tokens` tokens are given beside the vector."""
        ...


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def told(text: str) -> str:
    """The beginning of a text, for a line of the terminal."""
    return repr(shown(text[:60]))


def in_parts(
    some: Callable[[Sequence[Sequence[int]], int], Encoded],
    found: list[list[int]],
    texts: Sequence[str],
    num_tokens: int,
    most: int,
) -> Encoded:
    """What `some` gives of the ids of texts, of which it gets AT_ONCE at most.

    found: of each text its ids, of which all but the last are cut to the `most` that
    the encoder reads; says of which texts.
    """
    long = [i for i, ids in enumerate(found) if len(ids) > most]
    for i in long:
        found[i] = found[i][: most - 1] + found[i][-1:]
    if long:
        print(
            f"cut to the {most} tokens that the encoder reads: {len(long):,} of "
            f"{len(texts):,} texts, as {told(texts[long[0]])} ..."
        )
    parts = [
        some(found[i : i + AT_ONCE], num_tokens) for i in range(0, len(found), AT_ONCE)
    ]
    return Encoded(*map(np.concatenate, zip(*parts, strict=True)))
