"""Each modality as one slice: from an example to its code and back to a person."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.special

from configs import image_label, image_transition, masked_image
from mt_diffusion import protocol
from mt_diffusion.data import pairs
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities import guess
from mt_diffusion.modalities.image import to_uint8, to_unit
from mt_diffusion.modalities.masked_image import MaskedImage

SHAPE = (8, 8, 3)
NAMES = ("ant", "bee", "cat", "dog")


def make_label(kind="Codebook", shape=SHAPE, codes=None, **changes):
    """codes: fields of their recipe that differ."""
    fields = image_label.get_config().modalities.label.to_dict()
    fields |= {"kind": f"label.{kind}", "class_names": NAMES}
    fields |= {"frame": "read"} if kind == "SharedUNet" else {}
    fields["codes"] |= codes or {}
    return base.build("label", fields | changes, shape)


def make_masked(shape=SHAPE, **changes):
    fields = masked_image.get_config().modalities.masked_image.to_dict()
    return base.build("masked_image", fields | changes, shape)


def make_paired(shape=SHAPE, **changes):
    fields = image_transition.get_config().modalities.image_b.to_dict()
    return base.build("image_b", fields | changes, shape)


def make_image(shape=SHAPE):
    return base.build("image", {"kind": "image.Image"}, shape)


MODALITIES = {
    "masked-U": make_masked(conditions=False),
    "masked-X": make_masked(conditions=True),
    "paired-U": make_paired(conditions=False),
    "paired-X": make_paired(conditions=True),
    "codebook-U": make_label(conditions=False),
    "codebook-X": make_label(conditions=True),
    "shared-U": make_label("SharedUNet", conditions=False),
    "shared-X": make_label("SharedUNet", conditions=True),
    "head-E": make_label(head_kind="E"),
}
every_modality = pytest.mark.parametrize("name", MODALITIES)


def rng():
    return np.random.default_rng(0)


def example(seed=0, shape=SHAPE):
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    return {"image": image, "pair": 255 - image, "label": seed % len(NAMES)}


def features(batch=2):
    keys = jax.random.split(jax.random.key(0))
    return {
        "mid": jax.random.normal(keys[0], (batch, 4, 4, 32)),
        "out": jax.random.normal(keys[1], (batch, 8, 8, 16)),
    }


# All of them


@pytest.mark.parametrize("name", ["image", *MODALITIES])
def test_a_placeholder_has_the_shape_of_a_value(name):
    variable = MODALITIES.get(name) or make_image()
    value = variable.preprocess(example(), rng())
    placeholder = variable.placeholder()
    assert value.shape == placeholder.shape
    assert value.dtype == placeholder.dtype == np.float32


@every_modality
def test_codes_are_what_token_shape_and_num_planes_promise(name):
    modality = MODALITIES[name]
    values = np.stack([modality.preprocess(example(i), rng()) for i in range(5)])
    code = modality.encode(jnp.asarray(values))
    if name.startswith("shared"):
        assert code.latent is None and modality.token_shape
    else:
        assert code.latent.shape == (5, *SHAPE)
    if modality.token_shape:
        assert code.tokens.shape == (5, *modality.token_shape)
    if modality.num_planes:
        assert code.planes.shape == (5, *SHAPE[:2], modality.num_planes)
    reads = bool(modality.token_shape or modality.num_planes)
    assert reads == (modality.conditions or name.startswith("shared"))


@every_modality
def test_what_heads_predict_has_a_likelihood_and_can_be_encoded(name):
    modality = MODALITIES[name]
    head = modality.head()
    params = jax.jit(head.init)(jax.random.key(1), features())
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    prediction = jax.jit(head.apply)(params, features())
    values = np.stack([modality.preprocess(example(i), rng()) for i in range(2)])
    assert modality.nll(prediction, jnp.asarray(values)).shape == (2,)
    mean = modality.mean(prediction)
    assert mean.shape == values.shape
    jax.tree.map(
        lambda ours, real: np.testing.assert_equal(ours.shape, real.shape),
        modality.encode(mean),
        modality.encode(jnp.asarray(values)),
    )
    modality.show(modality.postprocess(np.asarray(mean))[0])


# The image


def test_all_256_levels_survive():
    levels = np.arange(256, dtype=np.uint8)
    unit = to_unit(levels)
    np.testing.assert_array_equal(to_uint8(unit), levels)
    assert (unit[0], unit[-1]) == (-1, 1)
    np.testing.assert_allclose(np.diff(unit), 2 / 255, rtol=1e-4)
    np.testing.assert_array_equal(to_uint8(np.array([-1.2, 1.2])), [0, 255])
    np.testing.assert_array_equal(to_uint8(unit[1:] - 0.9 / 255), levels[1:])


def test_an_image_is_read_as_it_is_shown(tmp_path):
    pixels = np.stack([example(i)["image"] for i in range(2)])
    for i in range(2):
        PIL.Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")
    image = make_image()
    value = image.read(str(tmp_path))
    np.testing.assert_array_equal(image.postprocess(value), pixels)
    np.testing.assert_array_equal(value[0], image.preprocess(example(), rng()))
    one = image.read(f"{tmp_path}/1.png")
    np.testing.assert_array_equal(one, value[1:])


def test_what_each_variable_fixes_of_the_image():
    """An image all of it, a masked one what is seen, a label nothing."""
    value = jnp.asarray(make_image().preprocess(example(), rng()))[None]
    known = make_image().known(value)
    np.testing.assert_array_equal(known.pixels, value)
    assert known.mask.shape == (1, 8, 8, 1) and jnp.all(known.mask == 1)

    masked = make_masked()
    hidden = masked.hide(np.asarray(value), masked.draw_mask(3, rng())[None])
    known = masked.known(jnp.asarray(hidden))
    seen = np.broadcast_to(known.mask == 1, value.shape)
    assert 0 < seen.mean() < 1
    np.testing.assert_array_equal(known.pixels[seen], value[seen])
    generated = masked.mean(jnp.ones((1, *SHAPE)))
    assert not jnp.any(masked.known(generated).mask)

    assert make_label().known(jnp.eye(len(NAMES))) is None


# Labels


@pytest.mark.parametrize("kind", ["Codebook", "SharedUNet"])
def test_a_label_is_a_one_hot_vector_or_none(kind):
    label = make_label(kind)
    for i in range(len(NAMES)):
        value = label.preprocess(example(i), rng())
        np.testing.assert_array_equal(value, np.arange(len(NAMES)) == i)
        assert label.show(label.postprocess(value[None])[0]) == NAMES[i]
    assert label.preprocess({"image": None, "label": -1}, rng()) is None
    assert label.preprocess({"image": None}, rng()) is None
    with pytest.raises(UserError, match="label 4.*4 classes"):
        label.preprocess({"image": None, "label": 4}, rng())


def test_label_draws_have_the_frequencies_of_the_heads_distribution():
    """And the same one for the same key, each its own."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    num = 4000
    logits = jnp.tile(jnp.asarray(np.log(p) + 3, jnp.float32), (num, 1))
    keys = jax.random.split(jax.random.key(5), num)
    draw = jax.jit(make_label().draw)
    drawn = draw(keys, logits)
    np.testing.assert_array_equal(np.unique(drawn), [0, 1])
    np.testing.assert_array_equal(drawn.sum(axis=1), 1)
    error = (drawn.mean(axis=0) - p) / np.sqrt(p * (1 - p) / num)
    assert np.abs(error).max() < 4
    np.testing.assert_array_equal(draw(jax.random.clone(keys), logits), drawn)
    backwards = jax.random.wrap_key_data(jax.random.key_data(keys)[::-1])
    turned = draw(backwards, logits)
    np.testing.assert_array_equal(turned[::-1], drawn)


def test_a_draw_changes_with_the_odds_alone():
    """One noise: what is drawn stays while its class gains, whatever all gain."""
    label, keys = make_label(), jax.random.split(jax.random.key(5), 500)
    logits = jnp.asarray(rng().standard_normal((500, len(NAMES))), jnp.float32)
    drawn = label.draw(keys, logits)
    for gained in (logits + 2 * drawn, logits + 7):
        again = label.draw(jax.random.clone(keys), gained)
        np.testing.assert_array_equal(again, drawn)


def test_label_nll_is_the_cross_entropy():
    logits = 5 * rng().standard_normal((6, len(NAMES)))
    value = rng().dirichlet(np.ones(len(NAMES)), 6)
    expected = -np.sum(value * np.log(scipy.special.softmax(logits, axis=-1)), axis=-1)
    arrays = (jnp.asarray(x, jnp.float32) for x in (logits, value))
    np.testing.assert_allclose(make_label().nll(*arrays), expected, rtol=1e-4)


def test_label_mean_is_the_distribution_of_the_logits():
    p = rng().dirichlet(np.ones(len(NAMES)), 6)
    mean = make_label().mean(jnp.asarray(np.log(p) + 3, jnp.float32))
    np.testing.assert_allclose(mean, p, atol=1e-6)


@pytest.mark.parametrize(
    "shape, family", [((2, 2, 1), "white"), ((8, 8, 3), "highpass")]
)
def test_codes_are_orthogonal_images_of_unit_rms(shape, family):
    label = make_label(shape=shape, codes={"family": family})
    codes = label.encode(jnp.eye(len(NAMES))).latent
    flat = np.asarray(codes, np.float64).reshape(len(NAMES), -1)
    np.testing.assert_allclose(
        flat @ flat.T / flat.shape[1], np.eye(len(NAMES)), atol=1e-6
    )


@pytest.mark.parametrize("part", ["latent", "tokens"])
def test_codes_are_linear_in_the_probabilities_and_fixed(part):
    def encode(value):
        return np.asarray(getattr(make_label().encode(jnp.asarray(value)), part))

    p = rng().dirichlet(np.ones(len(NAMES)), 3).astype(np.float32)
    pure = encode(np.eye(len(NAMES), dtype=np.float32))
    mixed = np.tensordot(p, pure, axes=1)
    np.testing.assert_allclose(encode(p), mixed, atol=1e-5)
    assert len(np.unique(pure.reshape(len(NAMES), -1), axis=0)) == len(NAMES)


def test_tokens_have_unit_rms():
    tokens = make_label("SharedUNet").encode(jnp.eye(len(NAMES))).tokens
    np.testing.assert_allclose(jnp.mean(tokens**2, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind, block", [("M", "mid"), ("E", "out")])
def test_each_head_reads_its_own_block(kind, block):
    head = make_label(head_kind=kind).head()
    params = jax.jit(head.init)(jax.random.key(1), features())
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(head.apply(params, x)[:, 0])))
    for name, slope in slopes(features()).items():
        assert bool(jnp.any(slope)) == (name == block)


def test_head_e_sees_where_things_are():
    """Mean pooling could not tell an image from the same one shifted round."""
    head, x = make_label(head_kind="E").head(), features()
    params = jax.jit(head.init)(jax.random.key(1), x)
    shifted = x | {"out": jnp.roll(x["out"], 4, axis=1)}
    logits, other = (jax.jit(head.apply)(params, y) for y in (x, shifted))
    assert jnp.max(jnp.abs(logits - other)) > 0.01


def test_heads_that_can_not_be_are_refused():
    with pytest.raises(UserError, match="label.head_kind is 'Q'; use.*'M', 'E'"):
        make_label(head_kind="Q")
    fields = image_label.get_config().modalities.label.heads.to_dict()
    fields["E"]["num_groups"] = 5
    with pytest.raises(UserError, match="level of 16 channels, which 5 groups"):
        make_label(head_kind="E", heads=fields).head()


def test_a_codebook_without_room_is_refused():
    names = tuple(map(str, range(5)))
    with pytest.raises(UserError, match="room for 4 .*'white'.* 5 are.*SharedUNet"):
        make_label(shape=(2, 2, 1), class_names=names, codes={"family": "white"})
    coarse = {"family": "smooth", "side": 2}
    with pytest.raises(UserError, match="room for 4 .*'smooth'.* 5 are needed"):
        make_label(shape=(8, 8, 1), class_names=names, codes=coarse)


@pytest.mark.parametrize("side", [-1, 9])
def test_a_codebook_of_a_size_that_can_not_be_is_refused(side):
    with pytest.raises(UserError, match=f"codes.side is {side}; .*'smooth'.* 1 to 8"):
        make_label(shape=(12, 8, 1), codes={"family": "smooth", "side": side})


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 12, 3)])
def test_codes_are_the_smoother_the_coarser_their_grids(shape):
    steps = []
    for side in (2, 4, 8, 0):
        recipe = {"family": "smooth" if side else "white", "side": side}
        codes = make_label(shape=shape, codes=recipe).encode(jnp.eye(4)).latent
        products = jnp.einsum("ahwc,bhwc->ab", codes, codes) / np.prod(shape)
        np.testing.assert_allclose(products, np.eye(4), atol=1e-5)
        steps.append(float(jnp.mean(jnp.diff(codes, axis=1) ** 2)))
    assert steps == sorted(steps) and steps[0] < 0.2 < 1.5 < steps[-1]


def test_labels_are_read_as_numbers_and_names():
    for text, expected in {
        "2": [2],
        "cat": [2],
        "0, dog,1": [0, 3, 1],
        "bee,bee": [1, 1],
    }.items():
        np.testing.assert_array_equal(
            make_label().read(text), np.eye(len(NAMES))[expected]
        )


@pytest.mark.parametrize("text", ["4", "-1", "cow", "", "1,", "1.0", "0-3"])
def test_labels_that_do_not_exist_are_refused(text):
    with pytest.raises(UserError, match="--given=label=.*0 to 3.*ant, bee, cat, dog"):
        make_label().read(text)


def test_class_names_come_from_the_data_unless_given():
    class Source:
        class_names = ("yes", "no")

    fit = base.locate("label.Codebook").fit
    assert tuple(fit({"class_names": ()}, Source)["class_names"]) == ("yes", "no")
    assert tuple(fit({"class_names": NAMES}, Source)["class_names"]) == NAMES


def test_the_scale_of_a_code_is_that_of_its_energy():
    """c^2 D: the same energy is the same legibility at every size."""
    for shape in ((8, 8, 1), (28, 28, 1), (8, 8, 3)):
        label = make_label(shape=shape, energy=3136.0)
        assert label.scale**2 * np.prod(shape) == pytest.approx(3136)
        code = label.scale * label.encode(jnp.eye(len(NAMES))).latent
        squares = np.sum(np.asarray(code, np.float64) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(squares, 3136, rtol=1e-5)


# Masked images


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (28, 7), (64, 16)])
def test_a_patch_is_a_square_that_scales_with_the_image(size, patch):
    masked = make_masked(shape=(size, size, 1))
    generator = rng()
    for _ in range(20):
        hidden = masked.draw_mask(1, generator)[..., 0] == 0
        assert hidden.sum() == patch**2
        assert hidden.any(0).sum() == hidden.any(1).sum() == patch
    assert masked.draw_mask(0, generator).all()


def test_patches_lie_anywhere_and_may_overlap():
    """Each pixel is hidden as often as uniform corners, counted by hand, make it."""
    per_axis = np.array([1, 2, 2, 2, 2, 2, 2, 1]) / 7  # of 7 corners in 8 pixels
    one_patch = np.outer(per_axis, per_axis)
    expected = 1 - (1 - one_patch) ** 3
    masked, generator, num = make_masked(), rng(), 4000
    draws = [masked.draw_mask(3, generator)[..., 0] == 0 for _ in range(num)]
    error = (np.mean(draws, axis=0) - expected) / np.sqrt(expected * (1 - expected))
    assert np.abs(error).max() < 4.5 / np.sqrt(num)  # the largest of 64


def test_the_number_of_patches_is_uniform_on_0_to_10():
    # Patches of one pixel in 64 x 64 hardly ever meet, so that they can be counted.
    masked = make_masked(shape=(64, 64, 1), patches_per_side=64)
    white = {"image": np.full((64, 64, 1), 255, np.uint8)}
    generator, num = rng(), 1100
    hidden = [np.sum(masked.preprocess(white, generator) == 0) / 2 for _ in range(num)]
    counts = np.bincount(np.array(hidden, int), minlength=11)
    assert len(counts) == 11
    assert np.abs(counts - 100).max() < 4 * np.sqrt(100)


def test_hidden_pixels_are_zero_and_seen_ones_untouched():
    masked, generator = make_masked(), rng()
    for seed in range(20):
        value = masked.preprocess(example(seed), generator)
        image, seen = value[..., :-1], value[..., -1] == 1
        assert np.all(value[~seen] == 0)
        np.testing.assert_array_equal(
            image[seen], to_unit(example(seed)["image"])[seen]
        )
        shown = masked.show(masked.postprocess(value[None])[0])
        np.testing.assert_array_equal(shown[seen], example(seed)["image"][seen])


def test_masked_nll_is_the_mean_square_of_the_masked_image():
    masked = make_masked()
    values = np.stack([masked.preprocess(example(i), rng()) for i in range(4)])
    prediction = rng().standard_normal((4, *SHAPE)).astype(np.float32)
    target = np.where(
        values[..., -1:] == 1, [to_unit(example(i)["image"]) for i in range(4)], 0
    )
    expected = [np.mean((prediction[i] - target[i]) ** 2) for i in range(4)]
    found = masked.nll(jnp.asarray(prediction), jnp.asarray(values))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_masked_image_is_its_own_code():
    masked = make_masked()
    value = jnp.asarray(masked.preprocess(example(), rng()))[None]
    np.testing.assert_array_equal(masked.encode(value).latent, value[..., :-1])


def test_a_masked_image_is_read_from_transparency(tmp_path):
    masked = make_masked(shape=(8, 8, 1))
    color = example(shape=(2, 8, 8))["image"]
    alpha = np.where(example(1, (2, 8, 8))["image"] < 128, 0, 255).astype(np.uint8)
    for i in range(2):
        both = np.stack([color[i], alpha[i]], -1)
        PIL.Image.fromarray(both, "LA").save(tmp_path / f"{i}.png")
    value = masked.read(str(tmp_path))
    np.testing.assert_array_equal(value[..., 1], alpha == 255)
    np.testing.assert_array_equal(
        value[..., 0], np.where(alpha == 255, to_unit(color), 0)
    )


@pytest.mark.parametrize("size", [2, 6, 30])
def test_images_that_patches_do_not_divide_are_refused(size):
    with pytest.raises(UserError, match=f"size {size} .*patches_per_side = 4"):
        make_masked(shape=(size, size, 1))


def test_a_masked_image_that_is_drawn_claims_to_see_nothing():
    masked, num = make_masked(std=0.3), 60
    prediction = jnp.asarray(rng().uniform(-0.9, 0.9, (num, *SHAPE)), jnp.float32)
    keys = jax.random.split(jax.random.key(2), num)
    value = masked.draw(keys, prediction)
    assert value.shape == (num, *masked.placeholder().shape)
    assert not np.any(value[..., -1])
    noise = np.asarray(value[..., :-1] - prediction)
    assert noise.std() == pytest.approx(0.3, rel=0.04)  # of 11,520 numbers
    assert abs(noise.mean()) < 0.012
    assert len(np.unique(noise.reshape(num, -1)[:, 0])) == num
    again = masked.draw(jax.random.clone(keys), prediction)
    np.testing.assert_array_equal(again, value)


# Second images


def test_a_second_image_is_that_of_the_example_or_none():
    paired = make_paired()
    value = paired.preprocess(example(), rng())
    np.testing.assert_array_equal(value, to_unit(example()["pair"]))
    shown = paired.show(paired.postprocess(value[None])[0])
    np.testing.assert_array_equal(shown, example()["pair"])
    assert paired.preprocess({"image": example()["image"]}, rng()) is None
    assert paired.known(jnp.asarray(value)[None]) is None  # it is another image


def test_the_second_image_is_its_own_code_and_its_own_planes():
    value = jnp.asarray(make_paired().preprocess(example(), rng()))[None]
    for found in make_paired(conditions=True).encode(value)[::2]:
        np.testing.assert_array_equal(found, value)


def test_the_second_image_is_predicted_by_its_mean():
    paired = make_paired()
    values, prediction = rng().uniform(-1, 1, (2, 4, *SHAPE)).astype(np.float32)
    expected = [np.mean((prediction[i] - values[i]) ** 2) for i in range(4)]
    found = paired.nll(jnp.asarray(prediction), jnp.asarray(values))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(paired.mean(jnp.asarray(prediction)), prediction)
    assert jnp.abs(paired.mean(jnp.asarray(9 * prediction))).max() == 1


def test_a_bound_of_the_second_image_counts_every_pixel_once():
    """The levels of each pixel make a distribution: all but the error of ADM's tanh."""
    paired = make_paired(shape=(1, 2, 1), std=0.1)
    levels = to_unit(np.arange(256, dtype=np.uint8))
    first = jnp.stack([levels, jnp.full(256, levels[90])], -1)[:, None, :, None]
    mean = jnp.broadcast_to(jnp.array([0.4, levels[90]])[:, None], (256, 1, 2, 1))
    alone = scipy.special.erf(1 / 255 / 0.1 / np.sqrt(2))  # of the level 90 at its mean
    total = jnp.sum(jnp.exp(paired.log_likelihood(mean, first)))
    np.testing.assert_allclose(total, alone, rtol=1e-2)


def test_second_images_are_read_at_the_models_size(tmp_path):
    PIL.Image.fromarray(example()["pair"]).save(tmp_path / "0.png")
    value = make_paired().read(str(tmp_path))
    np.testing.assert_array_equal(value[0], make_paired().preprocess(example(), rng()))
    with pytest.raises(UserError, match="0.png has 8x8.*have 16x16"):
        make_paired(shape=(16, 16, 3)).read(str(tmp_path))


def test_masks_are_read_as_training_reads_them(tmp_path):
    """Ids, not pixels; resampling and more are for training alone."""
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    PIL.Image.fromarray(ids).save(tmp_path / "0.png")
    config = image_transition.get_config()
    config.data.pair_levels = 3
    fields = config.modalities.image_b.to_dict()
    paired = base.build("image_b", fields, SHAPE)
    spread = pairs.spread(ids[..., None], 3, paired.shape)
    value = paired.read(str(tmp_path))
    np.testing.assert_array_equal(value[0], paired.preprocess({"pair": spread}, rng()))
    with pytest.raises(UserError, match="0.png has 8x8.*have 16x16"):
        make_paired(shape=(16, 16, 3), levels=3).read(str(tmp_path))
    PIL.Image.fromarray(spread[..., 0]).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="0.png has the id 255.*0 to 2.*spread already"):
        paired.read(str(tmp_path))
    PIL.Image.fromarray(np.stack([ids] * 3, -1)).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="0.png holds colours"):
        paired.read(str(tmp_path))


@pytest.mark.parametrize("lacking, found", [(0, True), (5, True), (10, False)])
def test_data_without_second_images_is_refused(lacking, found):
    examples = [{"image": 0}] * lacking + [example()] * (10 - lacking)
    fit = base.locate("paired_image.PairedImage").fit
    if found:
        assert fit({"std": 1}, examples) == {"std": 1}
    else:
        with pytest.raises(UserError, match="--config.data.pair"):
            fit({}, examples)


# Building


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inverted(MaskedImage):
    """A modality of a user's own."""

    darkness: float


class Mute(MaskedImage):
    """A modality that can't be drawn."""

    draw = protocol.Modality.draw


def test_a_users_own_class_is_built_by_its_full_path():
    own = make_masked(kind=f"{__name__}.Inverted", darkness=0.5)
    assert type(own).__name__ == "Inverted" and own.darkness == 0.5
    assert own.name == "masked_image" and own.shape == SHAPE


def test_fields_must_be_those_of_the_class():
    with pytest.raises(UserError, match="modalities.masked_image.*'patches'"):
        make_masked(patches=3)
    fields = masked_image.get_config().modalities.masked_image.to_dict()
    del fields["drift_scale"]
    with pytest.raises(UserError, match=r"modalities.seen.*\['drift_scale'\]"):
        base.build("seen", fields, SHAPE)


@pytest.mark.parametrize(
    "kind", ["label.Codebok", "lable.Codebook", "Codebook", "", ".", "a.b.C"]
)
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(UserError, match=f"no modality '{kind}'.*label.Codebook"):
        base.locate(kind)


def test_label_probabilities_sum_to_one():
    label = make_label()
    logits = jnp.asarray(rng().standard_normal((1, len(NAMES))), jnp.float32)
    values = jnp.eye(len(NAMES))
    found = label.log_likelihood(jnp.repeat(logits, len(NAMES), 0), values)
    np.testing.assert_allclose(jnp.exp(found), jax.nn.softmax(logits)[0], rtol=1e-5)


def test_a_masked_images_probabilities_are_of_what_is_seen():
    """One pixel seen: they sum to one over its levels, whatever the others hold."""
    masked = make_masked(shape=(8, 8, 1))
    prediction = rng().uniform(-1, 1, (256, 8, 8, 1)).astype(np.float32)
    prediction[:, 3, 5] = prediction[0, 3, 5]
    image, mask = np.zeros((256, 8, 8, 1)), np.zeros((256, 8, 8, 1))
    image[:, 3, 5, 0], mask[:, 3, 5] = np.arange(256) / 127.5 - 1, 1
    values = jnp.asarray(masked.hide(image, mask), jnp.float32)
    found = masked.log_likelihood(jnp.asarray(prediction), values)
    assert float(jnp.exp(found).sum()) == pytest.approx(1, abs=1e-4)


def test_a_standard_deviation_of_nothing_is_refused():
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            make_masked(std=std)


# What words and numbers mean


def test_words_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="label.frame is 'moving'; choose.*'evidence'"):
        make_label(frame="moving")
    with pytest.raises(UserError, match="label.guess is 'best'; choose.*'coherent'"):
        make_label(guess="best")
    with pytest.raises(UserError, match="label.codes.family is 'pink'.*'highpass'"):
        make_label(codes={"family": "pink"})


def test_a_guess_that_can_not_be_drawn_is_refused():
    """Of a class without draws; whether its config says so, or a flag."""
    parse = guess.parse
    for word in ("mean", "absent"):
        mute = make_masked(kind=f"{__name__}.Mute", guess=word)
        assert parse("", {"masked_image": mute}) == {"masked_image": word}
    for own, text in (("held", ""), ("mean", "masked_image=coherent")):
        mute = make_masked(kind=f"{__name__}.Mute", guess=own)
        with pytest.raises(UserError, match="Mute draws no values; .*'mean' or 'abs"):
            parse(text, {"masked_image": mute})


@pytest.mark.parametrize("energy", [0.0, -1.0, float("nan")])
def test_an_energy_of_nothing_is_refused(energy):
    with pytest.raises(UserError, match="label.energy is .*above 0.*drift = 'none'"):
        make_label(energy=energy)


@pytest.mark.parametrize(
    "make, kind",
    [
        (make_masked, "MaskedImage"),
        (make_paired, "PairedImage"),
        (lambda **fields: make_label("SharedUNet", **fields), "SharedUNet"),
    ],
)
def test_evidence_of_an_encoder_without_is_refused(make, kind):
    with pytest.raises(UserError, match=f"frame is 'evidence'.*{kind}, has none.*read"):
        make(frame="evidence")


def test_fields_of_earlier_versions_name_what_replaces_them():
    """drift_scale 2.5 on images of 64 numbers is an energy of 2.5^2 * 64."""
    small = (8, 8, 1)
    for field, words in {
        "drift_scale": "label.drift_scale = 2.5 .*earlier.*energy = 400",
        "drop_rate": "label.drop_rate = 2.5 .*earlier.*config.presence",
        "null_rate": "label.null_rate = 2.5 .*earlier.*config.presence",
        "code_side": "label.code_side = 2.5 .*earlier.*codes.family = 'smooth', codes.",
        "token_size": "label.token_size = 2.5 .*earlier.*tokens.size = 2.5",
    }.items():
        with pytest.raises(UserError, match=words):
            make_label(shape=small, **{field: 2.5})
    with pytest.raises(UserError, match="drift_scale = 0.* is drift = 'none'"):
        make_label(shape=small, drift_scale=0.0)
    with pytest.raises(UserError, match="masked_image.null_rate.*config.presence"):
        make_masked(null_rate=0.1)
