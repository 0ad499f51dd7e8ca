"""Caches are named after what they are of, whatever it is called and wherever it is."""

import numpy as np
import pytest

from mt_diffusion.evaluation import contents


class Source:
    """Examples in memory, as data sources have them."""

    def __init__(self, num=40, class_names=("a", "b")):
        draw = np.random.default_rng(0)
        self.images = draw.integers(0, 256, (num, 2, 2, 1), np.uint8)
        self.labels = [i % 2 for i in range(num)]
        self.class_names = class_names

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        label = self.labels[i]
        return {"image": self.images[i]} | ({} if label is None else {"label": label})


@pytest.fixture(autouse=True)
def some_at_once(monkeypatch):
    monkeypatch.setattr(contents, "AT_ONCE", 16)


def changed(place, label=None, image=None):
    found = Source()
    if image is not None:
        found.images[place, 1, 1] ^= image
    else:
        found.labels[place] = label
    return found


def test_the_same_contents_have_the_same_digest():
    assert contents.digest(Source()) == contents.digest(Source())


@pytest.mark.parametrize("place", [0, 1, 15, 16, 38, 39])
def test_one_pixel_or_label_of_any_example_counts(place):
    others = [changed(place, image=1), changed(place, label=7), changed(place)]
    digests = {contents.digest(source) for source in [Source(), *others]}
    assert len(digests) == 4


def test_classes_and_numbers_count():
    others = [Source(num=39), Source(class_names=("b", "a"))]
    assert len({contents.digest(source) for source in [Source(), *others]}) == 3


def test_of_very_many_some_are_read(monkeypatch):
    monkeypatch.setattr(contents, "MOST", 10)
    last, second = changed(39, image=1), changed(1, image=1)
    whole = contents.digest(Source())
    assert contents.digest(last) != whole and contents.digest(second) == whole
