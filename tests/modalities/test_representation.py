"""Representations: where vectors come from, and their codes in the diffusion space."""

import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.stats
from sklearn.decomposition import PCA

from configs import common, image_representation
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities.tokens import isometry

SHAPE = (8, 8, 1)
D = 6


class Source:
    """Eighty noisy images, each with a vector of numbers of very different size."""

    class_names = ()

    def __len__(self):
        return 80

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        image = rng.integers(256, size=SHAPE, dtype=np.uint8)
        vector = rng.standard_normal(D) * 10.0 ** np.arange(-3, 3) + 5
        return {"image": image, "vector": vector}


def make(kind="Projection", source=None, shape=SHAPE, **changes):
    fields = image_representation.get_config().modalities.representation.to_dict()
    fields |= {"kind": f"representation.{kind}", "vectors": "feature:vector"}
    fields["codes"] |= {"family": "white"}  # of which 64 pixels have 64
    fields |= {} if kind == "Projection" else {"frame": "read"}
    fields |= changes
    fields = base.locate(fields["kind"]).fit(fields, source or Source())
    return base.build("representation", fields, shape)


def encode_means(images):
    """An encoder: the mean of each row of pixels."""
    return images.mean(axis=(2, 3))


def tile(vectors):
    """A generator: the vector, again and again."""
    return jnp.resize(jnp.tile(vectors, 64 // D + 1)[:, :64], (len(vectors), *SHAPE))


@pytest.fixture(autouse=True)
def functions(monkeypatch):
    """A module of a user's own, with encoders and generators good and bad."""
    module = types.ModuleType("users_own")
    module.encode_means, module.tile, module.number = encode_means, tile, 3
    module.flat = lambda images: images.mean(axis=(1, 2, 3))
    module.infinite = lambda images: np.full((len(images), 2), np.inf)
    module.whole = lambda images: images.reshape(len(images), -1)
    module.small = lambda vectors: jnp.zeros((len(vectors), 4, 4, 1))
    module.host = lambda vectors: np.asarray(vectors)
    module.careless = lambda vectors: {}["mean"]
    module.large = lambda images: np.full((len(images), 2), 1e39)
    module.two = lambda vectors: (tile(vectors), tile(vectors))
    monkeypatch.setitem(sys.modules, "users_own", module)


def stack(name, source=None):
    source = source or Source()
    return np.stack([source[i][name] for i in range(len(source))])


def values_of(modality, source=None):
    source = source or Source()
    return np.stack([modality.preprocess(source[i], None) for i in range(len(source))])


# Where vectors come from


def test_values_have_mean_0_and_variance_1_and_go_back_to_vectors():
    modality = make()
    values = values_of(modality)
    assert values.shape == (80, D) and values.dtype == np.float32
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-5)
    vectors = modality.postprocess(values)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, stack("vector"), rtol=1e-5, atol=1e-4)


def test_pca_is_scikit_learns():
    config = image_representation.get_config().lock()
    train, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    resolved = experiments.resolve(config, train)
    (modality,) = experiments.build(resolved).modalities
    pca = PCA(16).fit(stack("image", train).reshape(len(train), -1) / 255)
    expected = pca.transform(stack("image", test).reshape(len(test), -1) / 255)
    values = values_of(modality, test)
    np.testing.assert_allclose(modality.postprocess(values), expected, atol=2e-5)
    np.testing.assert_allclose(
        values, expected / np.sqrt(pca.explained_variance_), atol=0.01
    )
    represented = modality.representer.represent(stack("image", test))
    np.testing.assert_allclose(represented, expected, atol=2e-5)


def test_a_users_encoder_represents_images():
    modality = make(vectors="users_own:encode_means")
    values = values_of(modality)
    np.testing.assert_allclose(
        modality.postprocess(values), encode_means(stack("image")), rtol=1e-5
    )


def test_what_was_fitted_survives_the_checkpoints_json():
    config = image_representation.get_config().lock()
    source = sources.open_source(config.data, "train")
    resolved = experiments.resolve(config, source)
    restored = type(config)(json.loads(resolved.to_json())).lock()
    both = [experiments.build(c).modalities[0] for c in (resolved, restored)]
    np.testing.assert_array_equal(*(m.preprocess(source[5], None) for m in both))
    assert experiments.resolve(resolved, None) == resolved  # nothing left to fit


def test_an_example_without_its_vector_has_no_value():
    assert make().preprocess({"image": None}, None) is None


def test_examples_without_vectors_do_not_count():
    class Sparse(Source):
        def __getitem__(self, i):
            example = super().__getitem__(i)
            return example if i % 2 else {"image": example["image"]}

    odd = stack("vector")[1::2]
    np.testing.assert_allclose(make(source=Sparse()).vector_mean, odd.mean(axis=0))


@pytest.mark.parametrize("num", [31, 32])
def test_statistics_need_32_vectors(num):
    class Few(Source):
        def __getitem__(self, i):
            example = super().__getitem__(i)
            return example if i < num else {"image": example["image"]}

    if num < 32:
        with pytest.raises(UserError, match="80 training .* 31 have .*; 32 are needed"):
            make(source=Few())
    else:
        assert make(source=Few()).size == D


def test_a_dimension_that_never_varies_stays_at_zero():
    class Constant(Source):
        def __getitem__(self, i):
            example = super().__getitem__(i)
            example["vector"][2] = 7
            return example

    modality = make(source=Constant())
    values = values_of(modality, Constant())
    np.testing.assert_array_equal(values[:, 2], 0)
    np.testing.assert_allclose(modality.postprocess(values)[:, 2], 7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vectors": "feature:clip"}, "0 of 80 have a vector.*--config.data.vectors"),
        ({"vectors": "feature:image"}, r"'image' is uint8 \[8, 8, 1\]"),
        ({"vectors": "clip"}, "'clip' names no function"),
        ({"vectors": ":f"}, "':f' names no function"),
        ({"vectors": "users.own:f"}, "no module 'users'"),
        ({"vectors": "users_own:f"}, "no function 'f'"),
        ({"vectors": "users_own:number"}, "no function 'number'"),
        ({"vectors": "users_own:flat"}, r"made float64 \[64\].*\[64, D\]"),
        ({"vectors": "users_own:whole"}, "made uint8"),
        ({"vectors": "users_own:infinite"}, "not finite"),
        ({"vectors": "users_own:large"}, "not finite as float32"),
        ({"vectors": "pca", "num_components": 65}, "65; 80 images .* 1 to 64"),
    ],
)
def test_vectors_that_can_not_be_had_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_vectors_of_several_lengths_are_refused():
    class Uneven(Source):
        def __getitem__(self, i):
            return {"vector": np.ones(3 + i % 2)}

    with pytest.raises(UserError, match=r"lengths \[3, 4\]"):
        make(source=Uneven())
    with pytest.raises(UserError, match="6 numbers, but there is one of 5"):
        make().preprocess({"vector": np.ones(5)}, None)


# Their codes


@pytest.mark.parametrize(("size", "room"), [(6, 64), (64, 64), (1, 5)])
def test_an_isometry_keeps_angles_and_the_rms(size, room):
    table = isometry(size, room)
    expected = np.eye(size) * room / size
    np.testing.assert_allclose(table @ table.T, expected, atol=1e-9)
    np.testing.assert_array_equal(table, isometry.__wrapped__(size, room))


def encode(modality, values):
    return jax.jit(modality.encode)(jnp.asarray(values))


def rms(x):
    return np.sqrt(np.mean(np.asarray(x) ** 2, axis=tuple(range(1, x.ndim))))


def test_a_projection_has_the_rms_of_its_value():
    modality, values = make(), values_of(make())
    code = encode(modality, values)
    assert code.latent.shape == (80, *SHAPE)
    np.testing.assert_allclose(rms(code.latent), rms(values), rtol=1e-4)
    np.testing.assert_allclose(np.mean(code.latent**2), 1, rtol=1e-4)
    flat = np.asarray(code.latent).reshape(80, -1)
    products = flat @ flat.T / 64, values @ values.T / D
    np.testing.assert_allclose(*products, atol=1e-4)


@pytest.mark.parametrize("kind", ["Projection", "SharedUNet", "Pretrained"])
@pytest.mark.parametrize("token_size", [4, 32])
def test_tokens_hold_the_whole_value_at_its_rms(kind, token_size):
    modality = make(kind, tokens=common.tokens(token_size), generator="users_own:tile")
    values = values_of(modality)
    tokens = encode(modality, values).tokens
    num_tokens, _ = modality.token_shape
    assert tokens.shape == (80, num_tokens, token_size)
    assert (num_tokens - 1) * token_size < D <= num_tokens * token_size
    np.testing.assert_allclose(rms(tokens), rms(values), rtol=1e-4)
    assert np.linalg.matrix_rank(np.asarray(tokens).reshape(80, -1), tol=1e-3) == D


@pytest.mark.parametrize("kind", ["Projection", "SharedUNet", "Pretrained"])
@pytest.mark.parametrize("conditions", [False, True])
def test_codes_have_what_the_network_needs(kind, conditions):
    modality = make(kind, conditions=conditions, generator="users_own:tile")
    code = encode(modality, values_of(modality))
    assert (code.latent is None) == (kind == "SharedUNet")
    assert bool(modality.token_shape) == (conditions or kind == "SharedUNet")
    assert modality.num_planes == 0 and code.planes is None


def test_a_generator_gets_the_vectors_themselves():
    modality = make("Pretrained", generator="users_own:tile")
    latent = encode(modality, values_of(modality)).latent
    expected = tile(jnp.asarray(stack("vector"), jnp.float32))
    np.testing.assert_allclose(latent, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("generator", "words"),
    [
        ("", "names no function"),
        ("users_own:nothing", "no function 'nothing'"),
        ("users_own:small", r"shape=\(2, 4, 4, 1\).*\[2, 8, 8, 1\]"),
        ("users_own:host", "can't be traced"),
        ("users_own:careless", "users_own:careless.*can't be traced.*KeyError: 'mean'"),
        ("users_own:two", r"\[2, 8, 8, 1\]"),
    ],
)
def test_generators_that_do_not_fit_are_refused(generator, words):
    with pytest.raises(UserError, match=words):
        make("Pretrained", generator=generator)


def test_a_projection_without_room_is_refused():
    with pytest.raises(UserError, match="room for 4 .* 6 are needed.*SharedUNet"):
        make(shape=(2, 2, 1))


# The head


def test_the_head_predicts_a_value():
    modality = make()
    features = {"mid": jax.ShapeDtypeStruct((3, 4, 4, 32), jnp.bfloat16)}
    init = functools.partial(modality.head().init_with_output, jax.random.key(1))
    prediction, _ = jax.eval_shape(init, features)
    assert (prediction.shape, prediction.dtype) == ((3, D), jnp.float32)
    value = jnp.arange(3.0 * D).reshape(3, D)
    np.testing.assert_array_equal(modality.mean(value), value)


def test_terms_are_the_mean_square_and_a_gaussian():
    modality = make(std=0.3)
    rng = np.random.default_rng(0)
    value, prediction = rng.standard_normal((2, 4, D)).astype(np.float32)
    arrays = jnp.asarray(prediction), jnp.asarray(value)
    expected = [np.mean((value[i] - prediction[i]) ** 2) for i in range(4)]
    np.testing.assert_allclose(modality.nll(*arrays), expected, rtol=1e-5)
    density = scipy.stats.norm(prediction, 0.3).logpdf(value).sum(axis=-1)
    np.testing.assert_allclose(modality.log_likelihood(*arrays), density, rtol=1e-4)


# Files and people


def test_vectors_are_read_from_files(tmp_path):
    modality, vectors = make(), stack("vector")
    expected = values_of(modality)
    np.save(tmp_path / "v.npy", vectors)
    np.savez(tmp_path / "only.npz", anything=vectors)
    np.savez(tmp_path / "samples.npz", image=stack("image"), representation=vectors)
    for name in ("v.npy", "only.npz", "samples.npz"):
        np.testing.assert_array_equal(modality.read(str(tmp_path / name)), expected)


def test_images_are_represented_first(tmp_path):
    images = stack("image")
    for i in range(3):
        PIL.Image.fromarray(images[i, ..., 0]).save(tmp_path / f"{i}.png")
    for vectors in ("pca", "users_own:encode_means"):
        modality = make(vectors=vectors, num_components=4)
        expected = values_of(modality)
        np.testing.assert_allclose(
            modality.read(str(tmp_path)), expected[:3], atol=1e-5
        )
        one = modality.read(str(tmp_path / "1.png"))
        np.testing.assert_allclose(one, expected[1:2], atol=1e-5)
    with pytest.raises(UserError, match="can't be represented by 'vector'"):
        make().read(str(tmp_path))


def test_files_of_other_things_are_refused(tmp_path):
    np.save(tmp_path / "short.npy", np.ones((3, 5)))
    np.save(tmp_path / "nan.npy", np.full((3, D), np.nan))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.ones((3, D)), b=np.ones((3, D)))
    for name, words in {
        "short.npy": "6 numbers, but there is one of 5",
        "nan.npy": "vector 0 .*not finite",
        "objects.npy": "pickled",
        "two.npz": "no array 'representation'",
        "missing.npz": "no file of vectors",
        "missing": "no file or folder",
    }.items():
        with pytest.raises(UserError, match=words):
            make().read(str(tmp_path / name))


def test_a_vector_is_shown_as_cells_of_red_and_blue():
    modality = make()
    value = np.array([[0, -9, 9, -1.5, 1.5, 0]], np.float32)
    picture = modality.show(modality.postprocess(value)[0])
    white, blue, red = (255, 255, 255), (0, 0, 255), (255, 0, 0)
    expected = [[white, blue, red], [(128, 128, 255), (255, 128, 128), white]]
    assert picture.dtype == np.uint8 and picture.shape == (3, 3, 3)
    np.testing.assert_allclose(picture[:2], expected, atol=1)
    np.testing.assert_array_equal(picture[2], 255)


# The whole line


@pytest.mark.parametrize("kind", ["Projection", "SharedUNet", "Pretrained"])
def test_a_network_reads_drifts_and_predicts_it(kind):
    config = image_representation.get_config()
    config.modalities.representation.update(
        kind=f"representation.{kind}",
        vectors="feature:vector",
        generator="users_own:tile",
        frame="evidence" if kind == "Projection" else "read",
        energy=16.0 if kind == "SharedUNet" else 400.0,
    )
    experiment = experiments.build(experiments.resolve(config, Source()))

    def run(value, z, t):
        params = init_params(jax.random.key(0), experiment)
        apply = functools.partial(experiment.network.apply, params)
        codes = apply({"representation": value}, method="encode")
        known = {"representation": jnp.ones(2, bool)}
        view = experiment.denoiser(
            params | experiment.tables,
            z,
            t,
            codes,
            known,
            {"representation": value},
        )
        return codes["representation"].latent, view

    z = jnp.zeros((2, *SHAPE))
    latent, prediction = jax.eval_shape(run, jnp.zeros((2, D)), z, jnp.array([1, 1000]))
    assert latent.shape == prediction.out.shape == (2, *SHAPE)
    assert prediction.features["representation"].shape == (2, D)
    told = 1 if kind == "Projection" else 0  # by its code: how sure that is
    assert prediction.heads["representation"].shape == (2, D + told)
