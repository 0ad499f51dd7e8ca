"""Fixed orthogonal codes in the diffusion space, made from a recipe.

What a code shares with images can't be told from them: its *leak*. So the default are
codes of high frequencies, of which images have little (0.02 of white noise's unit
variance in each direction on Fashion-MNIST, where white codes have 0.8).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import fft, ndimage

from mt_diffusion.errors import UserError

Shape = tuple[int, int, int]
Draw = Callable[[np.random.Generator, int, Shape, int], np.ndarray]

# Version 0: seeds without the modality's name, signs of labels' codes as LAPACK left
# them. Kept for the checkpoints of that time.
NEWEST = 1


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


FAMILIES: Mapping[str, Draw] = {
    "highpass": highpass,
    "white": white,
    "tiled": tiled,
    "smooth": smooth,
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
    there = room(tuple(shape), family, side)
    if num > there:
        raise UserError(
            f"images of shape {tuple(shape)} have room for {there} orthogonal codes of "
            f"the family {family!r}, but {num} are needed; use {field}.family = "
            "'white' (room for as many as an image has numbers), larger images, or "
            "kind = '...SharedUNet'."
        )


def make(recipe: Mapping, num: int, shape: Sequence[int], name: str) -> np.ndarray:
    """`num` orthogonal images of unit RMS, float64 [num, H, W, C]; always the same."""
    words = (recipe["family"], recipe["side"], recipe["seed"], recipe["version"])
    return _make(*words, num, tuple(shape), name)


@functools.lru_cache(maxsize=8)
def _make(family, side, seed, version, num, shape, name) -> np.ndarray:
    if version == 0:
        rng = np.random.default_rng(seed)
        if family == "white":  # drawn with the codes along the last axis
            drawn = np.moveaxis(rng.standard_normal((*shape, num)), -1, 0)
        else:
            drawn = FAMILIES[family](rng, num, shape, side)
        basis, _ = np.linalg.qr(drawn.reshape(num, -1).T)
    else:
        rng = np.random.default_rng([seed, *name.encode()])
        drawn = FAMILIES[family](rng, num, shape, side)
        basis, triangle = np.linalg.qr(drawn.reshape(num, -1).T)
        basis = basis * np.sign(np.diag(triangle))  # which LAPACK leaves open
    return np.sqrt(len(basis)) * basis.T.reshape(num, *shape)
