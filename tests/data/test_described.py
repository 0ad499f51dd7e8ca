"""Features of TFDS data sets, of every kind, asked when they are opened."""

import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.data.kinds import described
from mt_diffusion.errors import UserError
from mt_diffusion.files import images as files
from tests.data import toy_tfds

FEATURES = tfds.features
IMAGE = FEATURES.Image(shape=(8, 8, 1))
CLASS = FEATURES.ClassLabel(names=["ant", "bee"])


def builder(supervised=None, **features):
    info = types.SimpleNamespace(
        features=FEATURES.FeaturesDict(features), supervised_keys=supervised, name="toy"
    )
    return types.SimpleNamespace(info=info)


@pytest.mark.parametrize(
    "features, supervised, image, label",
    [
        (dict(image=IMAGE, label=CLASS), None, "image", "label"),
        (dict(image=IMAGE, label=np.int64), None, "image", "label"),
        (dict(photo=IMAGE, kind=CLASS), ("photo", "kind"), "photo", "kind"),
        (dict(photo=IMAGE, mask=IMAGE, k=CLASS), ("photo", "k"), "photo", "k"),
        (dict(photo=IMAGE), None, "photo", None),
        (dict(image=IMAGE, other=IMAGE), ("other", "image"), "image", None),
        (dict(image=IMAGE, boxes=FEATURES.BBoxFeature()), None, "image", None),
    ],
    ids=str,
)
def test_image_and_class_are_found(features, supervised, image, label):
    one = builder(supervised, **features)
    assert described.image_of(one) == image
    assert described.class_of(one) == (label, "")


@pytest.mark.parametrize(
    "features, words",
    [
        (dict(text=FEATURES.Text(), label=CLASS), "no image that is clearly.*text .Te"),
        (dict(image=FEATURES.Tensor(shape=(8, 8, 1), dtype=np.uint8)), "no image"),
        (dict(a=IMAGE, b=IMAGE), "no image that is clearly.*a .Image.*b .Image"),
        (dict(image=FEATURES.Image(shape=(8, 8, 1), dtype=np.float32)), "float32"),
        (dict(image=FEATURES.Sequence(IMAGE)), "image .Sequence"),
    ],
    ids=str,
)
def test_data_sets_without_an_image_are_refused(features, words):
    with pytest.raises(UserError, match=words):
        described.image_of(builder(**features))


@pytest.mark.parametrize(
    "label",
    [FEATURES.Sequence(CLASS), FEATURES.Text(), np.float32]
    + [FEATURES.Tensor(shape=(3,), dtype=np.int64), FEATURES.BBoxFeature()],
    ids=str,
)
def test_labels_that_are_no_class_are_said_to_be_so(label):
    name, why = described.class_of(builder(image=IMAGE, label=label))
    assert name is None and "its feature label is" in why


def test_images_of_16_bits_name_what_reads_them(monkeypatch):
    deep = builder(image=FEATURES.Image(dtype=np.uint16))
    monkeypatch.setattr(described.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install opencv-python-headless"):
        described.image_of(deep)
    monkeypatch.setattr(described.importlib.util, "find_spec", lambda name: name)
    assert described.image_of(deep) == "image"
    levels = np.array([[0, 255, 256, 65535]], np.uint16)
    np.testing.assert_array_equal(files.to_8_bits(levels), [[0, 0, 1, 255]])


class Torn:
    """Records of which the second one is damaged."""

    def __init__(self, source):
        self._source = source._source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, i):
        if i == 1:
            raise RuntimeError("hash mismatch")
        return self._source[i]


def test_features_of_other_names_are_read(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    toy_tfds.write(
        tmp_path,
        "deep",
        lambda features: {
            "photo": features.Image(shape=(8, 8, 1)),
            "label": features.ClassLabel(names=["ant", "bee"]),
        },
        {"train": [{"photo": x, "label": i % 2} for i, x in enumerate(pixels)]},
    )
    config = common.digits().data
    config.update(source="tfds", name="deep", data_dir=str(tmp_path))
    for names in ((), ("bee", "ant")):
        config.update(test_split="train", class_names=names)
        source = sources.open_source(config, "test")
        for i, image in enumerate(pixels):
            np.testing.assert_array_equal(source[i]["image"], image)
            assert source.class_names[source[i]["label"]] == ["ant", "bee"][i % 2]
        assert source.labels == [source[i]["label"] for i in range(5)]
    config.broken = "skip"
    skipping = sources.open_source(config, "test")
    monkeypatch.setattr(skipping.strictly(), "_source", Torn(source))
    np.testing.assert_array_equal(skipping[1]["image"], source[2]["image"])
    with pytest.raises(UserError, match="example 1 of deep/1.0.0 train can't be read"):
        skipping.strictly()[1]
