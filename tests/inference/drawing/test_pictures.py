"""The grid shows every pixel of every example, and what was given."""

import dataclasses

import numpy as np
import pytest

from mt_diffusion.inference.drawing import pictures

ORANGE = pictures.GIVEN


@dataclasses.dataclass(frozen=True)
class Shown:
    """A variable that is shown as it is, or by its name."""

    names: tuple = ()

    def show(self, item):
        return self.names[int(item)] if self.names else item


VARIABLES = {
    "image": Shown(),
    "masked_image": Shown(),
    "label": Shown(("ant", "bee", "cat")),
}


def noise(num, height, width, channels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num, height, width, channels)).astype(np.uint8)


def page_of(examples, given=()):
    return np.asarray(pictures.grid(examples, VARIABLES, given)).astype(int)


def place(page, picture):
    """(top, left, bottom, right) of a picture, enlarged by a whole factor, in a page.

    It must be there exactly once, pixel by pixel.
    """
    factor = -(-64 // min(picture.shape[:2]))
    enlarged = picture.repeat(factor, 0).repeat(factor, 1).astype(int)
    enlarged = np.broadcast_to(enlarged, (*enlarged.shape[:2], 3))
    height, width, _ = enlarged.shape
    corners = np.argwhere(np.all(page == enlarged[0, 0], axis=-1))
    found = [
        (top, left, top + height, left + width)
        for top, left in corners
        if np.array_equal(page[top : top + height, left : left + width], enlarged)
    ]
    (one,) = found
    return one


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("num", [1, 2, 7])
@pytest.mark.parametrize(
    "sizes",
    [
        {"image": (8, 8, 1), "masked_image": (8, 8, 1)},
        {"image": (28, 28, 3), "masked_image": (28, 28, 1)},
        {"image": (64, 64, 3), "masked_image": (100, 80, 3)},
        {"image": (70, 130, 1), "masked_image": (9, 30, 3)},
    ],
    ids=str,
)
def test_every_pixel_of_every_picture_is_in_the_grid(sizes, num):
    examples = {
        name: noise(num, *size, seed) for seed, (name, size) in enumerate(sizes.items())
    }
    page = page_of(examples | {"label": np.arange(num) % 3})
    places = [place(page, v[i]) for i in range(num) for v in examples.values()]
    for i, one in enumerate(places):
        assert not any(overlap(one, other) for other in places[:i])
    for i in range(0, len(places), 2):  # the pictures of an example, side by side
        assert places[i][0] == places[i + 1][0] and places[i][1] < places[i + 1][1]


@pytest.mark.parametrize("num", [1, 5])
def test_what_was_given_has_a_frame(num):
    examples = {"image": noise(num, 8, 8, 3), "masked_image": noise(num, 8, 8, 3, 1)}
    page = page_of(examples, given=["masked_image"])
    for name, framed in (("image", False), ("masked_image", True)):
        for picture in examples[name]:
            top, left, bottom, right = place(page, picture)
            ring = [
                *page[top - 1, left - 1 : right + 1],
                *page[bottom, left - 1 : right + 1],
                *page[top - 1 : bottom + 1, left - 1],
                *page[top - 1 : bottom + 1, right],
            ]
            assert np.all(np.all(np.array(ring) == ORANGE, axis=-1) == framed)


def test_words_are_below_their_picture_and_say_which():
    image = noise(1, 8, 8, 1).repeat(3, 0)
    pages = [page_of({"image": image[:1], "label": np.array([i])}) for i in range(3)]
    _, _, bottom, _ = place(pages[0], image[0])
    for i in range(3):
        np.testing.assert_array_equal(pages[i][:bottom], pages[0][:bottom])
        assert np.any(pages[i][bottom:] != 255)
        assert not any(np.array_equal(pages[i], pages[j]) for j in range(i))


def test_a_given_word_is_orange():
    examples = {"image": noise(1, 8, 8, 1), "label": np.array([1])}
    for given in (["label"], []):
        page = page_of(examples, given)
        below = page[place(page, examples["image"][0])[2] :]
        orange = np.any(np.all(below == ORANGE, axis=-1))
        assert orange == bool(given)


def test_the_heading_is_whole_however_few_examples():
    ink = []
    for num in (1, 16):
        names = ("image", "masked_image")
        page = page_of(
            {n: np.full((num, 8, 8, 1), 255, np.uint8) for n in names}, names
        )
        ink.append(np.sum(255 - page[:20]))
    assert ink[0] == ink[1] > 0


@pytest.mark.parametrize("num", [9, 64])
def test_a_grid_is_about_square(num):
    height, width, _ = page_of({"image": noise(num, 8, 8, 1)}).shape
    assert 0.6 < height / width < 1.6


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_saved_as_it_is(channels):
    pixels = noise(1, 5, 7, channels)[0]
    saved = np.asarray(pictures.to_image(pixels)).reshape(pixels.shape)
    np.testing.assert_array_equal(saved, pixels)
