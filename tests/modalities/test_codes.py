"""Codes: what each family promises, and that old recipes make what they made."""

import numpy as np
import pytest
from scipy import ndimage

from configs import common, image_label, image_representation
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities import codes

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
    (fields,) = module.get_config().modalities.to_dict().values()
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


# Of several modalities in one model


def want(family, num, name, **changes):
    return codes.wanted(recipe(family, **changes), num, name)


def chain_of(wanted, shape):
    """The codes of each, in order."""
    return codes._make(tuple(wanted), shape)


@every_family
@every_shape
def test_the_nearest_images_of_a_family_are_an_orthogonal_projection(family, shape):
    """Its matrix by brute force: of a basis of all that the family draws."""
    num, of = codes.room(shape, family, SIDE), codes.FAMILIES[family]
    drawn = of.draw(np.random.default_rng(0), num, shape, SIDE).reshape(num, -1)
    basis, _ = np.linalg.qr(drawn.T)
    images = np.random.default_rng(1).standard_normal((5, *shape))
    expected = images.reshape(5, -1) @ basis @ basis.T
    found = of.project(images, SIDE).reshape(5, -1)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@every_family
@pytest.mark.parametrize("before", codes.FAMILIES)
def test_codes_are_orthogonal_to_those_made_before_and_of_their_family(family, before):
    shape = (12, 12, 2)  # 32 of smooth and tiled ones
    chain = [want(before, 10, "a"), want(family, 10, "b"), want(family, 12, "c")]
    made = chain_of(chain, shape)
    together = np.concatenate(made)
    np.testing.assert_allclose(products(together), np.eye(32), atol=1e-9)
    for images in made[1:]:
        nearest = codes.FAMILIES[family].project(images, SIDE)
        np.testing.assert_allclose(nearest, images, atol=1e-9)
    # Those that came later change none, and the first are as if they were alone.
    np.testing.assert_array_equal(chain_of(chain[:2], shape)[1], made[1])
    np.testing.assert_array_equal(make(before, 10, shape, name="a"), made[0])
    np.testing.assert_array_equal(make(before, 10, shape, name="a", version=1), made[0])


def test_codes_of_large_images_need_no_matrix_of_all_pixels():
    """Of 128 x 128 x 3 numbers: such a matrix would take 19 GB."""
    shape, chain = (128, 128, 3), [want("highpass", 12, "a"), want("tiled", 12, "b")]
    together = np.concatenate(chain_of([*chain, want("highpass", 12, "c")], shape))
    np.testing.assert_allclose(products(together), np.eye(36), atol=1e-9)


def model(shape, **fields):
    """Modalities of one model by name: labels of two classes, with these fields."""
    given = {"class_names": ("a", "b")}
    alone = [build(image_label, n, shape, **given | f) for n, f in fields.items()]
    return {m.name: m.among(alone) for m in alone}


def test_a_model_makes_codes_in_the_order_of_their_seeds_and_names():
    """So that one that joins a trained model can leave the codes of others alone."""
    of_seed = lambda seed: {"codes": recipe("white", seed=seed)}  # noqa: E731
    shape, a, b, c = (4, 4, 1), of_seed(0), of_seed(0), of_seed(1)
    alone = model(shape, b=b)["b"].images
    changed = [model(shape, a=a, b=b), model(shape, b=b, a=c)]
    np.testing.assert_array_equal(changed[1]["b"].images, alone)
    assert np.abs(changed[0]["b"].images - alone).max() > 0.1
    for of in changed:
        both = np.concatenate([of["a"].images, of["b"].images])
        np.testing.assert_allclose(products(both), np.eye(4), atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        {"drift": "none"},
        {"kind": "label.SharedUNet", "frame": "read"},
        {"codes": recipe("white", version=1)},
        {"codes": recipe("white", version=0)},
    ],
)
def test_only_codes_that_are_made_together_need_room_together(other):
    shape, white = (2, 2, 1), recipe("white")
    three = {"class_names": ("a", "b", "c"), "codes": white}
    words = r"b.codes: .*room for 4 .*3 of b beside 3 of a make 6.*version = 1"
    with pytest.raises(UserError, match=words):
        model(shape, a=three, b=three)
    found = model(shape, a=three | other, b=three)["b"]
    expected = make("white", 3, shape, name="b").astype(np.float32)
    np.testing.assert_array_equal(found.images, expected)
