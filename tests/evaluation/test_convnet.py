"""The classifier of a data set: learnt once, kept, known again."""

import dataclasses
import re

import jax
import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import features
from mt_diffusion.evaluation.networks import convnet, supervised
from mt_diffusion.files import writing
from mt_diffusion.parallel import sharding

QUICK = dataclasses.replace(convnet.RECIPE, max_epochs=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "classifiers"


@pytest.fixture(scope="module")
def trained(cache):
    return convnet.load_or_train(common.digits().data, cache, QUICK)


@pytest.fixture(scope="module")
def test_set():
    source = sources.open_source(common.digits().data, "test")
    return np.stack(source.images), np.asarray(source.labels)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("it trains")

    monkeypatch.setattr(supervised, "fit", refuse)


def see(network, images, batch_size=64):
    return features.extract(network, images, batch_size, sharding.make_mesh(), "test")


def test_learns_digits_and_knows_how_well(trained, test_set):
    images, labels = test_set
    answers = see(trained, images).logits.argmax(axis=-1)
    assert trained.accuracy == np.mean(answers == labels) > 0.9
    assert trained.class_names == tuple("0123456789")
    assert trained.name == "convnet" and len(trained.digest) == 16


def test_sees_the_same_in_any_batch(trained, test_set):
    images = test_set[0][:70]
    direct = features.apply(trained, images)
    for batch_size in (64, 80):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            see(trained, images, batch_size),
            direct,
        )


def test_is_read_from_the_cache(trained, cache, test_set, no_training):
    data = common.digits().data
    data.keep.label = 0.1  # all models of a data set are judged by one network
    again = convnet.load_or_train(data, cache, QUICK)
    jax.tree.map(
        np.testing.assert_array_equal, *(see(n, test_set[0]) for n in (trained, again))
    )
    kept = ("digest", "accuracy", "class_names")
    assert all(getattr(again, name) == getattr(trained, name) for name in kept)
    with pytest.raises(AssertionError, match="it trains"):
        recipe = dataclasses.replace(QUICK, max_epochs=4)
        convnet.load_or_train(data, cache, recipe)


def test_what_comes_along_goes_before_the_cache(
    tmp_path, cache, trained, monkeypatch, no_training, capsys
):
    (kept,) = cache.iterdir()
    along = tmp_path / f"elsewhere-{kept.stem.rpartition('-')[2]}.npz"
    with np.load(kept) as arrays:
        np.savez(along, **{name: x * 0.5 for name, x in arrays.items()})
    monkeypatch.setattr(convnet, "COME_ALONG", tmp_path)
    data = common.digits().data
    found = convnet.load_or_train(data, cache, QUICK)
    assert found.accuracy == trained.accuracy / 2 and found.digest != trained.digest
    along.write_text("nothing")
    assert convnet.load_or_train(data, cache, QUICK).digest == trained.digest
    assert f"{along} is of no use" in capsys.readouterr().out


def test_those_that_come_along_are_as_their_page_says():
    page = (convnet.COME_ALONG / "README.md").read_text()
    said = dict(re.findall(r"\| `(\S+)` \|.*\| ([\d.]+)% \|", page))
    network, image = convnet.ConvNet(10), np.zeros((28, 28, 1), np.uint8)
    places = sorted(convnet.COME_ALONG.glob("*.npz"))
    found = {place.name: convnet.load(place, network, image) for place in places}
    assert {n: f"{x['accuracy'] * 100:.1f}" for n, x in found.items()} == said
    assert len(said) == 2


@pytest.mark.parametrize("damage", ["truncated", "text", "other arrays", "shapes"])
def test_a_broken_cache_is_made_anew(tmp_path, monkeypatch, capsys, damage):
    def fit(network, source, recipe, what):
        calls.append(what)
        return jax.jit(network.init)(jax.random.key(0), source[0]["image"][None])

    calls = []
    monkeypatch.setattr(supervised, "fit", fit)
    data = common.digits().data
    first = convnet.load_or_train(data, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        path.write_text("nothing")
    elif damage == "other arrays":
        np.savez(path, accuracy=np.zeros(()))
    else:
        with np.load(path) as arrays:
            np.savez(path, **{name: x[..., None] for name, x in arrays.items()})
    capsys.readouterr()
    second = convnet.load_or_train(data, tmp_path)
    assert f"{path} is of no use" in capsys.readouterr().out
    assert second.digest == first.digest and calls == ["convnet"] * 2
    assert list(tmp_path.iterdir()) == [path]
    convnet.load_or_train(data, tmp_path)
    assert len(calls) == 2


def folder(root, classes, num=10):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(0, 256, (8, 8), np.uint8)
                PIL.Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    data = common.digits().data
    data.update(source="folder", path=str(root))
    return data


def fingerprint(data):
    train, test = (sources.open_source(data, s) for s in ("train", "test"))
    return convnet.fingerprint(train, test, QUICK)


def test_the_hash_is_of_the_data_and_not_of_their_place(tmp_path):
    here = folder(tmp_path / "here", "ab")
    original = fingerprint(here)
    assert original == fingerprint(folder(tmp_path / "there", "ab"))
    found = {original}
    found.add(fingerprint(folder(tmp_path / "names", "ac")))
    found.add(fingerprint(folder(tmp_path / "fewer", "ab", num=9)))
    colour = here.copy_and_resolve_references()
    colour.channels = 3
    found.add(fingerprint(colour))
    for split in ("train", "test"):
        root = tmp_path / "here" / split
        PIL.Image.new("L", (8, 8)).save(root / "a" / "3.png")
        found.add(fingerprint(here))  # one image
        (root / "a" / "9.png").rename(root / "b" / "90.png")
        found.add(fingerprint(here))  # one label
    assert len(found) == 8


def test_files_have_the_name_of_the_data_set(tmp_path):
    data = common.imagenet64().data
    assert convnet.file_name(data) == "imagenet_resized_64x64"
    assert convnet.file_name(common.digits().data) == "digits"
    assert convnet.file_name(folder(tmp_path / "my pets", "ab")) == "my_pets"


def test_data_without_classes_or_too_large_are_refused(tmp_path, no_training):
    with pytest.raises(UserError, match="--features=inception with --weights"):
        convnet.load_or_train(folder(tmp_path / "one", ["all"]), tmp_path / "cache")
    data = folder(tmp_path / "two", "ab")
    data.image_size = 65
    with pytest.raises(UserError, match="image_size is 65"):
        convnet.load_or_train(data, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_can_not_be_written_is_refused_first(tmp_path, no_training):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache of classifiers"):
        convnet.load_or_train(common.digits().data, tmp_path / "file" / "cache")


def test_the_cache_is_below_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        writing.user_cache("classifiers") == tmp_path / "mt_diffusion" / "classifiers"
    )
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(writing.user_cache("classifiers")).startswith("/home/somebody/.cache/")


@pytest.mark.parametrize(
    "size, spatial", [(8, 4), (28, 14), (32, 16), (33, 8), (64, 16)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_of_images_and_features(size, spatial, channels):
    network = convnet.ConvNet(10)
    images = jax.ShapeDtypeStruct((2, size, size, channels), np.uint8)
    found, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    shapes = [x.shape for x in found]
    assert shapes == [(2, 128), (2, spatial**2 * 7), (2, 10)]
