"""A walk as pictures: every kept step, chances of classes as bars that add up."""

import dataclasses

import numpy as np
import PIL.Image
import pytest

from mt_diffusion.inference.drawing import pictures
from mt_diffusion.inference.drawing import walk as drawn
from mt_diffusion.inference.walks import Trajectory

NUM = 3


@dataclasses.dataclass(frozen=True)
class Picture:
    """A variable that is shown as it is."""

    def show(self, item):
        return item


@dataclasses.dataclass(frozen=True)
class Label:
    """One of some classes."""

    class_names: tuple = ("ant", "bee", "cat")

    def postprocess(self, value):
        return np.argmax(value, axis=-1)

    def show(self, item):
        return self.class_names[int(item)]


VARIABLES = {"image": Picture(), "label": Label()}


def walk_of(steps, classes=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps, NUM, 8, 8, 1)).astype(np.uint8)
    chances = np.full((steps, NUM, classes), 1 / classes, np.float32)
    chances[-1] = np.eye(classes)[1]
    t = np.arange(steps, 0, -1, dtype=np.int32)
    values = {"image": images, "label": chances}
    return Trajectory(t, t / steps, values)


@pytest.mark.parametrize("steps, frames", [(1, 1), (5, 5), (200, 60)])
def test_there_is_a_frame_for_each_step_sixty_at_most(steps, frames, tmp_path):
    walk = walk_of(steps)
    drawn.write(tmp_path, walk, VARIABLES, [])
    with PIL.Image.open(tmp_path / "trajectory.gif") as film:
        assert film.n_frames == frames and film.info["loop"] == 0
        film.seek(frames - 1)
        last = np.asarray(film.convert("L")).astype(int)
    (wanted,) = drawn.frames(walk, VARIABLES, [])[-1:]
    assert np.abs(last - np.asarray(wanted.convert("L"))).max() <= 3  # of 256 colours
    with np.load(tmp_path / "trajectory.npz") as found:
        assert set(found) == {"t", "noise", "image", "label"}
        np.testing.assert_array_equal(found["image"], walk.values["image"])
    with PIL.Image.open(tmp_path / "trajectory.png") as strip:
        columns = min(steps, drawn.MOST_COLUMNS)
        assert strip.width >= columns * pictures.MIN_SIDE


def test_bars_are_as_high_as_chances():
    image = np.asarray(drawn.bars(np.array([0.0, 0.5, 1.0]), 90, (0, 0, 0)))
    heights = [(image[:, x, 0] == 0).sum() - 1 for x in (20, 45, 70)]
    assert heights == [0, drawn.HEIGHT // 2, drawn.HEIGHT]


def test_of_many_classes_those_that_it_ends_with_have_bars():
    walk = walk_of(4, classes=1000)
    walk.values["label"][-1, 0] = np.eye(1000)[777]
    kept = drawn.likeliest(walk.values["label"])
    assert len(kept) == drawn.MOST_BARS and {1, 777} <= set(kept)


def test_given_chances_are_orange():
    for given in (["label"], []):
        page = np.asarray(drawn.strip(walk_of(4), VARIABLES, given))
        assert np.any(np.all(page == pictures.GIVEN, axis=-1)) == bool(given)
