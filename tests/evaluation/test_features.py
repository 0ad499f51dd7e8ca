"""Features of many images, batch by batch, on eight devices; which network it is."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import features
from mt_diffusion.evaluation.networks import convnet, inception
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.parallel import sharding

TRACED = []  # shapes that a Toy was traced with


@flax.struct.dataclass
class Toy:
    weight: jax.Array
    has_maps: bool = flax.struct.field(pytree_node=False)
    name = "toy"
    digest = "0" * 16

    def apply(self, images):
        TRACED.append(images.shape)
        flat = images.reshape(len(images), -1).astype(jnp.float32)
        return Features(flat @ self.weight, flat if self.has_maps else None, 2 * flat)


class Sliced:
    """No array: has a length and slices alone."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._images[rows]


@pytest.fixture
def mesh():
    return sharding.make_mesh()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (21, 4, 4, 1), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 8, 20, 21, 1000])
@pytest.mark.parametrize("has_maps", [True, False])
def test_all_images_in_order_at_any_batch_size(images, mesh, batch_size, has_maps):
    weight = np.arange(32, dtype=np.float32).reshape(16, 2)
    toy = Toy(jnp.asarray(weight), has_maps)
    found = features.extract(toy, Sliced(images), batch_size, mesh, "toy")
    flat = images.reshape(21, 16).astype(np.float32)
    np.testing.assert_array_equal(found.pooled, flat @ weight)
    np.testing.assert_array_equal(found.logits, 2 * flat)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))
    if has_maps:
        np.testing.assert_array_equal(found.spatial, flat)
    else:
        assert found.spatial is None


def test_compiled_once_for_all_batches_and_all_weights(images, mesh):
    TRACED.clear()
    for scale in (1.0, 2.0):
        toy = Toy(jnp.full((16, 3), scale), True)
        found = features.extract(toy, images, 10, mesh, "toy")
        total = images.sum((1, 2, 3), dtype=np.float32)
        np.testing.assert_array_equal(found.pooled[:, 0], scale * total)
    assert TRACED == [(16, 4, 4, 1)]  # 10, rounded up to the 8 devices


def test_other_numbers_than_pixels_are_an_error(images, mesh):
    with pytest.raises(ValueError, match="float32, not uint8"):
        toy = Toy(jnp.ones((16, 2)), True)
        features.extract(toy, images.astype(np.float32), 8, mesh, "toy")


def test_build_puts_the_parameters_on_all_devices(monkeypatch, mesh):
    data = common.digits().data
    calls = []

    def load(*arguments):
        calls.append(arguments)
        return Toy(jnp.ones((16, 2)), True)

    monkeypatch.setattr(convnet, "load_or_train", load)
    monkeypatch.setattr(inception, "load", load)
    for kind, weights in (("convnet", ""), ("inception", "weights.pth")):
        network = features.build(kind, data, weights, mesh)
        assert network.weight.sharding == sharding.replicated(mesh)
        assert len(network.weight.devices()) == 8
    assert calls == [(data,), ("weights.pth",)]


@pytest.mark.parametrize(
    "kind, weights, message",
    [
        ("resnet", "", "resnet is unknown"),
        ("inception", "", "needs --weights"),
        ("convnet", "file.pth", "--weights=file.pth is for --features=inception"),
    ],
)
def test_what_does_not_go_together_is_refused(mesh, kind, weights, message):
    with pytest.raises(UserError, match=message):
        features.build(kind, common.digits().data, weights, mesh)
