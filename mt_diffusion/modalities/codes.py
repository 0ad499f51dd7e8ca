"""Fixed orthogonal codes in the diffusion space, made from a recipe.

What a code shares with images can't be told from them: its *leak*. So the default are
codes of high frequencies, of which images have little (0.02 of white noise's unit
variance in each direction on Fashion-MNIST, where white codes have 0.8).

All codes of a model are orthogonal to each other (method.md, eq. 19), so that one
modality's drift can't be taken for another's, each still of its own family. They are
made in the order of their seeds, then of the modalities' names; those made later change
none. (So a modality that joins a trained model with the seed 1 leaves the codes of the
others as they were.)
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build

Shape = tuple[int, int, int]
# Version 0: seeds without the modality's name, signs of labels' codes as LAPACK left
# them. Version 1: orthogonal within a modality alone, as those of version 2 if alone.
# Kept for the checkpoints of their time.
NEWEST = 2
RECIPE = {"family": str, "side": int, "seed": int, "version": int}
TOGETHER = 2  # from this version on they are orthogonal to other modalities' as well
LEAST = 1e-6  # of a unit code that counts, where it lies in another family's space


class Family(NamedTuple):
    """Images of one kind, a linear space of them.

    draw: (generator, number, shape, side) -> random ones [K, H, W, C]. project: images
    [K, H, W, C] and the side -> those of the family that are nearest to them.
    """

    draw: Callable[[np.random.Generator, int, Shape, int], np.ndarray]
    project: Callable[[np.ndarray, int], np.ndarray]


class Wanted(NamedTuple):
    """Codes that a modality wants, a recipe; sorted as they are made."""

    seed: int
    name: str
    num: int
    family: str
    side: int
    version: int


def wanted(recipe: Mapping, num: int, name: str) -> Wanted:
    """`num` codes of a config's recipe."""
    words = {word: recipe[word] for word in ("family", "side", "seed", "version")}
    return Wanted(name=name, num=num, **words)


def white(rng: np.random.Generator, num: int, shape: Shape, side: int) -> np.ndarray:
    """Of all frequencies alike."""
    return rng.standard_normal((num, *shape))


def highpass(rng: np.random.Generator, num: int, shape: Shape, side: int) -> np.ndarray:
    """Of the upper half of the cosine transform's frequencies: u/H + v/W >= 1."""
    spectrum = rng.standard_normal((num, *shape)) * is_high(shape)[..., None]
    return fft.idctn(spectrum, axes=(1, 2), norm="ortho")


def tiled(rng: np.random.Generator, num: int, shape: Shape, side: int) -> np.ndarray:
    """A grid of `side` x `side` pixels, repeated over the image."""
    times = [1, *(-(-size // side) for size in shape[:2]), 1]
    grids = np.tile(rng.standard_normal((num, side, side, shape[2])), times)
    return grids[:, : shape[0], : shape[1]]


def smooth(rng: np.random.Generator, num: int, shape: Shape, side: int) -> np.ndarray:
    """A grid of `side` x `side`, enlarged to the image."""
    grids = rng.standard_normal((side, side, shape[2], num))
    factors = np.divide((*shape, num), grids.shape)
    images = ndimage.zoom(grids, factors, order=1, mode="nearest", grid_mode=True)
    return np.moveaxis(images, -1, 0)


def same(images: np.ndarray, side: int) -> np.ndarray:
    """Images as they are; all are white."""
    return images


def only_high(images: np.ndarray, side: int) -> np.ndarray:
    """The part of images that has high frequencies alone."""
    spectrum = fft.dctn(images, axes=(1, 2), norm="ortho")
    high = spectrum * is_high(images.shape[1:])[..., None]
    return fft.idctn(high, axes=(1, 2), norm="ortho")


def repeated(size: int, side: int) -> np.ndarray:
    """[size, side]: what `tiled` makes of a grid, along one axis."""
    return np.tile(np.eye(side), (-(-size // side), 1))[:size]


def enlarged(size: int, side: int) -> np.ndarray:
    """[size, side]: what `smooth` makes of a grid, along one axis."""
    ways = dict(order=1, mode="nearest", grid_mode=True)
    return ndimage.zoom(np.eye(side), (size / side, 1), **ways)


def nearest(images: np.ndarray, side: int, *, along: Callable) -> np.ndarray:
    """The nearest images that grids make; along: what makes them along one axis."""
    made = [along(size, side) for size in images.shape[1:3]]
    rows, columns = (basis @ np.linalg.pinv(basis) for basis in made)
    return np.einsum("uh,khwc,vw->kuvc", rows, images, columns, optimize=True)


FAMILIES: Mapping[str, Family] = {
    "highpass": Family(highpass, only_high),
    "white": Family(white, same),
    "tiled": Family(tiled, functools.partial(nearest, along=repeated)),
    "smooth": Family(smooth, functools.partial(nearest, along=enlarged)),
}
OF_GRIDS = ("tiled", "smooth")  # families that read `side`


def is_high(shape: Shape) -> np.ndarray:
    """Which frequencies [H, W] `highpass` has."""
    rows, columns = (np.arange(size) / size for size in shape[:2])
    return rows[:, None] + columns[None] >= 1


def room(shape: Shape, family: str, side: int) -> int:
    """How many orthogonal codes of a family there are."""
    if family == "highpass":
        return int(is_high(shape).sum()) * shape[2]
    if family in OF_GRIDS:
        return side * side * shape[2]
    return math.prod(shape)


def check(recipe: Mapping, num: int, shape: Sequence[int], name: str) -> None:
    """Raises UserError for a recipe of `num` codes of modality `name` that can't be."""
    field = f"config.modalities.{name}.codes"
    build.check_fields(field, recipe, RECIPE)
    build.check_least(f"{field}.seed", recipe["seed"], 0)
    family, side = recipe["family"], recipe["side"]
    if family not in FAMILIES:
        raise UserError(
            f"{field}.family is {family!r}; choose one of {list(FAMILIES)}."
        )
    if recipe["version"] not in range(NEWEST + 1):
        raise UserError(
            f"{field}.version is {recipe['version']}; this version of the project "
            f"makes those of 0 to {NEWEST}."
        )
    least = min(shape[:2])
    if family in OF_GRIDS and not 1 <= side <= least:
        raise UserError(
            f"{field}.side is {side}; the family {family!r} needs one of 1 to {least}."
        )
    height, width, channels = shape
    there = room((height, width, channels), family, side)
    if num > there:
        raise UserError(
            f"images of shape {tuple(shape)} have room for {there} orthogonal codes of "
            f"the family {family!r}, but {num} are needed; use {field}.family = "
            "'white' (room for as many as an image has numbers), larger images, or "
            "kind = '...SharedUNet'."
        )


def check_together(chain: Sequence[Wanted], shape: Sequence[int]) -> None:
    """Raises UserError where the last codes have no room beside all that are before."""
    *before, own = chain
    height, width, channels = shape
    there = room((height, width, channels), own.family, own.side)
    needed = sum(each.num for each in chain)
    if before and needed > there:
        others = ", ".join(f"{each.num} of {each.name}" for each in before)
        raise UserError(
            f"config.modalities.{own.name}.codes: images of shape {tuple(shape)} have "
            f"room for {there} orthogonal codes of the family {own.family!r}, but "
            f"{own.num} of {own.name} beside {others} make {needed}, for the codes of "
            "all modalities of a model are orthogonal to each other; use family = "
            f"'white' (room for {math.prod(shape)}), larger images, drift = 'none' for "
            "one of them, or version = 1 (orthogonal within this modality alone)."
        )


def make(
    recipe: Mapping,
    num: int,
    shape: Sequence[int],
    name: str,
    earlier: tuple[Wanted, ...] = (),
) -> np.ndarray:
    """`num` orthogonal images of unit RMS, float64 [num, H, W, C]; always the same.

    earlier: other modalities' codes, to which they are orthogonal as well.
    """
    return _make((*earlier, wanted(recipe, num, name)), tuple(shape))[-1]


@functools.lru_cache(maxsize=8)
def _make(chain: tuple[Wanted, ...], shape: Shape) -> tuple[np.ndarray, ...]:
    """All codes of a chain, in which each is orthogonal to those before it."""
    if not chain:
        return ()
    earlier = _make(chain[:-1], shape)
    return (*earlier, _draw(chain[-1], earlier, shape))


def _draw(own: Wanted, earlier: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    num, family = own.num, FAMILIES[own.family]
    if own.version == 0:
        rng = np.random.default_rng(own.seed)
        if own.family == "white":  # drawn with the codes along the last axis
            drawn = np.moveaxis(rng.standard_normal((*shape, num)), -1, 0)
        else:
            drawn = family.draw(rng, num, shape, own.side)
        basis, _ = np.linalg.qr(drawn.reshape(num, -1).T)
    else:
        rng = np.random.default_rng([own.seed, *own.name.encode()])
        drawn = family.draw(rng, num, shape, own.side).reshape(num, -1).T
        if earlier:
            drawn = _without(drawn, _taken(family, own.side, earlier))
        basis, triangle = np.linalg.qr(drawn)
        basis = basis * np.sign(np.diag(triangle))  # which LAPACK leaves open
    return np.sqrt(len(basis)) * basis.T.reshape(num, *shape)


def _taken(family: Family, side: int, earlier: Sequence[np.ndarray]) -> np.ndarray:
    """[D, R]: an orthonormal basis of what earlier codes have in a family's space.

    An image of the family is orthogonal to a code where it is to the code's projection.
    """
    parts = [family.project(codes, side) for codes in earlier]
    flat = np.concatenate(parts).reshape(sum(map(len, parts)), -1)
    squares, ways = np.linalg.eigh(
        flat @ flat.T / flat.shape[1]
    )  # a tenth of an SVD's time
    kept = squares > LEAST**2
    return flat.T @ (ways[:, kept] / np.sqrt(squares[kept] * flat.shape[1]))


def _without(drawn: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Columns [D, K] without their part in the span of a basis [D, R]."""
    for _ in range(2):  # the second time what rounding left
        drawn = drawn - taken @ (taken.T @ drawn)
    return drawn
