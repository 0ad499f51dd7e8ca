"""Fixed tables that turn values into tokens, which the network reads, from a recipe.

What the network learns of a token's place and of whose it is, it adds itself (see
models/mt_diffusion.py).
"""

import functools
from collections.abc import Mapping

import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build

# Version 0: one seed for all names, so that modalities of a size had the same tables.
# Kept for the checkpoints of that time.
NEWEST = 1
RECIPE = {"size": int, "seed": int, "version": int}


def check(recipe: Mapping, name: str) -> None:
    """Raises UserError for a recipe of modality `name` that can't be."""
    field = f"config.modalities.{name}.tokens"
    build.check_fields(field, recipe, RECIPE)
    build.check_least(f"{field}.seed", recipe["seed"], 0)
    if recipe["version"] not in range(NEWEST + 1):
        raise UserError(
            f"{field}.version is {recipe['version']}; this version of the project "
            f"makes those of 0 to {NEWEST}."
        )
    if recipe["size"] < 1:
        raise UserError(
            f"{field}.size is {recipe['size']}; a token has 1 number or more."
        )


def seed_of(recipe: Mapping, name: str) -> tuple[int, ...]:
    """What seeds the table of a modality: another than that of its codes."""
    words = f"tokens of {name}".encode() if recipe["version"] else b""
    return (recipe["seed"], *words)


def directions(recipe: Mapping, num: int, name: str) -> np.ndarray:
    """[num, size]: a random direction of unit RMS for each; always the same ones."""
    rng = np.random.default_rng(seed_of(recipe, name))
    table = rng.standard_normal((num, recipe["size"]))
    return table / np.sqrt(np.mean(table**2, axis=-1, keepdims=True))


@functools.cache
def isometry(size: int, room: int, seed: tuple[int, ...] = (0,)) -> np.ndarray:
    """[size, room]: orthogonal rows; v @ it has the RMS of v. Always the same one."""
    gaussian = np.random.default_rng(seed).standard_normal((room, size))
    orthogonal, triangle = np.linalg.qr(gaussian)
    signs = np.sign(np.diag(triangle))  # which LAPACK leaves open
    return np.sqrt(room / size) * (orthogonal * signs).T


def resized(size: int, room: int, seed: tuple[int, ...]) -> np.ndarray:
    """[size, room]: v @ it has the RMS of v, where room is less on average."""
    if room >= size:
        return isometry(size, room, seed)
    return np.sqrt(room / size) * isometry(room, size, seed).T
