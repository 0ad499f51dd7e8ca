"""Frozen networks that look at images, and what they see.

A network is a pytree, its parameters the leaves, so that `jit` takes these as arguments
and does not compile them in.
"""

from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, UInt8


class Features(NamedTuple):
    """What a network sees in N images; arrays of JAX, or of numpy.

    pooled: averages over the image. spatial: some channels of a map of middle
    resolution, for sFID, if it has any. logits: of K classes.
    """

    pooled: Float[Any, "n d"]
    spatial: Float[Any, "n s"] | None
    logits: Float[Any, "n k"]


class Network(Protocol):
    """A frozen network and a pytree; `digest` stands for its parameters."""

    @property
    def name(self) -> str:
        """Of its kind."""
        ...

    @property
    def digest(self) -> str:
        """Of its parameters."""
        ...

    def apply(self, images: UInt8[Array, "b h w c"]) -> Features:
        """Features of a batch; pure."""
        ...
