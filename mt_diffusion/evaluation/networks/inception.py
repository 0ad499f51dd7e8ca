"""The Inception-v3 of FID: TensorFlow's graph of 2015, by torch-fidelity's names.

It differs from torchvision's in the pooling of its blocks, in 1008 classes, and in the
resize. Its weights are a local file: torch-fidelity's, or its names in another format.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, UInt8

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.files import weights

Maps = Float[Array, "b h w c"]
Layer = Callable[[Maps], Maps]  # called within a module's `nn.compact`

SIZE = 299
SPATIAL = 7  # channels of a map that sFID reads, the first ones
RELEASED = "weights-inception-2015-12-05-6726825d.pth"
LEAVES = {  # of a variable here, and in the file
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
BIAS = "fc.bias"  # in the file, but the logits here are without it

# A TPU multiplies float32 in one pass of bfloat16 unless told otherwise. Emulated,
# with random weights, that changes pool_3 by 0.4% and sFID's maps by 1.4%; three passes
# (HIGH) change them by less than 3e-5, so that six (HIGHEST) gain nothing.
LINEAR: dict[str, Any] = {
    "use_bias": False,
    "kernel_init": nn.initializers.zeros,  # all values come from the file
    "precision": jax.lax.Precision.HIGH,
}


class Unit(nn.Module):
    """Convolution, batch norm by its running statistics, ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int
    padding: str

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """[b, h, w, c] -> [b, h', w', features]."""
        shape = self.features, self.kernel, self.stride, self.padding
        x = nn.Conv(*shape, **LINEAR, name="conv")(x)
        norm = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")
        return nn.relu(norm(x))


def conv(
    name: str,
    features: int,
    kernel: tuple[int, int] = (1, 1),
    stride: int = 1,
    padding: str = "SAME",
) -> Layer:
    """A `Unit` of that name in the module that calls it."""
    return lambda x: Unit(features, kernel, stride, padding, name=name)(x)


def chain(*layers: Layer) -> Layer:
    """One layer after the other."""
    return lambda x: functools.reduce(lambda x, layer: layer(x), layers, x)


def series(name: str, *units: tuple) -> Layer:
    """A chain of `conv`s called name_1, name_2, ...; each unit its other arguments."""
    return chain(*(conv(f"{name}_{n}", *unit) for n, unit in enumerate(units, 1)))


def fork(*branches: Layer) -> Layer:
    """All on the same input, their channels concatenated."""
    return lambda x: jnp.concatenate([branch(x) for branch in branches], axis=-1)


def shrink(x: Maps) -> Maps:
    """Maximum over 3x3 pixels, every second one."""
    return nn.max_pool(x, (3, 3), (2, 2))


def smooth(x: Maps) -> Maps:
    """Mean over 3x3 pixels; those beyond the edge do not count."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def widen(x: Maps) -> Maps:
    """Maximum over 3x3 pixels, in place of the mean in the last block alone."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


S3, S5, ROW3, COLUMN3, ROW, COLUMN = (3, 3), (5, 5), (1, 3), (3, 1), (1, 7), (7, 1)
HALVE = (S3, 2, "VALID")


def block_a(pooled: int) -> Layer:
    """35x35 pixels."""
    return fork(
        conv("branch1x1", 64),
        series("branch5x5", (48,), (64, S5)),
        series("branch3x3dbl", (64,), (96, S3), (96, S3)),
        chain(smooth, conv("branch_pool", pooled)),
    )


def block_b() -> Layer:
    """35x35 -> 17x17 pixels."""
    return fork(
        conv("branch3x3", 384, *HALVE),
        series("branch3x3dbl", (64,), (96, S3), (96, *HALVE)),
        shrink,
    )


def block_c(n: int) -> Layer:
    """17x17 pixels."""
    dbl = (n,), (n, COLUMN), (n, ROW), (n, COLUMN), (192, ROW)
    return fork(
        conv("branch1x1", 192),
        series("branch7x7", (n,), (n, ROW), (192, COLUMN)),
        series("branch7x7dbl", *dbl),
        chain(smooth, conv("branch_pool", 192)),
    )


def block_d() -> Layer:
    """17x17 -> 8x8 pixels."""
    return fork(
        series("branch3x3", (192,), (320, *HALVE)),
        series("branch7x7x3", (192,), (192, ROW), (192, COLUMN), (192, *HALVE)),
        shrink,
    )


def block_e(pool: Layer) -> Layer:
    """8x8 pixels."""

    def cross(name):
        return fork(conv(f"{name}a", 384, ROW3), conv(f"{name}b", 384, COLUMN3))

    return fork(
        conv("branch1x1", 320),
        chain(series("branch3x3", (384,)), cross("branch3x3_2")),
        chain(series("branch3x3dbl", (448,), (384, S3)), cross("branch3x3dbl_3")),
        chain(pool, conv("branch_pool", 192)),
    )


STEM = chain(
    conv("Conv2d_1a_3x3", 32, *HALVE),
    conv("Conv2d_2a_3x3", 32, S3, padding="VALID"),
    conv("Conv2d_2b_3x3", 64, S3),
    shrink,
    conv("Conv2d_3b_1x1", 80),
    conv("Conv2d_4a_3x3", 192, S3, padding="VALID"),
    shrink,
)
BLOCKS = {
    "Mixed_5b": block_a(32),
    "Mixed_5c": block_a(64),
    "Mixed_5d": block_a(64),
    "Mixed_6a": block_b(),
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": block_d(),
    "Mixed_7b": block_e(smooth),
    "Mixed_7c": block_e(widen),
}


class Block(nn.Module):
    """A scope for the names of its layer."""

    layer: Layer

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """[b, h, w, c] -> [b, h', w', c']."""
        return self.layer(x)


class InceptionV3(nn.Module):
    """All of it, from images of [-1, 1]."""

    @nn.compact
    def __call__(self, x: Float[Array, "b 299 299 3"]) -> Features:
        """pool_3 [B, 2048], sFID's maps [B, 17 * 17 * 7], logits_unbiased [B, 1008]."""
        x = STEM(x)
        maps = {}
        for name, layer in BLOCKS.items():
            x = maps[name] = Block(layer, name=name)(x)
        pooled = x.mean((1, 2))
        fc = nn.Dense(1008, **LINEAR, name="fc")
        # Mixed_6d begins with its branch1x1: mixed_6/conv of TensorFlow's graph.
        spatial = maps["Mixed_6d"][..., :SPATIAL]
        return Features(pooled, spatial.reshape(len(x), -1), fc(pooled))


def resize(images: Float[Array, "b h w c"]) -> Float[Array, "b 299 299 c"]:
    """Bilinear as TensorFlow 1 did it: corners of pixels, not centres, are aligned.

    Output i is read at i * size / 299; beyond the last pixel it is repeated.
    """
    for axis in (2, 1):
        size = images.shape[axis]
        at = np.arange(SIZE, dtype=np.float32) * np.float32(size / SIZE)
        low = at.astype(np.int32)
        high = np.minimum(low + 1, size - 1)
        share = np.expand_dims(at - low, [n for n in range(4) if n != axis])
        a, b = (jnp.take(images, n, axis, mode="clip") for n in (low, high))
        images = a + (b - a) * share
    return images


@flax.struct.dataclass
class Inception:
    """A `Network`; also a pytree, so that its weights can be an argument of `jit`."""

    variables: Any
    digest: str = flax.struct.field(pytree_node=False)
    name: ClassVar[str] = "inception"

    def apply(self, images: UInt8[Array, "b h w c"]) -> Features:
        """Features of uint8 images of any size, grey ones repeated to three channels.

        Raises UserError for other numbers of channels.
        """
        if images.shape[-1] not in (1, 3):
            raise UserError(
                f"Inception reads grey or colour images, 1 or 3 channels, not "
                f"{images.shape[-1]}; choose the features of `convnet` for these."
            )
        x = jnp.broadcast_to(images, (*images.shape[:-1], 3)).astype(jnp.float32)
        found: Any = InceptionV3().apply(self.variables, (resize(x) - 128) / 128)
        return found


def build(data: Any, file: str) -> Inception:
    """The network with the weights of `file`, whatever the data are.

    Raises UserError where no file is given, and as `load`.
    """
    if not file:
        raise UserError(
            "--features=inception needs its weights, as --weights=FILE: "
            f"{RELEASED} of torch-fidelity's releases, or the same in .npz."
        )
    return load(file)


def load(path: str | pathlib.Path) -> Inception:
    """The network with the weights of a .pth, .pt, .npz or .safetensors file.

    Raises UserError where names or shapes are not those of torch-fidelity's file.
    """
    state = weights.read(pathlib.Path(path).expanduser())
    return Inception(convert(state, path), weights.digest(state))


def convert(state: Mapping[str, np.ndarray], path: str | pathlib.Path) -> dict:
    """Flax's variables from torch-fidelity's state dict, read from `path`."""
    x = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    shapes = flatten_dict(jax.eval_shape(InceptionV3().init, jax.random.key(0), x))
    found = {name: in_flax_order(weight) for name, weight in state.items()}
    weights.check(
        {name: weight.shape for name, weight in found.items()},
        {state_name(leaf): s.shape for leaf, s in shapes.items()} | {BIAS: (1008,)},
        f"{path} is not FID's Inception-v3 ({RELEASED} of torch-fidelity)",
    )
    return unflatten_dict(
        {leaf: jnp.asarray(found[state_name(leaf)]) for leaf in shapes}
    )


def state_name(path: tuple[str, ...]) -> str:
    """Name in the file of a variable: (collection, module.., leaf) in our tree."""
    *modules, leaf = path[1:]
    return ".".join((*modules, LEAVES.get(leaf, leaf)))


def in_flax_order(weight: np.ndarray) -> np.ndarray:
    """[out, in, h, w] -> [h, w, in, out]; [out, in] -> [in, out]."""
    return np.moveaxis(weight, (0, 1), (-1, -2)) if weight.ndim > 1 else weight
