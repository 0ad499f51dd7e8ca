"""Grids of restorations: the truth, what was given, fillings side by side."""

import dataclasses

import numpy as np
import pytest

from mt_diffusion.inference.drawing import pictures
from mt_diffusion.protocol import Variable

SIDE = 8
VARIABLES = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Picture(Variable):
    """Shown as it is."""

    name: str = "image"
    shape: tuple = (SIDE, SIDE, 1)

    def show(self, item):
        return item


@dataclasses.dataclass(frozen=True, eq=False)
class Masked(Picture):
    """Whose pixels are those of the image."""

    def known(self, value):
        return value


@dataclasses.dataclass(frozen=True, eq=False)
class Name(Picture):
    """A word."""

    def show(self, item):
        return str(item)


IMAGE = Picture()
VARIABLES = {"image": IMAGE, "masked": Masked("masked"), "label": Name("label")}


def images(levels):
    """Plain images of these levels [N]."""
    return np.broadcast_to(
        np.asarray(levels, np.uint8)[:, None, None, None], (len(levels), SIDE, SIDE, 1)
    )


@pytest.fixture
def tiles(monkeypatch):
    """What each tile shows, of pictures the level."""
    seen, real = [], pictures.tile

    def noting(shown, given):
        seen.append(
            {n: v if isinstance(v, str) else v[0, 0, 0] for n, v in shown.items()}
        )
        return real(shown, given)

    monkeypatch.setattr(pictures, "tile", noting)
    return seen


def made(num, of):
    """`num` fillings of `of` things: level 10 i + k is filling k of thing i."""
    rows = np.arange(num)
    return {
        "image": images(10 * (rows % of) + rows // of),
        "masked": images(100 + rows % of),
        "label": rows % of,
    }


def test_each_tile_has_truth_what_was_given_and_its_fillings(tiles):
    truth = images([200, 201])
    pictures.restored(made(6, 2), VARIABLES, IMAGE, ["masked"], 2, truth)
    assert len(tiles) == 2
    for i, tile in enumerate(tiles):
        wanted = {"truth": 200 + i, "masked": 100 + i, "image": 10 * i}
        wanted |= {"filling 2": 10 * i + 1, "filling 3": 10 * i + 2, "label": str(i)}
        assert tile == wanted and list(tile) == list(wanted)


def test_without_the_truth_there_is_none(tiles):
    pictures.restored(made(3, 3), VARIABLES, IMAGE, ["masked"], 3)
    assert [list(tile) for tile in tiles] == [["masked", "image", "label"]] * 3


def test_of_thousands_64_are_shown_and_6_fillings_of_each(tiles):
    pictures.restored(made(1000, 100), VARIABLES, IMAGE, ["masked"], 100)
    assert len(tiles) == 64 and tiles[63]["filling 6"] == (10 * 63 + 5) % 256
    assert "filling 7" not in tiles[0]


@pytest.mark.parametrize("given", [[], ["label"], ["image"], ["image", "masked"]])
def test_what_is_no_restoration_is_a_grid_as_ever(given, tiles):
    examples = made(70, 2)
    pictures.restored(examples, VARIABLES, IMAGE, given, 2, images([1, 2]))
    assert len(tiles) == 64 and list(tiles[0]) == list(examples)
