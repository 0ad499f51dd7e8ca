"""FID's Inception-v3 against torch-fidelity's, with random weights of its names."""

import json
import zlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation.networks import inception
from mt_diffusion.evaluation.networks.inception import Inception


@pytest.fixture(scope="module")
def reference():
    return dict(np.load("tests/data/inception_v3.npz"))


def random_weight(name, shape):
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("conv.weight"):
        z = z * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        z = 1 + 0.1 * z
    elif name.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif name == "fc.weight":
        z = z / np.sqrt(shape[1])
    else:
        z = 0.1 * z
    return z.astype(np.float32)


@pytest.fixture(scope="module")
def state(reference):
    """A state dict as torch-fidelity's file has it."""
    names, shapes = reference["names"].tolist(), reference["shapes"].tolist()
    return {
        n: random_weight(n, json.loads(s)) for n, s in zip(names, shapes, strict=True)
    }


@pytest.fixture(scope="module")
def network(state, tmp_path_factory):
    file = tmp_path_factory.mktemp("inception") / "weights.npz"
    np.savez(file, **state)
    return inception.load(file)


def test_features_are_torch_fidelitys(network, reference):
    found = jax.jit(Inception.apply)(network, reference["images"])
    wanted = {
        "pooled": reference["pool_3"],
        "spatial": reference["spatial"].reshape(3, -1),
        "logits": reference["logits_unbiased"],
    }
    for name, values in wanted.items():
        near = {"rtol": 1e-4, "atol": 1e-5 * np.abs(values).max()}
        np.testing.assert_allclose(getattr(found, name), values, **near, err_msg=name)


@pytest.mark.parametrize("size", [(32, 48), (1, 2), (299, 299), (350, 611)])
def test_the_resize_interpolates_from_corner_to_corner(size):
    images = np.random.default_rng(0).uniform(0, 255, (2, *size, 3))
    wanted = images
    for axis, old in ((1, size[0]), (2, size[1])):
        at = np.arange(299) * old / 299
        wanted = np.apply_along_axis(
            lambda row, at=at, old=old: np.interp(at, np.arange(old), row), axis, wanted
        )
    found = inception.resize(images.astype(np.float32))
    np.testing.assert_allclose(found, wanted, atol=0.02)  # float32 positions below 611


def test_the_network_sees_minus_one_to_one_in_three_channels(monkeypatch):
    monkeypatch.setattr(inception.InceptionV3, "apply", lambda self, variables, x: x)
    network = Inception(variables={}, digest="")
    grey = np.array([0, 64, 128, 255], np.uint8).reshape(4, 1, 1, 1)
    seen = network.apply(np.tile(grey, (1, 5, 7, 1)))
    assert seen.shape == (4, 299, 299, 3)
    for image, level in zip(seen, (-1, -0.5, 0, 127 / 128), strict=True):
        np.testing.assert_array_equal(image, level)
    colour = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), np.uint8)
    red = network.apply(colour[..., :1])
    np.testing.assert_array_equal(red[..., 2], network.apply(colour)[..., 0])


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(UserError, match="1 or 3 channels, not 4"):
        Inception(variables={}, digest="").apply(np.zeros((1, 8, 8, 4), np.uint8))


def write_torch(state, file):
    torch = pytest.importorskip("torch")
    torch.save({n: torch.from_numpy(x) for n, x in state.items()}, file)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_every_format_gives_the_same_network(network, state, tmp_path, suffix):
    file = tmp_path / f"weights.{suffix}"
    safe = suffix == "safetensors"
    (safetensors.numpy.save_file if safe else write_torch)(state, file)
    found = inception.load(str(file))
    assert (found.name, found.digest) == ("inception", network.digest)
    jax.tree.map(np.testing.assert_array_equal, found.variables, network.variables)


def test_the_digest_knows_other_weights(network, state):
    other = state | {"fc.weight": -state["fc.weight"]}
    assert inception.weights.digest(state) == network.digest
    assert inception.weights.digest(other) != network.digest


def test_weights_of_another_network_are_refused(state, tmp_path):
    other = state | {"AuxLogits.fc.weight": np.zeros((1000, 768), np.float32)}
    other["fc.weight"] = np.zeros((1000, 2048), np.float32)  # as torchvision's
    del other["fc.bias"], other["Mixed_6d.branch1x1.bn.running_var"]
    np.savez(tmp_path / "torchvision.npz", **other)
    with pytest.raises(UserError) as caught:
        inception.load(tmp_path / "torchvision.npz")
    assert "torchvision.npz is not FID's Inception-v3" in str(caught.value)
    assert str(caught.value).endswith(
        "missing ['Mixed_6d.branch1x1.bn.running_var', 'fc.bias'], "
        "unused ['AuxLogits.fc.weight'], "
        "misshapen ['fc.weight has shape (2048, 1000) for (2048, 1008)']."
    )
    with pytest.raises(UserError, match="none.pth does not exist"):
        inception.load("none.pth")
    with pytest.raises(UserError, match="needs its weights, as --weights=FILE"):
        inception.build(None, "")
