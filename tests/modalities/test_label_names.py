"""Labels go by name: what a word or a number of a user's means, and what is refused."""

import numpy as np
import pytest

from configs import common, image_label
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build


def label_of(*names):
    config = image_label.get_config("smoke")
    fields = config.modalities.label.to_dict() | {"class_names": names}
    return build.build("label", fields, (8, 8, 1))


def found(label, text):
    return np.argmax(label.read(text), axis=-1).tolist()


NAMES = {
    ("0", "1", "10", "11", "2"): {"2": [4], "10, 0": [2, 0]},
    ("1", "2", "3"): {"1": [0], "3,1": [2, 0]},
    ("00", "01"): {"01": [1]},
    ("a, b", "c", "a"): {"a, b": [0], '"a, b",c': [0, 1], "a,c": [2, 1]},
    (" x", "x", "Y", "y"): {" x": [0], "x": [1], "Y,y": [2, 3]},
    ("caf\u00e9", "\u732b"): {"cafe\u0301": [0], "\u732b": [1]},
    ('say "hi"', "b\nc"): {'say "hi"': [0], "b\nc": [1], "b": None},
    ("ant", "bee"): {"1": [1], "bee,0": [1, 0]},
}


@pytest.mark.parametrize(
    "names, text, expected",
    [(names, text, w) for names, cases in NAMES.items() for text, w in cases.items()],
)
def test_a_word_is_the_class_of_that_name(names, text, expected):
    if expected is None:
        with pytest.raises(UserError, match="no label of this model"):
            label_of(*names).read(text)
    else:
        assert found(label_of(*names), text) == expected


@pytest.mark.parametrize(
    "names, text",
    [(("1", "2", "3"), "0"), (("00", "01"), "1"), (("0", "1", "3"), "2")]
    + [(("\u0661", "\u0662"), "1"), (("A", "b"), "a"), (("x", "2020"), "0")],
)
def test_a_number_that_the_data_calls_nothing_is_refused(names, text):
    with pytest.raises(UserError, match=f"label={text} is no label.*class names"):
        label_of(*names).read(text)


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(UserError, match="no label of this model"):
        label_of("x", "1").read("9" * 5000)


def test_a_number_of_a_program_means_one_class_or_none():
    """As `sample` gives them back, if the names and the places agree."""
    assert label_of("0", "1", "2").take(np.array([2, 0])).argmax(-1).tolist() == [2, 0]
    assert label_of("ant", "bee").take([1, "ant"]).argmax(-1).tolist() == [1, 0]
    for number in (0, 1):
        with pytest.raises(UserError, match="no label of this model.*as text"):
            label_of("1", "2").take(number)


def test_names_at_other_places_than_the_datas_are_refused():
    class Source:
        class_names = ("ant", "bee")

    fit = build.locate("label.Codebook").fit
    with pytest.raises(UserError, match="ant, but that is class 0.*data.class_names"):
        fit({"class_names": ("bee", "ant")}, Source)
    assert fit({"class_names": ("ant", "wasp")}, Source)["class_names"][1] == "wasp"
    Source.class_names, Source.why_no_classes = (), " (it is a Sequence)"
    with pytest.raises(UserError, match=r"no class names \(it is a Sequence\)"):
        fit({"class_names": ()}, Source)


def test_what_is_shown_of_a_class_is_harmless():
    assert label_of("\x1b[2Jant", "bee").show(0) == "\\x1b[2Jant"
    assert common.digits().data.class_names == ()
