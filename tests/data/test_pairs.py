"""Second images: each way to have them, and what is wrong with those that are not."""

import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.data import pairs, sources
from mt_diffusion.errors import UserError
from tests.data import toy_tfds

SPLITS = ("train", "test")
COMPUTED = ["edges", "grey", "half"]


def config_of(**fields):
    config = common.digits().data
    config.update(fields)
    return config


def open_both(**fields):
    return [sources.open_source(config_of(**fields), split) for split in SPLITS]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def assert_equal(example, image, pair, label=-1):
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["pair"], pair)
    assert example["label"] == label


# Files with both images side by side


def left_right(tmp_path, **fields):
    return open_both(source="folder", path=str(tmp_path), pair="left_right", **fields)


@pytest.mark.parametrize("channels", [1, 3])
def test_halves_are_image_and_pair(tmp_path, channels):
    images, second = (noise(3, 8, 8, channels, seed=seed) for seed in (0, 1))
    for i, name in enumerate(["train/a.png", "train/b.png", "val/c.png"]):
        both = np.concatenate([images[i], second[i]], axis=1)
        save(tmp_path / name, both.squeeze())
    train, test = left_right(tmp_path, channels=channels)
    assert (len(train), len(test)) == (2, 1) and train.class_names == []
    for i, example in enumerate([train[0], train[1], test[0]]):
        assert_equal(example, images[i], second[i])
    swapped, _ = left_right(tmp_path, channels=channels, swap_pair=True)
    assert_equal(swapped[1], second[1], images[1])


def test_each_half_is_cropped_as_an_image_of_its_own(tmp_path):
    """The seam is in neither, whatever the files' form."""
    black, white = np.zeros((40, 30, 3), np.uint8), np.full((40, 30, 3), 255, np.uint8)
    for i in range(5):
        save(tmp_path / f"{i}.png", np.concatenate([black, white], axis=1))
    for part, size in zip(left_right(tmp_path), (4, 1), strict=True):
        assert len(part) == size
        assert_equal(part[0], np.zeros((8, 8, 1)), np.full((8, 8, 1), 255))


def test_files_of_pairs_may_have_classes(tmp_path):
    for name in ("train/ant/0.png", "train/bee/1.png", "train/2.png", "test/bee/3.png"):
        save(tmp_path / name, noise(8, 16))
    train, test = left_right(tmp_path)
    assert train.class_names == test.class_names == ["ant", "bee"]
    assert sorted(train[i]["label"] for i in range(3)) == [-1, 0, 1]
    assert test[0]["label"] == 1


def test_files_without_two_halves_are_refused(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", noise(8, 17))
    with pytest.raises(UserError, match=r"[0-4].png has 17x8 pixels.*even width"):
        left_right(tmp_path)
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="[0-4].png can't be read"):
        left_right(tmp_path)


# Two folders


def folders(tmp_path, **fields):
    paths = dict(path=f"{tmp_path}/a", pair_path=f"{tmp_path}/b")
    return open_both(**dict(source="folder", pair="folders") | paths | fields)


def test_files_of_two_folders_meet_by_their_stems(tmp_path):
    images, second = noise(10, 8, 8, 1), noise(10, 8, 8, 1, seed=1)
    names = [f"{i % 2}/{i}.x" for i in range(10)]
    for i, name in enumerate(names):
        save(tmp_path / "a" / f"{name}.png", images[i, ..., 0])
    for i, name in reversed(list(enumerate(names))):
        save(tmp_path / "b" / f"{name}.{'bmp' if i % 3 else 'PNG'}", second[i, ..., 0])
    train, test = folders(tmp_path)
    assert len(train) + len(test) == 10 and len(test) >= 1
    assert train.class_names == ["0", "1"]
    examples = [part[i] for part in (train, test) for i in range(len(part))]
    for example in examples:
        (i,) = np.flatnonzero((images == example["image"]).all((1, 2, 3)))
        assert_equal(example, images[i], second[i], i % 2)


def test_two_folders_may_have_splits(tmp_path):
    for i, name in enumerate(["train/0", "train/1", "test/0"]):
        save(tmp_path / "a" / f"{name}.png", np.full((8, 8), i, np.uint8))
        save(tmp_path / "b" / f"{name}.png", np.full((16, 16), 100 + i, np.uint8))
    train, test = folders(tmp_path)
    for example, level in ((train[0], 0), (train[1], 1), (test[0], 2)):
        assert_equal(
            example, np.full((8, 8, 1), level), np.full((8, 8, 1), 100 + level)
        )


@pytest.mark.parametrize("full, lacking", [("a", "b"), ("b", "a")])
def test_files_without_counterpart_are_named(tmp_path, full, lacking):
    for i in range(10):
        save(tmp_path / full / f"{i}.png", noise(8, 8))
    for i in range(5):
        save(tmp_path / lacking / f"{i}.png", noise(8, 8))
    words = f"5 images in {tmp_path}/{full} have.*{tmp_path}/{lacking}: 5, 6, 7, ...\\."
    with pytest.raises(UserError, match=words):
        folders(tmp_path)


def test_two_folders_that_do_not_fit_are_refused(tmp_path):
    for i in range(5):
        save(tmp_path / "a" / f"{i}.png", noise(20, 30))
        save(tmp_path / "b" / f"{i}.png", noise(10, 15))  # half of it
    folders(tmp_path)
    for path in ("", f"{tmp_path}/c"):
        with pytest.raises(UserError, match=f"pair_path = '{path}' is no folder"):
            folders(tmp_path, pair_path=path)
    save(tmp_path / "b" / "0.png", noise(15, 15))
    with pytest.raises(UserError, match="0.png has 30x20.*15x15.*ratio of sides"):
        folders(tmp_path)
    save(tmp_path / "b" / "0.png", noise(10, 14))  # as rounding may leave it
    folders(tmp_path)
    (tmp_path / "b" / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="b/0.png can't be read"):
        folders(tmp_path)
    save(tmp_path / "b" / "1.jpg", noise(10, 15))
    with pytest.raises(UserError, match="1.jpg and .*1.png differ in their suffix"):
        folders(tmp_path)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_in_files_are_ids_or_pixels(tmp_path, mode):
    """A palette's indices are the ids; its colours are the pixels."""
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    for i in range(5):
        save(tmp_path / "a" / f"{i}.png", noise(8, 8))
        image = PIL.Image.fromarray(mask)
        if mode == "P":
            image.putpalette([50, 50, 50, 90, 90, 90, 120, 120, 120])
        (tmp_path / "b").mkdir(exist_ok=True)
        image.save(tmp_path / "b" / f"{i}.png")
    train, _ = folders(tmp_path)
    seen = np.array([50, 90, 120]) if mode == "P" else np.arange(3)
    np.testing.assert_array_equal(train[0]["pair"][..., 0], seen[mask])
    train, _ = folders(tmp_path, pair_levels=3, channels=3)
    spread = np.array([0, 128, 255])[mask]
    np.testing.assert_array_equal(train[0]["pair"], np.stack([spread] * 3, -1))
    for i in range(5):
        save(tmp_path / "b" / f"{i}.png", noise(8, 8, 3))
    with pytest.raises(UserError, match=r"holds colours \(RGB\).*pair_levels = 0"):
        folders(tmp_path, pair_levels=3)


@pytest.mark.parametrize("void, words", [(3, "id 3;"), (255, "id 255 .often the mark")])
def test_ids_in_files_are_checked_first(tmp_path, void, words):
    for i in range(5):
        mask = np.zeros((8, 8), np.uint8)
        mask[2, 3] = void if i == 4 else 2
        save(tmp_path / "a" / f"{i}.png", noise(8, 8))
        save(tmp_path / "b" / f"{i}.png", mask)
    folders(tmp_path, pair_levels=void + 1)
    with pytest.raises(UserError, match=f"levels = 3 .*b/4.png has the {words}"):
        folders(tmp_path, pair_levels=3)


# Features of TFDS


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A data_dir with images and masks of ids 1 to 3, all twice as large as needed."""
    data_dir = tmp_path_factory.mktemp("tfds")
    small = noise(3, 8, 8, 3), 1 + noise(3, 8, 8, 1, seed=1) % 3
    large = [np.repeat(np.repeat(x, 2, axis=1), 2, axis=2) for x in small]
    large[1][:, ::5, ::7] = 2  # a mask finer than the images that are made of it
    examples = [
        {"image": image, "segmentation_mask": mask, "label": 0}
        for image, mask in zip(*large, strict=True)
    ]
    toy_tfds.write(
        data_dir,
        "pets",
        lambda features: {
            "image": features.Image(shape=(None, None, 3)),
            "segmentation_mask": features.Image(shape=(None, None, 1)),
            "label": features.ClassLabel(names=["cat"]),
        },
        {"train": examples[:2], "test": examples[2:]},
    )
    return str(data_dir), large


def feature(data_dir, **fields):
    fixed = dict(source="tfds", name="pets", data_dir=data_dir, channels=3)
    return open_both(**fixed, pair="feature", **fields)


def test_a_feature_of_tfds_is_the_pair(pets):
    data_dir, (images, masks) = pets
    parts = feature(data_dir, pair_feature="segmentation_mask", image_size=16)
    examples = [part[i] for part in parts for i in range(len(part))]
    for i, example in enumerate(examples):
        assert_equal(example, images[i], np.repeat(masks[i], 3, axis=-1), 0)


def test_ids_are_spread_and_never_mixed(pets):
    data_dir, (_, masks) = pets
    levels = np.array([0, 85, 170, 255])
    fields = dict(pair_feature="segmentation_mask", pair_levels=4)
    for size in (16, 8, 6):
        train, _ = feature(data_dir, image_size=size, **fields)
        pair = train[1]["pair"]
        assert pair.shape == (size, size, 3) and pair.dtype == np.uint8
        assert np.ptp(pair, axis=-1).max() == 0
        assert set(np.unique(pair)) == {85, 170, 255}
        if size == 16:
            np.testing.assert_array_equal(pair, levels[np.repeat(masks[1], 3, -1)])


def test_features_and_ids_that_are_not_there_are_refused(pets):
    with pytest.raises(UserError, match=r"'mask' is no.*\['image', 'segmentation_mask"):
        feature(pets[0], pair_feature="mask")
    with pytest.raises(UserError, match="'label' is no image"):
        feature(pets[0], pair_feature="label")
    train, _ = feature(pets[0], pair_feature="segmentation_mask", pair_levels=3)
    with pytest.raises(UserError, match="pair_levels = 3.*0 to 2.*has the id 3"):
        train[0]
    train, _ = feature(pets[0], pair_feature="image", pair_levels=3)
    with pytest.raises(UserError, match="has colours"):
        train[0]


# Computed from the image


@pytest.mark.parametrize("size, channels", [(8, 1), (8, 3), (7, 1), (13, 3)])
@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_pairs_fit_their_images(kind, size, channels):
    fields = dict(image_size=size, channels=channels)
    plain = open_both(**fields)
    for part, source in zip(open_both(pair=kind, **fields), plain, strict=True):
        assert len(part) == len(source) and part.class_names == source.class_names
        for i in (0, 70):
            pair = part[i]["pair"]
            assert pair.dtype == np.uint8
            assert pair.shape == source[i]["image"].shape == (size, size, channels)
            assert_equal(part[i], source[i]["image"], pair, source[i]["label"])
            assert np.ptp(pair) > 0


@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_pairs_of_a_mirror_image_are_mirrored(kind):
    image, function = noise(8, 8, 3), pairs.TRANSFORMS[kind]
    mirrored = function(image[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(mirrored, function(image).astype(float), atol=1)


def test_grey_is_luminance():
    image = noise(9, 8, 3)
    expected = image @ np.array([0.299, 0.587, 0.114])
    found = pairs.grey(image)
    np.testing.assert_allclose(found, np.stack([expected] * 3, -1), atol=1)
    np.testing.assert_array_equal(pairs.grey(image[..., :1]), image[..., :1])


@pytest.mark.parametrize("slope", [(0, 0), (9, 0), (0, 9), (6, 8)])
def test_edges_are_the_gradient_of_a_ramp(slope):
    """Two pixels further the level has risen by twice the slope."""
    y, x = np.indices((8, 8))
    image = (slope[0] * y + slope[1] * x).astype(np.uint8)[..., None]
    inside = pairs.edges(image)[1:-1, 1:-1]
    np.testing.assert_array_equal(inside, np.full((6, 6, 1), 2 * np.hypot(*slope)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_full_step_is_a_full_edge(channels):
    image = np.zeros((8, 8, channels), np.uint8)
    image[:, 4:] = 255
    expected = np.zeros_like(image)
    expected[:, 3:5] = 255
    np.testing.assert_array_equal(pairs.edges(image), expected)
    np.testing.assert_array_equal(
        pairs.edges(image.swapaxes(0, 1)), expected.swapaxes(0, 1)
    )


@pytest.mark.parametrize("shape", [(8, 6, 1), (8, 6, 3), (5, 7, 3)])
def test_half_is_means_of_squares(shape):
    """Of what is left of a square, at the borders of images with odd sides."""
    image = noise(*shape)
    found = pairs.half(image)
    for y in range(0, shape[0], 2):
        for x in range(0, shape[1], 2):
            square = (slice(y, y + 2), slice(x, x + 2))
            mean = image[square].mean((0, 1))
            same = np.broadcast_to(mean, found[square].shape)
            np.testing.assert_allclose(found[square], same, atol=0.51)


# What does not go together


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(pair="edge"), "'edge'.*'edges'"),
        (dict(pair="left_right"), "needs config.data.source = 'folder'.*'digits'"),
        (dict(pair="folders", source="tfds"), "source = 'folder'.*'tfds'"),
        (dict(pair="feature", source="folder"), "source = 'tfds'.*'folder'"),
        (dict(pair="edges", pair_path="b"), r"pair_path = 'b'.*\['folders'\]"),
        (dict(pair_feature="mask"), r"pair_feature.*\['feature'\]"),
        (dict(pair="half", pair_levels=3), "pair_levels = 3 is not read"),
        (dict(swap_pair=True), "swap_pair = True.*pair is ''"),
        (dict(pair="feature", source="tfds", pair_levels=1), "levels is 1.*2 to 256"),
        (dict(pair="feature", source="tfds", pair_levels=300), "levels is 300"),
        (
            dict(pair="folders", source="folder", pair_levels=3, swap_pair=True),
            "pair_levels = 3 .*swap_pair",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused_first(fields, words):
    """Before anything is opened: the folders and data sets here do not exist."""
    with pytest.raises(UserError, match=words):
        sources.open_source(config_of(**fields), "train")


def test_without_a_pair_the_source_is_as_it_was():
    for part in open_both():
        assert "pair" not in part[0]
