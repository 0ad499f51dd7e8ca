"""A diffusion of latents: what its space says, and latents that were encoded once."""

import contextlib
import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.stats

from configs import image_label, joint, latent_label
from mt_diffusion.data import latents, pipeline, sources
from mt_diffusion.diffusion import sampler
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.files import images
from mt_diffusion.inference import bounding, precompute, restoring
from mt_diffusion.inference.generation import Generator
from mt_diffusion.models.autoencoder import folder, kl
from mt_diffusion.parallel import sharding
from mt_diffusion.preflight import program
from mt_diffusion.spaces import encoding

FORM = kl.Form(1, 1, (4, 4), 1, 2, 2, True, True, False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an autoencoder of random weights, 8x8x1 to 4x4x2."""
    out = tmp_path_factory.mktemp("autoencoder")
    image = jnp.zeros((1, 8, 8, 1))
    params = jax.jit(kl.AutoencoderKL(FORM).init)(jax.random.key(0), image)
    folder.write(out, FORM, jax.device_get(params["params"]), 8, 0.5)
    return out


def of_digits(place, made="", **changes):
    """The setting, with that autoencoder."""
    config = latent_label.get_config("smoke")
    config.primary.space.autoencoder = str(place)
    config.primary.space.update(changes)
    config.data.latents = str(made)
    config.data.random_flip = True
    return config.lock()


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    """The latents of digits, drawn, in shards of 500."""
    out = tmp_path_factory.mktemp("latents")
    with small_shards():
        precompute.precompute_latents(of_digits(place), out)
    return out


@contextlib.contextmanager
def small_shards():
    encode = encoding.encode
    encoding.encode = lambda *args: encode(*args, per_shard=500)
    try:
        yield
    finally:
        encoding.encode = encode


@pytest.fixture(scope="module")
def resolved(place, made):
    config = of_digits(place, made)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


def with_a_masked_image(config):
    """The setting `joint` in its space, on its data."""
    both = joint.get_config("smoke")
    with both.unlocked():
        both.primary, both.data = config.primary, config.data
    return both.lock()


def space_of(place, **fields):
    """The space by itself; found: of the autoencoder, and a range of 3."""
    model = folder.find(str(place))
    found = dict(digest=model.digest, scaling=0.5, shift=0.25, limit=3.0)
    given = dict(found=found) | fields
    return dataclasses.replace(experiments.space_of(of_digits(place)), **given)


def test_latents_are_scaled_as_diffusers_does(place):
    space, rng = space_of(place), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 8, 8, 1), np.uint8)
    z = space.encode(pixels)
    raw = folder.find(str(place)).encode(pixels / np.float32(127.5) - 1).mean
    np.testing.assert_allclose(z, (raw - 0.25) * 0.5, atol=1e-5)
    again = folder.find(str(place)).decode(z / 0.5 + 0.25)
    expected = np.clip(np.round((again + 1) * 127.5), 0, 255)
    assert np.abs(space.decode(z).astype(int) - expected).max() <= 1


def test_a_mask_is_shrunk_to_cells_that_are_seen_whole(place):
    space, rng = space_of(place), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 8, 8, 1), np.uint8)
    mask = np.ones((1, 8, 8, 1), np.float32)
    mask[0, 3, 6] = 0
    z, cells = space.masked(pixels, mask)
    expected = np.ones((4, 4))
    expected[1, 3] = 0
    np.testing.assert_array_equal(cells[0, ..., 0], expected)
    np.testing.assert_array_equal(
        space.seen(cells)[0, ..., 0], expected.repeat(2, 0).repeat(2, 1)
    )
    other = pixels.copy()
    other[0, 3, 6] ^= 255  # what is hidden is not told
    np.testing.assert_array_equal(space.masked(other, mask)[0], z)
    shown = space.decode(z, cells)
    assert (shown[0, 2:4, 6:8] == 127).all()
    np.testing.assert_array_equal(space.decode(z, 0 * cells), space.decode(z))


def test_a_masked_image_is_masked_in_its_latents(place):
    config = with_a_masked_image(of_digits(place)).unlock()
    config.primary.space.found = space_of(place).found
    modalities = {m.name: m for m in experiments.build(config).modalities}
    masked = modalities["masked_image"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    seen = np.ones((2, 8, 8), bool)
    seen[:, :4, :4] = False
    value = masked.take((pixels, seen))
    assert value.shape == (2, 4, 4, 3) and masked.shape == (4, 4, 2)
    assert (value[:, :2, :2] == 0).all() and (value[:, 2:, :, -1] == 1).all()
    assert float(masked.mean(jnp.full((1, 4, 4, 2), 9.0)).max()) == 3.0
    assert masked.postprocess(value).shape == (2, 8, 8, 1)


def test_images_with_latents_are_not_read_until_they_are_wanted(
    place, tmp_path, monkeypatch
):
    """What is made of an example is the same, mirrored or not, read or not."""
    rng = np.random.default_rng(0)
    (tmp_path / "images/a").mkdir(parents=True)
    for i in range(40):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"images/a/{i}.png")
    config = of_digits(place).unlock()
    config.data.update(source="folder", path=str(tmp_path / "images"))
    precompute.precompute_latents(config, tmp_path / "made")
    config.data.latents = str(tmp_path / "made")
    config.data.keep.update(label=0.5)
    source = sources.open_source(config.data, "train")
    resolved = experiments.resolve(with_a_masked_image(config), source)
    experiment = experiments.build(resolved)
    masked = experiment.of("masked_image")
    reads, read_image = [], images.read_image
    paths = sources.open_source(precompute.images_alone(config.data), "train").paths
    monkeypatch.setattr(
        images, "read_image", lambda *args: reads.append(args) or read_image(*args)
    )
    for names, num in (([], 0), ([masked], len(source))):
        preprocess = pipeline.Preprocess(experiment.primary, names, True)
        for i in range(len(source)):
            example = source[i]
            plain = dict(example) | {"image": read_image(paths[i], (8, 8, 1))}
            found, wanted = (
                preprocess(x, np.random.default_rng(i)) for x in (example, plain)
            )
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
        assert len(reads) == num
    assert sum("label" in source[i] for i in range(len(source))) == len(source) // 2
    with pytest.raises(KeyError, match="pair"):
        source[0]["pair"]


def test_an_image_is_mirrored_whether_it_was_read_before_or_not():
    image = np.arange(4, dtype=np.uint8).reshape(1, 4, 1)
    for is_read in (False, True):
        example = latents.Unread({"label": 3}, lambda: image)
        assert not is_read or example["image"] is image
        turned = example.mirrored()
        np.testing.assert_array_equal(turned["image"], image[:, ::-1])
        np.testing.assert_array_equal(turned.mirrored()["image"], image)
        assert (turned | {"vector": 1})["label"] == 3


def test_a_broken_image_is_skipped_though_it_has_latents(place, tmp_path):
    (tmp_path / "images/a").mkdir(parents=True)
    for i in range(40):
        pixels = np.full((8, 8), i, np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"images/a/{i:02}.png")
    config = of_digits(place).unlock()
    config.data.update(source="folder", path=str(tmp_path / "images"), broken="skip")
    precompute.precompute_latents(config, tmp_path / "made")
    config.data.latents = str(tmp_path / "made")
    source = sources.open_source(config.data, "train")
    before = [int(source[i]["image"][0, 0, 0]) for i in (0, 1)]
    path = tmp_path / f"images/a/{before[0]:02}.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert int(source[0]["image"][0, 0, 0]) == before[1]


@pytest.mark.parametrize("is_flipped", [False, True])
def test_training_and_evaluation_hide_pixels_before_they_encode(
    place, made, resolved, is_flipped
):
    """Nothing of a hidden pixel comes into the masked image, but the mask."""
    config = with_a_masked_image(resolved).unlock()
    config.modalities.masked_image.max_patches = 2
    experiment = experiments.build(config)
    masked = experiment.variables["masked_image"]
    preprocess = pipeline.Preprocess(experiment.primary, [masked], is_flipped)
    source = sources.open_source(config.data, "train")
    hides = 0
    for seed in range(8):
        example = dict(source[seed])
        one = preprocess(example, np.random.default_rng(seed))
        value = one.values["masked_image"]
        hidden = masked.space.seen(value[None, ..., -1:])[0] == 0
        turned = np.random.default_rng(seed).random() < 0.5 and is_flipped
        hidden = hidden[:, ::-1] if turned else hidden
        other = example | {
            "image": np.where(hidden, 255 - example["image"], example["image"]),
            "image_mean": example["image_mean"] + 1,
        }
        two = preprocess(other, np.random.default_rng(seed))
        assert not np.array_equal(one.z0, two.z0)
        np.testing.assert_array_equal(two.values["masked_image"], value)
        # As whoever gives such an image has it.
        pixels = example["image"][:, ::-1] if turned else example["image"]
        seen = ~hidden[:, ::-1] if turned else ~hidden
        given = masked.take((pixels[None], seen[None]))
        np.testing.assert_allclose(given[0], value, atol=1e-5)
        hides += hidden.any()
    assert hides >= 2


def test_a_masked_image_needs_no_weights_where_devices_are_asked():
    config = with_a_masked_image(of_digits("nowhere", "nowhere"))
    assert experiments.build(program.resolve(config)).shape == (4, 4, 2)


def test_latents_of_other_moments_are_refused(place, made):
    """Made to be drawn; the config says that they are means."""
    source = sources.open_source(of_digits(place, made).data, "train")
    assert space_of(place).value(source[0], "image").shape == (4, 4, 2)
    with pytest.raises(UserError, match="moments is 'mean'.*made with sample"):
        space_of(place, moments="mean").value(source[0], "image")


@pytest.mark.parametrize("per_shard", [0, -1, 1.5, "500"])
def test_a_manifest_is_no_manifest_with_such_shards(made, tmp_path, per_shard):
    told = json.loads((made / latents.MANIFEST).read_text())
    (tmp_path / latents.MANIFEST).write_text(
        json.dumps(told | {"per_shard": per_shard})
    )
    with pytest.raises(UserError, match="is no folder of latents"):
        latents.read_manifest(tmp_path)


def test_a_claim_of_many_shards_is_not_written_out(place, made, tmp_path):
    """A trillion names of files would fill the memory before they are compared."""
    told = json.loads((made / latents.MANIFEST).read_text())
    told["data"]["train"]["examples"], told["per_shard"] = 10**12, 1
    (tmp_path / latents.MANIFEST).write_text(json.dumps(told))
    config = of_digits(place, tmp_path)
    with pytest.raises(UserError, match="latents of other train data: examples"):
        sources.open_source(config.data, "train")


def test_a_second_image_may_be_missing_in_the_first_example():
    rows = [{"image": 0}, {"image": 0, "pair": 1}]
    assert encoding.features_of(rows) == ["image", "pair"]
    assert encoding.features_of(rows[:1]) == ["image"]


def test_a_guide_must_have_the_same_latents(resolved):
    one = experiments.build(resolved)
    assert restoring.differences(one, one) == ""
    other = resolved.copy_and_resolve_references()
    other.primary.space.found.scaling *= 2
    assert restoring.differences(one, experiments.build(other)) == "images"


def test_a_bucket_has_no_latents(place):
    with pytest.raises(UserError, match="gs://a/b is in a bucket"):
        precompute.precompute_latents(of_digits(place), "gs://a/b")


def test_its_likelihood_is_a_density(place):
    x, mean = jnp.array([0.3, -2.0]), jnp.array([0.1, 0.5])
    found = space_of(place).log_prob(x, mean, 2 * jnp.log(0.5))
    np.testing.assert_allclose(found, scipy.stats.norm.logpdf(x, mean, 0.5), rtol=1e-5)


def test_training_reads_what_was_encoded_once(place, made, resolved):
    experiment = experiments.build(resolved)
    assert experiment.shape == (4, 4, 2) and experiment.space.picture == (8, 8, 1)
    found = resolved.primary.space.found
    source = sources.open_source(resolved.data, "train")
    model = folder.find(str(place))
    assert found.digest == model.digest and found.scaling == 0.5 and found.shift == 0
    draws = []
    for flip in (False, True):
        preprocess = pipeline.Preprocess(experiment.primary, (), False)
        for i in (0, 499, 500, 1437):
            example = source[i]
            pixels = example["image"][None, :, :: -1 if flip else 1]
            moments = model.encode(pixels / np.float32(127.5) - 1)
            told = latents.drawn(example, flip, np.random.default_rng(0))
            noise = np.random.default_rng(0).standard_normal((4, 4, 2), np.float32)
            z = (moments.mean + moments.std * noise)[0] * 0.5
            value = experiment.primary.preprocess(told, None)
            np.testing.assert_allclose(value, z, atol=5e-3)  # float16
            assert np.abs(value).max() <= found.limit
        draws.append(preprocess(source[0], np.random.default_rng(1)).z0)
    np.testing.assert_array_equal(*draws)


def test_all_images_of_an_example_see_the_same_draw(place, made, resolved):
    experiment = experiments.build(resolved)
    example = sources.open_source(resolved.data, "train")[3]
    twice = [experiment.primary, experiment.primary]
    preprocess = pipeline.Preprocess(
        experiment.primary,
        [types.SimpleNamespace(name=str(k), preprocess=v.preprocess) for k, v in
         enumerate(twice)],
        True,
    )  # fmt: skip
    batch = preprocess(example, np.random.default_rng(0))
    np.testing.assert_array_equal(batch.values["0"], batch.z0)
    other = preprocess(example, np.random.default_rng(5))
    assert not np.array_equal(other.z0, batch.z0)


def test_what_was_cut_off_goes_on(place, made, capsys):
    shard = made / "train_image_00001.npy"
    before, kept = shard.read_bytes(), (made / "train_image_00000.npy").stat()
    shard.unlink()  # for others have it mapped
    shard.write_bytes(before[:1000])
    with pytest.raises(UserError, match=r"not whole.*train_image_00001"):
        sources.open_source(of_digits(place, made).data, "train")
    shard.unlink()
    with small_shards():
        precompute.precompute_latents(of_digits(place), made)
    assert "3 of 4 shards are there already" in capsys.readouterr().out
    assert shard.read_bytes() == before
    assert (made / "train_image_00000.npy").stat().st_mtime_ns == kept.st_mtime_ns


def test_latents_of_other_data_or_weights_are_refused(place, made, tmp_path):
    config = of_digits(place, made).unlock()
    source = sources.open_source(config.data, "train")

    other = tmp_path / "other"
    other.mkdir()
    params = folder.find(str(place)).params["params"]
    moved = jax.tree.map(lambda x: np.asarray(x) + 0.1, params)
    folder.write(other, FORM, moved, 8, 0.5)
    config.primary.space.autoencoder = str(other)
    with pytest.raises(UserError, match="made by other weights"):
        experiments.resolve(config, source)
    with pytest.raises(UserError, match=r"of another kind: weights, per_shard is"):
        precompute.precompute_latents(config, made)

    told = json.loads((made / "latents.json").read_text())
    for change, words in (
        ({"examples": 1000}, r"other train data: examples is \[1000\] there"),
        ({"image_size": 16}, "other train data: image_size"),
        ({"digest": "abc"}, "other train data: digest"),
    ):
        new = told | {"data": told["data"] | {"train": told["data"]["train"] | change}}
        (tmp_path / "latents.json").write_text(json.dumps(new))
        config.data.latents = str(tmp_path)
        with pytest.raises(UserError, match=words):
            sources.open_source(config.data, "train")
    (tmp_path / "latents.json").write_text(json.dumps(told | {"flips": {"train": 1}}))
    with pytest.raises(UserError, match="no folder of latents"):
        sources.open_source(config.data, "train")
    flips = {"train": 1, "test": 1}
    (tmp_path / "latents.json").write_text(json.dumps(told | {"flips": flips}))
    with pytest.raises(UserError, match="no latents of mirrored images"):
        sources.open_source(config.data, "train")


def test_without_latents_it_says_how_they_are_made(place):
    config = of_digits(place)
    source = sources.open_source(config.data, "train")
    with pytest.raises(UserError, match="--mode=precompute"):
        experiments.resolve(config, source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(channels=4), r"has a factor of 2, latents of 2 channels"),
        (dict(factor=4), r"has a factor of 2"),
        (dict(factor=3), "does not divide config.data.image_size"),
        (dict(moments="mode"), "choose one of"),
        (dict(channels=0), "1 or more"),
        (dict(kind="vectors"), "choose one of"),
        (dict(autoencoder="nowhere"), "there is no folder"),
        (dict(nothing=1), "are missing or unknown"),
    ],
)
def test_a_space_that_can_not_be_is_a_paragraph(place, made, changes, words):
    config = of_digits(place, made).unlock()
    config.primary.space.update(changes)
    source = sources.open_source(config.data, "train")
    with pytest.raises(UserError, match=words) as error:
        experiments.resolve(config, source)
    assert "\n" not in str(error.value)


def test_another_scaling_than_the_autoencoders_is_refused(place, made):
    config = of_digits(place, made, scaling=0.18215)
    source = sources.open_source(config.data, "train")
    with pytest.raises(UserError, match=r"scaling is 0\.18215.* says 0\.5 .*scaling=0"):
        experiments.resolve(config, source)
    same = experiments.resolve(of_digits(place, made, scaling=0.5), source)
    assert same.primary.space.found.scaling == 0.5


def test_a_missing_scaling_is_asked_for(place, made, tmp_path):
    config = of_digits(place, made).unlock()
    source = sources.open_source(config.data, "train")
    told = json.loads((place / "config.json").read_text())
    del told["scaling_factor"]
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / folder.WEIGHTS).symlink_to(place / folder.WEIGHTS)
    config.primary.space.autoencoder = str(tmp_path)
    with pytest.raises(UserError, match=r"no scaling_factor.*0\.18215"):
        experiments.resolve(config, source)
    config.primary.space.scaling = 0.25
    assert experiments.resolve(config, source).primary.space.found.scaling == 0.25


def test_other_weights_than_those_of_training_decode_nothing(place, resolved):
    config = resolved.copy_and_resolve_references().unlock()
    config.primary.space.found.digest = "0" * 16
    with pytest.raises(UserError, match="has other weights"):
        experiments.build(config).primary.postprocess(np.zeros((1, 4, 4, 2)))
    config.primary.space.autoencoder = "moved"  # said before anything is drawn
    with pytest.raises(UserError, match=r"--config\.primary\.space\.autoencoder="):
        restoring.prepare(config.sampling, experiments.build(config), {}, True, None)


def test_devices_can_be_asked_without_weights_and_data():
    config = of_digits("nowhere", "nowhere")
    found = experiments.build(program.resolve(config))
    assert found.shape == (4, 4, 2)
    assert config.primary.space.found.to_dict() == {}


def test_a_run_of_pixels_has_no_autoencoder_to_move():
    config = image_label.get_config("smoke").lock()
    with pytest.raises(UserError, match="none of latents"):
        restoring.override(config, {"primary.space.autoencoder": "x"})
    restoring.override(config, {"data.path": "x", "num_steps": 3})
    assert (config.data.path, config.sampling.num_steps) == ("x", 3)


def test_pixels_have_no_latents_to_make(tmp_path):
    with pytest.raises(UserError, match="this one is of pixels"):
        precompute.precompute_latents(image_label.get_config("smoke"), tmp_path / "x")


@pytest.mark.wide
def test_samples_are_pictures(resolved):
    config = resolved.copy_and_resolve_references().unlock()
    config.sampling.update(num_steps=2, batch_size=8)
    experiment = experiments.build(config)
    params = experiments.init_params(jax.random.key(0), experiment)
    generator = Generator(experiment, config.sampling, sharding.make_mesh())
    values = generator.values(params | experiment.tables, 0, range(2), {})
    assert np.abs(values["image"]).max() <= config.primary.space.found.limit
    drawn = generator.postprocess(values)["image"]
    assert drawn.shape == (2, 8, 8, 1) and drawn.dtype == np.uint8


@pytest.mark.parametrize("name", ["static", "dynamic"])
def test_a_clip_is_into_the_range_of_the_space(name):
    z = jnp.asarray(np.random.default_rng(0).normal(0, 5, (2, 4, 4, 2)), jnp.float32)
    found = sampler.build_clip(name, 3.0)(z)
    unit = 3 * sampler.build_clip(name)(z / 3)
    np.testing.assert_allclose(found, unit, rtol=1e-5)
    assert 2.9 < np.abs(found).max() <= 3.0001


def test_bounds_say_that_they_are_of_latents(place):
    zeros = dict.fromkeys(bounding.bounds.Bounds._fields, jnp.zeros(1))
    zeros |= {"nll": {}, "L2": {}}
    found = bounding.bounds.Bounds(**zeros)
    names = bounding.name_terms(found, space_of(place))[""]
    assert "image_bits_per_dim_of_latents" in names
    assert "image_bits_per_dim" not in names
