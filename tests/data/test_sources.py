"""The data sources: what they hold, and that they are read without TensorFlow."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from configs import common
from mt_diffusion.data import sources, splits
from mt_diffusion.errors import UserError
from tests.data import toy_tfds

SPLITS = ("train", "test")


def open_both(**fields):
    config = common.digits().data
    config.update(fields)
    return [sources.open_source(config, split) for split in SPLITS]


def contents(source):
    return [
        (e["image"].tobytes(), e["label"])
        for e in map(source.__getitem__, range(len(source)))
    ]


def test_digits_are_scikit_learns_split_in_two():
    parts = open_both()
    images, labels = (
        np.concatenate(
            [[source[i][name] for i in range(len(source))] for source in parts]
        )
        for name in ("image", "label")
    )
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    # Their 17 levels lie evenly on our 256; a multiset of (pixels, label) is compared.
    levels = np.round(images[..., 0] / 255 * 16)
    reference = load_digits()
    ours = np.c_[levels.reshape(1797, -1), labels]
    theirs = np.c_[reference.data, reference.target]
    np.testing.assert_array_equal(
        ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)]
    )
    assert set(images.ravel()) >= {0, 255}


def test_digits_split_is_fixed_and_has_every_class_in_both_parts():
    for source, again, size in zip(open_both(), open_both(), (1438, 359), strict=True):
        assert len(source) == size and contents(source) == contents(again)
        assert source.class_names == list("0123456789")
        assert {label for _, label in contents(source)} == set(range(10))


@pytest.mark.parametrize("num", [1, 5, 1797])
def test_a_holdout_is_a_partition(num):
    train, test = (splits.holdout(num, split) for split in SPLITS)
    assert sorted([*train, *test]) == list(range(num))
    assert len(test) == num // 5


def test_digits_come_at_any_size():
    train, _ = open_both(image_size=12, channels=3)
    assert train[0]["image"].shape == (12, 12, 3)


def test_unknown_sources_are_refused():
    with pytest.raises(UserError, match="'digit'.*'folder'"):
        open_both(source="digit")


# Folders


def fill(root, files):
    """Images of one level each, {path: level}."""
    for name, level in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (10, 10), level).save(root / name)


@pytest.mark.parametrize(
    "column", [{"image_column": "photo"}, {"other_columns": ("depth",)}]
)
def test_columns_of_what_has_none_are_refused(column):
    config = common.get_config("smoke").data
    config.update(column)
    with pytest.raises(UserError, match=f"{[*column][0]}.*'digits' have none.*tar or"):
        sources.open_source(config, "train")


def test_a_folder_names_and_counts_its_classes(tmp_path):
    levels = {name: 10 * i for i, name in enumerate(["ant", "bee", "cat"])}
    fill(tmp_path, {f"{n}/{i}.png": levels[n] + i for n in levels for i in range(5)})
    parts = open_both(source="folder", path=str(tmp_path))
    assert [len(part) for part in parts] == [12, 3]
    examples = []
    for part in parts:
        assert part.class_names == ["ant", "bee", "cat"]
        examples += [part[i] for i in range(len(part))]
    assert all(np.ptp(e["image"]) == 0 for e in examples)
    found = sorted((int(e["image"][0, 0, 0]), e["label"]) for e in examples)
    assert found == [(10 * k + i, k) for k in range(3) for i in range(5)]
    again = open_both(source="folder", path=str(tmp_path))
    assert [contents(p) for p in again] == [contents(p) for p in parts]


def test_a_folders_own_split_is_kept_and_labels_mean_the_same_in_both(tmp_path):
    fill(tmp_path, {"train/ant/0.png": 0, "train/bee/1.png": 1, "train/cat/2.png": 2})
    fill(tmp_path, {"test/cat/deep/3.png": 3})
    train, test = open_both(source="folder", path=str(tmp_path))
    assert train.class_names == test.class_names == ["ant", "bee", "cat"]
    assert [train[i]["label"] for i in range(3)] == [0, 1, 2]
    assert test[0]["label"] == 2 and test[0]["image"][0, 0, 0] == 3


def test_loose_images_are_refused(tmp_path):
    fill(tmp_path, {"ant/0.png": 0, "loose.png": 1})
    with pytest.raises(UserError, match="loose.png lies directly in"):
        open_both(source="folder", path=str(tmp_path))


def test_broken_images_are_refused_before_training(tmp_path):
    fill(tmp_path, {f"ant/{i}.png": 0 for i in range(5)})
    for i in range(5):
        (tmp_path / "ant" / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=f"{tmp_path}/ant/..png can't be read"):
        open_both(source="folder", path=str(tmp_path))


def test_folders_without_enough_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=f"no image in the folder {tmp_path}"):
        open_both(source="folder", path=str(tmp_path))
    for path in (f"{tmp_path}/missing", ""):
        with pytest.raises(UserError, match=f"'{path}' is no folder"):
            open_both(source="folder", path=path)
    fill(tmp_path, {"ant/0.png": 0})
    with pytest.raises(UserError, match="too few images to hold out"):
        open_both(source="folder", path=str(tmp_path))
    with pytest.raises(UserError, match="0.png' is no folder"):
        open_both(source="folder", path=f"{tmp_path}/ant/0.png")


# TFDS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir with the prepared TFDS data set 'toy', and its images by split."""
    data_dir = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    images = {
        s: rng.integers(0, 256, (n, 8, 8, 1)).astype(np.uint8)
        for s, n in (("train", 3), ("test", 2))
    }
    toy_tfds.write(
        data_dir,
        "toy",
        lambda features: {
            "image": features.Image(shape=(8, 8, 1)),
            "label": features.ClassLabel(names=["ant", "bee"]),
        },
        {
            split: [{"image": x, "label": i % 2} for i, x in enumerate(images[split])]
            for split in images
        },
    )
    return data_dir, images


def test_tfds_is_read_at_random_from_array_record(prepared):
    data_dir, images = prepared
    parts = open_both(source="tfds", name="toy", data_dir=str(data_dir))
    for part, split in zip(parts, SPLITS, strict=True):
        assert len(part) == len(images[split])
        assert part.class_names == ["ant", "bee"]
        for i in reversed(range(len(part))):
            np.testing.assert_array_equal(part[i]["image"], images[split][i])
            assert int(part[i]["label"]) == i % 2


def test_tfds_parts_may_be_slices_and_unknown_ones_are_refused(prepared):
    fields = dict(source="tfds", name="toy", data_dir=str(prepared[0]))
    train, test = open_both(
        **fields, train_split="train[:67%]", test_split="train[67%:]"
    )
    assert (len(train), len(test)) == (2, 1)
    with pytest.raises(UserError, match="'valid'.*train.*test"):
        open_both(**fields, test_split="valid")


def test_a_tfds_name_may_fix_its_version(prepared):
    fields = dict(source="tfds", data_dir=str(prepared[0]))
    train, _ = open_both(**fields, name="toy:1.0.0")
    assert len(train) == 3
    with pytest.raises(UserError, match="'toy:2.0.0'"):
        open_both(**fields, name="toy:2.0.0")


def test_a_tfds_data_set_that_is_not_there_names_the_remedy(tmp_path):
    fields = dict(source="tfds", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}.*config.data.download=true"):
        open_both(**fields, name="fashion_mnist")
    with pytest.raises(UserError, match="fashion_mnits.*nearest is 'fashion_mnist'"):
        open_both(**fields, name="fashion_mnits")


def test_training_and_its_data_need_no_tensorflow(prepared):
    """Importing it takes seconds and 600 MB."""
    script = f"""
import sys
import mt_diffusion.training.loop
from configs import common
from mt_diffusion.data import sources
config = common.digits().data
sources.open_source(config, "train")[0]
config.update(source="tfds", name="toy", data_dir={str(prepared[0])!r})
sources.open_source(config, "train")[0]
print([name for name in ("jax", "tensorflow") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['jax']"
