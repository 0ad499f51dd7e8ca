"""Words in pictures: whole, or shrunk, or cut; in letters that the font has."""

import dataclasses

import numpy as np
import pytest

from mt_diffusion.inference import table
from mt_diffusion.inference.drawing import captions, pictures


@dataclasses.dataclass(frozen=True)
class Named:
    """A variable whose values are places among names; without any, pictures."""

    names: tuple = ()

    def show(self, item):
        return self.names[int(item)] if self.names else item


@pytest.mark.parametrize("word", ["cat", "čáp", "кот", "γάτα", "կատու", "a/b & c"])
def test_a_word_that_the_font_has_is_itself(word):
    assert captions.word(word, np.int32(2)) == word


@pytest.mark.parametrize("word", ["猫", "고양이", "बिल्ली", "cat 猫"])
def test_a_word_that_the_font_lacks_is_a_number_that_a_legend_explains(word):
    assert captions.word(word, np.int32(2)) == "class 2"
    assert captions.word("猫", np.zeros(3)) == "U+732B"
    variables = {"image": Named(), "label": Named(("cat", "dog", word))}
    examples = {"image": np.zeros((3, 8, 8, 1), np.uint8), "label": np.arange(3)}
    assert pictures.legend(examples, variables) == {"class 2": word}
    examples = {n: x[:2] for n, x in examples.items()}
    assert pictures.legend(examples, variables) == {}


def test_letters_from_right_to_left_need_who_puts_them_so(monkeypatch):
    for has_raqm, wanted in ((True, "קטה"), (False, "class 2")):
        monkeypatch.setattr(captions.PIL.features, "check", lambda _, x=has_raqm: x)
        assert captions.word("קטה", np.int32(2)) == wanted


def test_a_long_name_shrinks_and_then_is_cut():
    text, font = captions.fitted("cat", 64)
    assert text == "cat" and font.size == captions.SIZE
    text, font = captions.fitted("sandpiper bird", 64)
    assert text == "sandpiper bird" and captions.SMALLEST <= font.size < captions.SIZE
    text, font = captions.fitted("ruddy turnstone, Arenaria interpres", 64)
    assert text.startswith("ruddy") and text.endswith("…")
    assert font.getlength(text) <= 64 < font.getlength(text + "w")
    assert captions.fitted("anything", 0)[0] == "…"


def test_no_name_reaches_beyond_its_tile():
    image = np.full((1, 8, 8, 1), 255, np.uint8)
    names = ("ruddy turnstone, Arenaria interpres",)
    variables = {"image": Named(), "label": Named(names)}
    page = pictures.grid({"image": image, "label": np.array([0])}, variables)
    ink = np.asarray(page).min(axis=-1) < 255
    left, right = pictures.MARGIN, pictures.MARGIN + pictures.MIN_SIDE
    below = ink[pictures.TEXT + 3 * pictures.MARGIN :]
    assert below[:, left:right].any() and not below[:, right:].any()


def test_names_of_files_have_their_class_and_nothing_of_a_path():
    class Experiment:
        primary = type("Primary", (), {"name": "image"})
        names = ("T-shirt/top", "../..", "猫 a", "x" * 300, "-")

        def of(self, name):
            return Named(self.names if name == "label" else ())

    examples = {"image": np.zeros((5, 8, 8, 1), np.uint8), "label": np.arange(5)}
    assert table.files_of(examples, Experiment()) == [
        "00000_T-shirt-top.png",
        "00001.png",
        "00002_猫-a.png",
        f"00003_{'x' * 40}.png",
        "00004.png",
    ]
