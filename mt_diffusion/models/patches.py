"""Squares of pixels that are one place of a network each."""

from jaxtyping import Array, Float

Image = Float[Array, "b h w c"]


def fold(x: Image, side: int) -> Image:
    """Squares of side x side pixels as one place each, with all their channels."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // side, side, width // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(
        b, height // side, width // side, side * side * c
    )


def unfold(x: Image, side: int) -> Image:
    """The pixels that `fold` has put together."""
    b, height, width, c = x.shape
    x = x.reshape(b, height, width, side, side, c // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height * side, width * side, -1)
