"""References: streamed statistics, files of ours and of ADM, what is refused."""

import dataclasses
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import features, quality, reference
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.parallel import sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A tiny network: the rows of an image are its features, its columns spatial."""

    scale: jax.Array
    name: str = dataclasses.field(default="rows", metadata={"static": True})
    digest: str = dataclasses.field(default="0123", metadata={"static": True})

    def apply(self, images):
        pixels = images.astype(jnp.float32) * self.scale
        columns = pixels.sum(axis=(1, 3))
        return Features(pixels.sum(axis=(2, 3)), columns, columns[:, :2])


class NoSpatial(Rows):
    def apply(self, images):
        return super().apply(images)._replace(spatial=None)


jax.tree_util.register_dataclass(
    NoSpatial, data_fields=["scale"], meta_fields=["name", "digest"]
)


class Images:
    """A source of random images; with some labels or with none."""

    def __init__(self, num, labels=None):
        self.class_names = [] if labels is None else ["a", "b"]
        self.images = np.random.default_rng(0).integers(0, 256, (num, 3, 4, 1), "uint8")
        self._labels = labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        assert isinstance(i, int)  # some sources take no integers of numpy
        label = {} if self._labels is None else {"label": int(self._labels[i])}
        return {"image": self.images[i]} | label


NETWORK = Rows(jnp.float32(0.5))


def compute(source, network=NETWORK, num=None, batch_size=16):
    num = len(source) if num is None else num
    return reference.compute(source, network, num, batch_size, sharding.make_mesh())


def check_statistics(found, rows):
    np.testing.assert_allclose(found.mu, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma, np.cov(rows.T), rtol=1e-9, atol=1e-9)
    assert found.num == len(rows)


@pytest.mark.parametrize("batch_size", [1, 16, 100])  # also below the 8 devices
def test_streaming_is_numpys_one_shot(batch_size):
    source = Images(37)
    found = compute(source, batch_size=batch_size)
    pixels = source.images.astype(np.float64) / 2
    check_statistics(found.pooled, pixels.sum(axis=(2, 3)))
    check_statistics(found.spatial, pixels.sum(axis=(1, 3)))
    np.testing.assert_array_equal(found.images, source.images)
    assert (found.num_images, found.labels) == (37, None)
    assert (found.network, found.network_digest) == ("rows", "0123")


def test_fewer_images_are_spread_over_the_source_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(reference, "MAX_IMAGES", 5)
    source = Images(100, labels=np.arange(100) - 1)
    found = compute(source, num=20)
    check_statistics(found.pooled, source.images[::5].sum(axis=(2, 3)) / 2)
    np.testing.assert_array_equal(found.images, source.images[::20])
    np.testing.assert_array_equal(found.labels, np.arange(100)[::20] - 1)
    assert found.num_images == 20


@pytest.mark.parametrize("num, most", [(7, 3), (10, 10), (3, 9), (10_001, 10_000)])
def test_an_even_choice(num, most):
    chosen = reference.spread(num, most)
    assert len(chosen) == min(num, most) and chosen[0] == 0
    steps = np.diff([*chosen, num])
    assert steps.min() >= 1 and steps.max() - steps.min() <= 1


@pytest.mark.parametrize("network", [NETWORK, NoSpatial(jnp.float32(1))])
@pytest.mark.parametrize("labels", [None, np.arange(40) % 3 - 1])
def test_files_come_back(tmp_path, network, labels):
    made, path = compute(Images(40, labels), network), tmp_path / "r.npz"
    reference.write(path, made)
    assert list(tmp_path.iterdir()) == [path]
    found = reference.read(path, network)
    assert found.digest == made.digest and len(found.digest) == 16
    assert (found.spatial is None) == isinstance(network, NoSpatial)
    assert quality.frechet_distance(found.pooled, made.pooled) < 1e-6
    jax.tree.map(
        np.testing.assert_array_equal,
        reference.as_arrays(found),
        reference.as_arrays(made),
    )


def test_the_digest_stands_for_the_content():
    made = compute(Images(20))
    other = dataclasses.replace(made, images=made.images[::-1])
    renamed = dataclasses.replace(made, network_digest="4567")
    assert len({r.digest for r in (made, other, renamed)}) == 3


def adm_arrays(rng):
    """As ADM's reference batches have them: no more than these."""
    return {
        "arr_0": rng.integers(0, 256, (6, 3, 4, 1), np.uint8),
        "arr_1": np.arange(6),
        "mu": rng.standard_normal(3),
        "sigma": np.eye(3),
        "mu_s": rng.standard_normal(4),
        "sigma_s": np.eye(4),
    }


def test_files_of_adm_are_read(tmp_path):
    arrays, path = adm_arrays(np.random.default_rng(0)), tmp_path / "adm.npz"
    np.savez(path, **arrays)
    found = reference.read(path, NETWORK)
    assert (found.num_images, found.network, found.network_digest) == (None, "", "")
    np.testing.assert_array_equal(found.spatial.mu, arrays["mu_s"])
    jax.tree.map(np.testing.assert_array_equal, reference.as_arrays(found), arrays)


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "r.npz"
    reference.write(path, compute(Images(20)))
    other = dataclasses.replace(NETWORK, digest="4567")
    with pytest.raises(UserError, match="network rows 0123, but .* rows 4567"):
        reference.read(path, other)
    arrays = adm_arrays(np.random.default_rng(0))
    np.savez(path, **arrays | {"mu": np.zeros(2048), "sigma": np.eye(2048)})
    with pytest.raises(UserError, match="means of 2,048 features, but .* gives 3"):
        reference.read(path, NETWORK)


def test_files_that_are_no_reference_are_refused(tmp_path):
    good = adm_arrays(np.random.default_rng(0))
    without = lambda name: {n: x for n, x in good.items() if n != name}  # noqa: E731
    path = tmp_path / "r.npz"
    for arrays, words in [
        (without("mu"), "no mu"),
        (without("sigma_s"), "no sigma_s"),
        ({"image": good["arr_0"]}, "no arr_0 and no mu and no sigma"),
        (good | {"arr_0": good["arr_0"] / 255}, "float64 .* not uint8"),
        (good | {"arr_1": np.arange(5)}, "of 6 images"),
        (good | {"sigma": np.eye(4)}, "does not fit"),
        (good | {"mu": np.full(3, np.nan)}, "not finite"),
        (good | {"arr_1": np.array([None] * 6)}, "allow_pickle"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=f"r.npz can't be read as .*{words}"):
            reference.read(path, NETWORK)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "r.npz"
    np.savez(path, **adm_arrays(np.random.default_rng(0)))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        middle = archive.getinfo("arr_0.npy").header_offset + 200
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (whole[: len(whole) // 2], b"no archive", b"", flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="r.npz can't be read as a reference"):
            reference.read(path, NETWORK)
    with pytest.raises(UserError, match="there is no such file"):
        reference.read(tmp_path / "other.npz", NETWORK)


@pytest.fixture
def built(monkeypatch):
    """What `features.build`, which gives the network of rows here, was asked for."""
    asked = []

    def build(kind, data, weights, mesh):
        asked.append((kind, data.source, weights))
        return NETWORK

    monkeypatch.setattr(features, "build", build)
    return asked


def test_a_reference_by_command(tmp_path, built, capsys):
    config, out = common.digits().lock(), tmp_path / "new" / "r.npz"
    config.data.keep.label = 0.0  # of training, and not of what it is compared with
    reference.make(config, "inception", "w.pth", "test", 30, out)
    assert built == [("inception", "digits", "w.pth")]
    found = reference.read(out, NETWORK)
    said = capsys.readouterr().out
    assert all(s in said for s in (str(out), "30 test images", "rows", found.digest))
    source = sources.open_source(common.digits().data, "test")
    rows = np.arange(30) * len(source) // 30
    np.testing.assert_array_equal(found.images, [source[i]["image"] for i in rows])
    np.testing.assert_array_equal(found.labels, [source[i]["label"] for i in rows])
    check_statistics(found.pooled, found.images.sum(axis=(2, 3)) / 2)

    reference.make(config, "convnet", "", "train", None, tmp_path / "all.npz")
    found = reference.read(tmp_path / "all.npz", NETWORK)
    assert found.num_images == 1438 and set(found.labels) == set(range(10))


def test_a_command_that_can_not_be_does_nothing(tmp_path, built):
    config, out = common.digits().lock(), tmp_path / "r.npz"
    for num, words in [(1, "359 images; give 2 to 359"), (360, "--num_examples=360")]:
        with pytest.raises(UserError, match=words):
            reference.make(config, "convnet", "", "test", num, out)
    with pytest.raises(UserError, match="must end in .npz"):
        reference.make(config, "convnet", "", "test", 9, tmp_path / "r.npy")
    config.sampling.batch_size = 0
    with pytest.raises(UserError, match="batch_size is 0"):
        reference.make(config, "convnet", "", "test", 9, out)
    out.write_text("precious")
    with pytest.raises(UserError, match="r.npz exists already"):
        reference.make(config, "convnet", "", "test", 9, out)
    assert out.read_text() == "precious" and list(tmp_path.iterdir()) == [out]
    assert built == []
