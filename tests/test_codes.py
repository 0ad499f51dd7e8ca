"""Codes: what each family promises, and that old recipes make what they made."""

import numpy as np
import pytest
from scipy import ndimage

from configs import common, image_label, image_representation
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import base, codes

SIDE = 4  # of the grids of tiled and smooth codes
SHAPES = [(8, 8, 1), (12, 8, 3), (9, 10, 2)]  # sides that 4 divides, and not
every_family = pytest.mark.parametrize("family", codes.FAMILIES)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def recipe(family, **changes):
    side = SIDE if family in codes.OF_GRIDS else 0
    return common.codes() | {"family": family, "side": side} | changes


def make(family, num, shape, name="label", **changes):
    return codes.make(recipe(family, **changes), num, shape, name)


def products(images):
    """Mean products of all pairs, [K, K]; of unit RMS the diagonal is 1."""
    flat = images.reshape(len(images), -1)
    return flat @ flat.T / flat.shape[1]


def cosines(size):
    """The orthonormal cosine transform of its name, by its definition: [size, size]."""
    u, x = np.arange(size)[:, None], np.arange(size)[None]
    waves = np.cos(np.pi * (2 * x + 1) * u / (2 * size)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves


@every_family
@every_shape
def test_codes_are_orthogonal_images_of_unit_rms_always_the_same(family, shape):
    found = make(family, 10, shape)
    assert found.shape == (10, *shape) and found.dtype == np.float64
    np.testing.assert_allclose(products(found), np.eye(10), atol=1e-9)
    before = found.copy()
    codes._make.cache_clear()
    np.testing.assert_array_equal(make(family, 10, shape), before)


@every_family
def test_names_and_seeds_make_others(family):
    """Two modalities of one family, whose codes lie in one z_t."""
    shape = (16, 16, 1)
    found = make(family, 4, shape)
    for other in (
        make(family, 4, shape, name="lebal"),
        make(family, 4, shape, seed=1),
    ):
        cosine = np.abs(np.einsum("ahwc,bhwc->ab", found, other)) / np.prod(shape)
        assert cosine.max() < 0.9  # of 16 numbers of a grid at least


@every_shape
def test_highpass_codes_have_no_low_frequency(shape):
    found = make("highpass", 10, shape)
    height, width, _ = shape
    spectrum = np.einsum(
        "uh,vw,khwc->kuvc", cosines(height), cosines(width), found, optimize=True
    )
    low = np.add.outer(np.arange(height) / height, np.arange(width) / width) < 1
    assert np.abs(spectrum[:, low]).max() < 1e-9
    np.testing.assert_allclose(
        np.sum(spectrum**2, axis=(1, 2, 3)), np.prod(shape), rtol=1e-9
    )


@every_shape
def test_tiled_codes_repeat(shape):
    found = make("tiled", 10, shape)
    np.testing.assert_allclose(found[:, SIDE:], found[:, :-SIDE], atol=1e-9)
    np.testing.assert_allclose(found[:, :, SIDE:], found[:, :, :-SIDE], atol=1e-9)


def test_smooth_images_hardly_leak_into_high_frequencies():
    """The mean square of an image along a code, of variance 1 in each pixel."""
    shape, num = (28, 28, 1), 10
    rng = np.random.default_rng(3)
    images = np.stack(
        [
            ndimage.gaussian_filter(rng.standard_normal(shape[:2]), 1.5)
            for _ in range(200)
        ]
    )
    images = (images / images.std()).reshape(200, -1)
    leak = {}
    for family in ("highpass", "white"):
        directions = make(family, num, shape).reshape(num, -1) / 28
        leak[family] = np.mean((images @ directions.T) ** 2)
    assert leak["white"] == pytest.approx(1, rel=0.5)  # as any direction
    assert leak["highpass"] < 0.01 * leak["white"]


@pytest.mark.parametrize(
    "family, room",
    [("highpass", 28 * 2), ("white", 128), ("tiled", 32), ("smooth", 32)],
)
def test_there_is_room_for_so_many_and_no_more(family, room):
    """Of 8 x 8 frequencies 28 have u + v >= 8; two channels."""
    shape = (8, 8, 2)
    codes.check(recipe(family), room, shape, "label")
    np.testing.assert_allclose(
        products(make(family, room, shape)), np.eye(room), atol=1e-9
    )
    words = rf"room for {room} .*'{family}', but {room + 1} are needed.*label.codes"
    with pytest.raises(UserError, match=words):
        codes.check(recipe(family), room + 1, shape, "label")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"family": "pink"}, "x.codes.family is 'pink'.*'highpass', 'white'"),
        ({"version": 3}, "x.codes.version is 3; .* 0 to 2"),
        ({"version": -1}, "x.codes.version is -1"),
        ({"family": "tiled", "side": 0}, "x.codes.side is 0; .*'tiled' .* 1 to 6"),
        ({"family": "smooth", "side": 7}, "x.codes.side is 7; .*'smooth' .* 1 to 6"),
        ({"family": "tiled", "side": -1}, "x.codes.side is -1"),
    ],
)
def test_recipes_that_can_not_be_are_refused(changes, words):
    with pytest.raises(UserError, match=f"config.modalities.{words}"):
        codes.check(common.codes() | changes, 1, (6, 8, 1), "x")


# Of the time when there were no recipes


def codes_of_labels(num, shape, side):
    """What label.Codebook had: a copy of its lines."""
    height, width, channels = shape
    grid = (side or height, side or width, channels)
    rng = np.random.default_rng(0)
    grids = rng.standard_normal((*grid, num))
    factors = np.divide((*shape, num), grids.shape)
    images = ndimage.zoom(grids, factors, order=1, mode="nearest", grid_mode=True)
    orthogonal, _ = np.linalg.qr(images.reshape(-1, num))
    return np.sqrt(len(orthogonal)) * orthogonal.T.reshape(-1, *shape)


def isometry(size, room):
    """What representation.Projection had: a copy of its lines."""
    gaussian = np.random.default_rng(0).standard_normal((room, size))
    orthogonal, triangle = np.linalg.qr(gaussian)
    signs = np.sign(np.diag(triangle))
    return np.sqrt(room / size) * (orthogonal * signs).T


@pytest.mark.parametrize("side", [0, 4])
@every_shape
def test_version_0_makes_the_codes_of_labels_that_there_were(shape, side):
    family = "smooth" if side else "white"
    found = make(family, 10, shape, side=side, version=0)
    np.testing.assert_array_equal(found, codes_of_labels(10, shape, side))
    other = make(family, 10, shape, name="other", side=side, version=0)
    np.testing.assert_array_equal(found, other)


def build(module, name, shape, **changes):
    fields = module.get_config().modalities[name].to_dict()
    fields["codes"] = recipe("white", version=0)
    return base.build(name, fields | changes, shape)


@every_shape
def test_modalities_of_version_0_have_the_images_that_they_had(shape):
    label = build(image_label, "label", shape, class_names=tuple("abcdef"))
    expected = codes_of_labels(6, shape, 0).astype(np.float32)
    np.testing.assert_array_equal(label.images, expected)
    size = 5
    vector = build(
        image_representation,
        "representation",
        shape,
        vectors="feature:vector",
        vector_mean=(0.0,) * size,
        vector_std=(1.0,) * size,
    )
    expected = isometry(size, np.prod(shape)).reshape(size, *shape)
    np.testing.assert_array_equal(vector.images, expected.astype(np.float32))
