"""LPIPS against numpy by windows, with random weights by the files' names."""

import functools
import zlib

import numpy as np
import pytest
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation.networks import lpips
from studies import restoration

# (index in torchvision's `features`, channels, kernel, stride, padding); P pools.
ALEXNET = [
    [(0, 64, 11, 4, 2)],
    ["P", (3, 192, 5, 1, 2)],
    ["P", (6, 384, 3, 1, 1)],
    [(8, 256, 3, 1, 1)],
    [(10, 256, 3, 1, 1)],
]
VGG16 = [
    [(0, 64, 3, 1, 1), (2, 64, 3, 1, 1)],
    ["P", (5, 128, 3, 1, 1), (7, 128, 3, 1, 1)],
    ["P", (10, 256, 3, 1, 1), (12, 256, 3, 1, 1), (14, 256, 3, 1, 1)],
    ["P", (17, 512, 3, 1, 1), (19, 512, 3, 1, 1), (21, 512, 3, 1, 1)],
    ["P", (24, 512, 3, 1, 1), (26, 512, 3, 1, 1), (28, 512, 3, 1, 1)],
]
STAGES, WINDOW = {"alexnet": ALEXNET, "vgg16": VGG16}, {"alexnet": 3, "vgg16": 2}
RNG = np.random.default_rng(0)


def random_weight(name, shape):
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.startswith("lin"):
        return np.abs(z).astype(np.float32)  # as the released ones, not below zero
    z = z * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1 * z
    return z.astype(np.float32)


@functools.cache
def make_state(kind):
    """(torchvision's state dict, lpips' one)."""
    shapes, inputs, lins = {"classifier.6.bias": (7,)}, 3, {}
    for i, stage in enumerate(STAGES[kind]):
        for conv in stage:
            if conv != "P":
                index, channels, kernel, _, _ = conv
                shapes[f"features.{index}.weight"] = (channels, inputs, kernel, kernel)
                shapes[f"features.{index}.bias"] = (channels,)
                inputs = channels
        lins[f"lin{i}.model.1.weight"] = (1, inputs, 1, 1)
    return tuple({n: random_weight(n, s) for n, s in x.items()} for x in (shapes, lins))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{kind: [torchvision's file, lpips' file]}."""
    folder, found = tmp_path_factory.mktemp("lpips"), {}
    for kind in STAGES:
        parts = zip(make_state(kind), (f"{kind}.npz", f"lin_{kind}.npz"), strict=True)
        found[kind] = [folder / name for _, name in parts]
        for state, file in zip(make_state(kind), found[kind], strict=True):
            np.savez(file, **state)
    return found


def windows(x, size):
    """All size x size windows of x [C, H, W]."""
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))


def convolve(x, weight, bias, stride, padding):
    x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2))
    parts = windows(x, weight.shape[-1])[:, ::stride, ::stride]
    return np.einsum("chwyx,ocyx->ohw", parts, weight, optimize=True) + np.reshape(
        bias, (-1, 1, 1)
    )


def pool(x, window):
    return windows(x, window)[:, ::2, ::2].max(axis=(-1, -2))


def distance(kind, state, a, b):
    """By the paper's formula, for uint8 [H, W, 3]."""
    shift, scale = [-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]
    both = [((x / 255 * 2 - 1 - shift) / scale).transpose(2, 0, 1) for x in (a, b)]
    total = 0.0
    for i, stage in enumerate(STAGES[kind]):
        for conv in stage:
            if conv == "P":
                both = [pool(x, WINDOW[kind]) for x in both]
                continue
            index, _, _, stride, padding = conv
            weight, bias = (state[f"features.{index}.{n}"] for n in ("weight", "bias"))
            both = [
                np.maximum(convolve(x, weight, bias, stride, padding), 0) for x in both
            ]
        x, y = (z / (np.sqrt((z**2).sum(axis=0))[None] + 1e-10) for z in both)
        lin = state[f"lin{i}.model.1.weight"][0, :, 0, 0]
        total += np.tensordot(lin, (x - y) ** 2, 1).mean()
    return total


@pytest.mark.parametrize("kind, size", [("alexnet", (36, 31)), ("vgg16", (16, 17))])
def test_distances_are_those_by_windows(files, kind, size):
    a, b = RNG.integers(0, 256, (2, 1, *size, 3), np.uint8)
    features, lins = make_state(kind)
    expected = distance(kind, features | lins, a[0], b[0])
    found = lpips.distances(lpips.load(files[kind]), a, b, 8)
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_of_what_a_distance_is(files):
    """Zero of equals, symmetric, row by row whatever the batch; grey is repeated."""
    network = lpips.load(files["alexnet"])
    a, b = RNG.integers(0, 256, (2, 5, 32, 32, 1), np.uint8)
    found = lpips.distances(network, a, b, 2)
    assert found.shape == (5,) and (found > 0.01).all()
    np.testing.assert_allclose(lpips.distances(network, b, a, 2), found, rtol=1e-5)
    np.testing.assert_array_equal(lpips.distances(network, a, a, 2), 0)
    colour = network.scaled(np.tile(a, 3))
    np.testing.assert_array_equal(network.scaled(a), colour)
    near = np.clip(a.astype(int) + RNG.integers(-9, 10, a.shape), 0, 255)
    assert (lpips.distances(network, a, near.astype(np.uint8), 2) < found).all()


def test_small_images_are_refused_or_enlarged(files):
    a, b = RNG.integers(0, 256, (2, 2, 28, 28, 1), np.uint8)
    network = lpips.load(files["alexnet"])
    with pytest.raises(UserError, match="alexnet can't take .* 28x28.*--lpips_side=64"):
        lpips.distances(network, a, b, 2)
    # Enlarged as PyTorch does it: centres of pixels are aligned, the edge is repeated.
    at = np.clip((np.arange(56) + 0.5) / 2 - 0.5, 0, 27)
    rows = np.array([np.interp(at, np.arange(28), row) for row in np.eye(28)]).T
    scaled = lpips.load(files["alexnet"], 56).scaled(a)[..., 0]
    plain = (a[..., 0] / 127.5 - 1 + 0.030) / 0.458
    np.testing.assert_allclose(scaled, rows @ plain @ rows.T, atol=1e-5)
    with pytest.raises(UserError, match="--lpips_side=20 would shrink .* 28x28"):
        lpips.distances(lpips.load(files["alexnet"], 20), a, b, 2)
    with pytest.raises(UserError, match="3 channels, not 4"):
        lpips.distances(network, np.tile(a, 4), np.tile(b, 4), 2)


@pytest.mark.parametrize("kind", ["alexnet", "vgg16"])
@pytest.mark.parametrize("lacking", [0, 1])
def test_the_smallest_side_is_the_smallest_that_pools(kind, lacking):
    """By the sizes alone: a map of each stage, and none with a pixel less."""
    backbone = {b.name: b for b in lpips.BACKBONES}[kind]
    side = backbone.least - lacking
    for stage in STAGES[kind]:
        for conv in stage:
            if conv == "P":
                side = (side - WINDOW[kind]) // 2 + 1
            else:
                _, _, kernel, stride, padding = conv
                side = (side + 2 * padding - kernel) // stride + 1
    assert (side >= 1) == (not lacking)


def test_one_file_of_both_and_other_formats(files, tmp_path):
    features, lins = make_state("alexnet")
    both = tmp_path / "both.safetensors"
    safetensors.numpy.save_file(features | lins, both)
    found, other = lpips.load([both]), lpips.load(files["alexnet"])
    assert (found.digest, found.backbone.name) == (other.digest, "alexnet")
    assert lpips.load(files["vgg16"]).backbone.name == "vgg16"
    assert "classifier.6.bias" not in found.state


def test_weights_of_another_network_are_refused(files):
    alexnet, vgg = files["alexnet"], files["vgg16"]
    with pytest.raises(UserError, match=r"is not LPIPS by alexnet: .*missing \['lin0"):
        lpips.load(alexnet[:1])
    with pytest.raises(UserError, match="misshapen .*lin0.model.1.weight|lin1"):
        lpips.load([alexnet[0], vgg[1]])
    with pytest.raises(UserError, match=r"no features.0.weight of AlexNet or VGG16"):
        lpips.load(alexnet[1:])
    with pytest.raises(UserError, match="none.pth does not exist"):
        lpips.load(["none.pth"])


def test_restorations_have_it_beside_what_is_trivial(files):
    """Of perfect fillings 0; that of the masked image by hand."""
    images = RNG.integers(0, 256, (3, 32, 32, 1), np.uint8)
    seen = np.ones(images.shape, bool)
    seen[:, 8:20, 8:20] = False
    mean = np.full((32, 32, 1), 128, np.uint8)
    names = ",".join(map(str, files["alexnet"]))
    perceive, judge = restoration.perception(names, 0, 2, images)
    assert judge["lpips"]["network"] == "alexnet"
    noise = np.where(seen, images, 255 - images)

    def extract(x):
        return x.reshape(len(x), -1) / 255

    def measure(fills, perceive):
        return restoration.measure(fills, images, mean, seen, extract, perceive)

    found = measure([images, noise], perceive)
    perfect, plain = measure([images], perceive), measure([images], None)
    assert perfect["lpips"] == perfect["lpips_standard_error"] == 0
    erased = np.where(seen, images, 0).astype(np.uint8)
    expected = perceive(erased, images).mean()
    assert found["lpips_masked"] == perfect["lpips_masked"] == pytest.approx(expected)
    half = perceive(noise, images) / 2
    assert found["lpips"] == pytest.approx(half.mean())
    assert found["lpips_standard_error"] == pytest.approx(half.std() / np.sqrt(3))
    assert perfect.keys() - plain.keys() == {
        f"lpips{end}" for end in ("", "_standard_error", "_mean", "_masked")
    }
    assert restoration.perception(None, 0, 2, images) == (None, {})
    with pytest.raises(UserError, match="can't take images of 28x28"):
        restoration.perception(names, 0, 2, images[:, :28, :28])
