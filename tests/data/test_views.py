"""Vectors attached to a data set, and features that only a share of it keeps."""

import importlib
import math

import numpy as np
import pytest

from configs import common
from mt_diffusion.data import sources, views
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment
from mt_diffusion.files import vectors
from tests.data import toy_tfds

SIZES = {"train": 1438, "test": 359}


def open_both(keep=None, **fields):
    config = common.digits().lock().data
    config.update(fields)
    config.keep.update(keep or {})
    return [sources.open_source(config, split) for split in SIZES]


def labels(source):
    return [source[i].get("label", -1) for i in range(len(source))]


def draw(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


# Attached vectors


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_each_example_gets_the_vector_of_its_index(tmp_path, form):
    both = draw(train=(1438, 5), test=(359, 5))
    if form == "npz":
        path = tmp_path / "v.npz"
        np.savez(path, **both)
    else:
        path = tmp_path / "v_{split}.npy"
        for split, found in both.items():
            np.save(tmp_path / f"v_{split}.npy", found)
    for source, plain, split in zip(
        open_both(vectors=str(path)), open_both(), SIZES, strict=True
    ):
        assert len(source) == len(plain)
        assert source.class_names == plain.class_names
        for i in (0, 7, len(source) - 1):
            example = source[i]
            vector = example.pop("vector")
            assert vector.dtype == np.float32
            np.testing.assert_array_equal(vector, both[split][i].astype(np.float32))
            np.testing.assert_equal(example, plain[i])


def broken(tmp_path, **arrays):
    np.savez(tmp_path / "v.npz", **draw(train=(1438, 5), test=(359, 5)) | arrays)
    return str(tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("split", "array", "words"),
    [
        ("train", np.ones((1437, 5)), "1,437 vectors for the train .*1,438 examples"),
        ("test", np.ones((360, 5)), "360 vectors for the test .*359 examples"),
        ("test", np.ones((359, 4)), "same length D.*'train': 5, 'test': 4"),
        ("train", np.ones(1438), r"float64 \[1438\]"),
        ("train", np.ones((1438, 5), int), "int64"),
        ("train", np.array([{}]), "without pickled objects"),
        ("train", np.full((1438, 5), 1e39), "vector 0 .*not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, split, array, words):
    with pytest.raises(UserError, match=words):
        open_both(vectors=broken(tmp_path, **{split: array}))


def test_a_vector_that_is_not_finite_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 10)
    array = np.ones((1438, 5))
    array[777, 2] = np.nan
    with pytest.raises(UserError, match="vector 777"):
        open_both(vectors=broken(tmp_path, train=array))


def test_files_that_are_no_vectors_are_refused(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK broken")
    np.savez(tmp_path / "names.npz", first=np.ones((3, 2)), second=np.ones((3, 2)))
    np.save(tmp_path / "v_train.npy", np.ones((1438, 5)))
    for name, words in {
        "missing.npz": "no file of vectors .*missing.npz",
        "broken.npz": "can't be read",
        "names.npz": r"no array 'train' .*\['first', 'second'\]",
        "v_train.npy": "one .npy for each split",
        "v_{split}.npy": "no file of vectors .*v_test.npy",
    }.items():
        with pytest.raises(UserError, match=words):
            open_both(vectors=str(tmp_path / name))


def test_one_array_does_not_serve_both_splits(tmp_path):
    for name in ("train", "anything"):
        np.savez(tmp_path / "one.npz", **{name: np.ones((359, 5))})
        with pytest.raises(
            UserError, match=f"arrays .'{name}'., but .*'test'.*missing"
        ):
            open_both(vectors=str(tmp_path / "one.npz"))
    for split, num in SIZES.items():
        np.savez(tmp_path / f"v_{split}.npz", anything=np.ones((num, 5)))
    assert all(
        "vector" in s[0] for s in open_both(vectors=f"{tmp_path}/v_{{split}}.npz")
    )


def test_vectors_of_images_that_are_flipped_are_refused(tmp_path):
    with pytest.raises(UserError, match="--config.data.random_flip=false"):
        open_both(vectors=broken(tmp_path), random_flip=True)


# Missing values


def test_everything_is_kept_unless_a_config_says_otherwise():
    for source in open_both():
        assert min(labels(source)) == 0


@pytest.mark.parametrize("share", [0, 0.0123, 0.1, 0.5, 0.999])
def test_exactly_that_share_of_the_training_labels_is_kept(share):
    train, test = open_both(keep={"label": share})
    found = np.array(labels(train))
    assert np.sum(found >= 0) == round(share * 1438)
    full = np.array(labels(open_both()[0]))
    np.testing.assert_array_equal(found[found >= 0], full[found >= 0])
    all_of_them = np.bincount(full)
    kept = np.bincount(found[found >= 0], minlength=10)
    assert np.abs(kept - share * all_of_them).max() <= 1
    assert min(labels(test)) == 0
    np.testing.assert_array_equal(train[3]["image"], open_both()[0][3]["image"])
    assert labels(open_both(keep={"label": share})[0]) == labels(train)


def test_what_is_kept_is_a_draw_and_grows_with_the_share():
    sets = [
        set(np.flatnonzero(np.array(labels(open_both(keep={"label": s})[0])) >= 0))
        for s in (0.1, 0.3)
    ]
    assert sets[0] < sets[1]
    # A uniform draw of 144 from 0..1437 has a mean of 718.5 with a deviation of 33.
    assert abs(np.mean(list(sets[0])) - 718.5) < 4 * 33


def test_rare_classes_are_kept_first():
    rare = np.array([0] * 97 + [1, 2, 2])
    kept = views.spread(rare, 3)
    assert kept.sum() == 3 and set(rare[kept]) == {0, 1, 2}
    assert math.isclose(views.spread(rare, 50)[:97].mean(), 0.5, abs_tol=0.02)


def test_attached_vectors_may_be_missing_too(tmp_path):
    path = broken(tmp_path)
    train, test = open_both(vectors=path, keep={"vector": 0.25})
    there = ["vector" in train[i] for i in range(len(train))]
    assert sum(there) == round(0.25 * 1438)
    assert all("vector" in test[i] for i in range(len(test)))
    assert min(labels(train)) == 0


@pytest.mark.parametrize(
    ("feature", "share", "words"),
    [
        ("label", -0.1, "keep.label is -0.1.*0 to 1"),
        ("label", 1.5, "keep.label is 1.5.*0 to 1"),
        ("label", float("nan"), "keep.label is nan"),
        ("vector", 0.5, r"keep.vector is 0.5.*\['label'\]"),
    ],
)
def test_shares_that_make_no_sense_are_refused(feature, share, words):
    with pytest.raises(UserError, match=words):
        open_both(keep={feature: share})


def test_the_image_is_never_missing():
    config = common.digits().data
    config.keep.image = 0.5
    with pytest.raises(UserError, match="keep.image is 0.5"):
        sources.open_source(config, "train")


def test_labels_of_other_sources_are_spread_over_classes_as_well(tmp_path):
    image = np.zeros((8, 8, 1), np.uint8)
    items = [{"image": image, "label": i % 4 // 3} for i in range(40)]
    toy_tfds.write(
        tmp_path,
        "toy",
        lambda features: {
            "image": features.Image(shape=(8, 8, 1)),
            "label": features.ClassLabel(names=["ant", "bee"]),
        },
        {"train": items, "test": items[:4]},
    )
    fields = dict(source="tfds", name="toy", data_dir=str(tmp_path))
    train, _ = open_both(**fields, keep={"label": 0.2})
    assert sorted(labels(train))[-8:] == [0] * 6 + [1] * 2
    assert labels(train).count(-1) == 32


def test_ten_percent_of_the_labels_as_a_config():
    config = importlib.import_module("configs.image_label_10").get_config().lock()
    train = sources.open_source(config.data, "train")
    found = np.array(labels(train))
    assert np.sum(found >= 0) == 144 and set(found) == set(range(-1, 10))
    parts = experiment.build(experiment.resolve(config, train))
    values = [parts.modalities[0].preprocess(train[i], None) for i in range(50)]
    assert [v is None for v in values] == list(found[:50] < 0)
