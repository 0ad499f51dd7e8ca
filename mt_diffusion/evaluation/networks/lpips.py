"""LPIPS: how differently a network sees two images (Zhang et al. 2018, version 0.1).

The network is torchvision's AlexNet or VGG16, whose maps are weighted by the linear
layers of the package `lpips`. Both are local files, by the names that they have there:
`features.0.weight`, .. and `lin0.model.1.weight`, ...
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.parallel import batches

Maps = Float[Array, "b h w c"]
Shapes = dict[str, tuple[int, ...]]  # of weights, as PyTorch has them

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of [-1, 1]
EPSILON = 1e-10  # beside the length of a pixel's channels
UNUSED = "classifier."  # begins what torchvision's files have beyond the maps
RELEASED = "alexnet-owt-7be5be79.pth or vgg16-397923af.pth of torchvision"
# As in `inception`: a TPU's single pass of bfloat16 would change the maps.
PRECISION = jax.lax.Precision.HIGH


class Conv(NamedTuple):
    """A convolution with ReLU. layer: in `features`."""

    layer: int
    channels: int
    kernel: int
    stride: int = 1


class Backbone(NamedTuple):
    """Stages of convolutions, with max pooling between; the last map of each counts.

    pool: its window, every second pixel. least: the smallest side that it can take.
    """

    name: str
    stages: tuple[tuple[Conv, ...], ...]
    pool: int
    least: int

    @property
    def convs(self) -> list[Conv]:
        """All in order."""
        return [conv for stage in self.stages for conv in stage]

    def shapes(self) -> Shapes:
        """Of all weights."""
        found: Shapes = {}
        inputs = 3
        for conv in self.convs:
            kernel = conv.channels, inputs, conv.kernel, conv.kernel
            found[f"features.{conv.layer}.weight"] = kernel
            found[f"features.{conv.layer}.bias"] = kernel[:1]
            inputs = conv.channels
        for i, stage in enumerate(self.stages):
            found[lin_name(i)] = (1, stage[-1].channels, 1, 1)
        return found


ALEXNET = Backbone(
    name="alexnet",
    stages=(
        (Conv(0, 64, 11, 4),),
        (Conv(3, 192, 5),),
        (Conv(6, 384, 3),),
        (Conv(8, 256, 3),),
        (Conv(10, 256, 3),),
    ),
    pool=3,
    least=31,
)
VGG16 = Backbone(
    name="vgg16",
    stages=(
        (Conv(0, 64, 3), Conv(2, 64, 3)),
        (Conv(5, 128, 3), Conv(7, 128, 3)),
        (Conv(10, 256, 3), Conv(12, 256, 3), Conv(14, 256, 3)),
        (Conv(17, 512, 3), Conv(19, 512, 3), Conv(21, 512, 3)),
        (Conv(24, 512, 3), Conv(26, 512, 3), Conv(28, 512, 3)),
    ),
    pool=2,
    least=16,
)
BACKBONES = (ALEXNET, VGG16)


def lin_name(stage: int) -> str:
    """Of the weights of a stage's channels."""
    return f"lin{stage}.model.1.weight"


def is_pooled(before: Conv, after: Conv) -> bool:
    """Whether a pooling lies between: conv, ReLU and it are three places, else two."""
    return after.layer - before.layer == 3


def maps_of(backbone: Backbone, state: Mapping[str, Array], x: Maps) -> list[Maps]:
    """The last map of each stage, after its ReLU, of images that are scaled."""
    found, before = [], None
    for stage in backbone.stages:
        for conv in stage:
            if before is not None and is_pooled(before, conv):
                x = pooled(x, backbone.pool)
            x = jax.nn.relu(convolved(x, conv, state))
            before = conv
        found.append(x)
    return found


def convolved(x: Maps, conv: Conv, state: Mapping[str, Array]) -> Maps:
    """By PyTorch's kernel; padded by half of it, of 11 by the 2 that AlexNet has."""
    name, pad = f"features.{conv.layer}", min(conv.kernel // 2, 2)
    kernel, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    found = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(conv.stride,) * 2,
        padding=((pad, pad),) * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        precision=PRECISION,
    )
    return found + bias[None, None, None]


def pooled(x: Maps, window: int) -> Maps:
    """Maximum over window x window pixels, every second one."""
    shape, strides = (1, window, window, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, strides, "VALID")


def unit(maps: Maps) -> Maps:
    """Each pixel's channels at length 1."""
    length = jnp.sqrt(jnp.sum(maps**2, axis=-1, keepdims=True))
    return maps / (length + EPSILON)


@flax.struct.dataclass
class Lpips:
    """The network. side: that images are enlarged to before, 0 for none.

    A pytree, so that its weights can be an argument of `jit`.
    """

    state: dict[str, Array]
    backbone: Backbone = flax.struct.field(pytree_node=False)
    digest: str = flax.struct.field(pytree_node=False)
    side: int = flax.struct.field(pytree_node=False, default=0)

    def apply(
        self, a: UInt8[Array, "b h w c"], b: UInt8[Array, "b h w c"]
    ) -> Float[Array, " b"]:
        """Distance of each pair of images; UserError where they are too small."""
        seen = (maps_of(self.backbone, self.state, self.scaled(x)) for x in (a, b))
        total = jnp.zeros(len(a))
        for i, (x, y) in enumerate(zip(*seen, strict=True)):
            channels = self.state[lin_name(i)].reshape(-1)
            squares = (unit(x) - unit(y)) ** 2 * channels[None, None, None]
            total += squares.sum(axis=-1).mean(axis=(1, 2))
        return total

    def scaled(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b h w 3"]:
        """Three channels, grey ones repeated, of about mean 0 and deviation 1."""
        if images.shape[-1] not in (1, 3):
            raise UserError(
                "LPIPS reads grey or colour images, 1 or 3 channels, not "
                f"{images.shape[-1]}."
            )
        x = jnp.broadcast_to(images, (*images.shape[:-1], 3)) / 127.5 - 1
        x = self.enlarged(x)
        shift, scale = (jnp.array(v)[None, None, None] for v in (SHIFT, SCALE))
        return (x - shift) / scale

    def enlarged(self, x: Maps) -> Maps:
        """To `side`, bilinearly. Raises UserError for a side that does not do."""
        sides = x.shape[1:3]
        if self.side and self.side < max(sides):
            raise UserError(
                f"--lpips_side={self.side} would shrink images of {sides[0]}x{sides[1]}"
                "; leave it out, or give more."
            )
        if self.side:
            sides = (self.side, self.side)
            shape = (len(x), *sides, x.shape[-1])
            x = jax.image.resize(x, shape, "bilinear")
        if min(sides) < self.backbone.least:
            others = {b.name: b.least for b in BACKBONES}
            raise UserError(
                f"LPIPS by {self.backbone.name} can't take images of "
                f"{sides[0]}x{sides[1]}, as its poolings would leave nothing of them "
                f"(least sides: {others}). Enlarge them with --lpips_side=64, whose "
                "figures are not those of other sides, or use the other network."
            )
        return x


def load(files: Sequence[str | pathlib.Path], side: int = 0) -> Lpips:
    """The network with the weights of one or several .pth, .pt, .npz or .safetensors.

    files: such as torchvision's and lpips', or one that has both. Raises UserError
    where names or shapes are not those of either network.
    """
    state: dict[str, np.ndarray] = {}
    for file in files:
        state |= weights.read(pathlib.Path(file).expanduser())
    state = {n: x for n, x in state.items() if not n.startswith(UNUSED)}
    what = ", ".join(map(str, files))
    backbone = recognised(state, what)
    found = {name: x.shape for name, x in state.items()}
    weights.check(
        found,
        backbone.shapes(),
        f"{what} is not LPIPS by {backbone.name}: give {RELEASED}, and the file of the "
        "package lpips v0.1 for it (alex.pth, vgg.pth), separated by a comma",
    )
    arrays = {name: jnp.asarray(x) for name, x in state.items()}
    return Lpips(arrays, backbone, weights.digest(state), side)


def recognised(state: Mapping[str, np.ndarray], what: str) -> Backbone:
    """By its first convolution; UserError for neither."""
    first = "features.0.weight"
    for backbone in BACKBONES:
        if first in state and state[first].shape == backbone.shapes()[first]:
            return backbone
    raise UserError(
        f"{what} has no {first} of AlexNet or VGG16: give {RELEASED}, and the file of "
        "the package lpips v0.1 for it (alex.pth, vgg.pth), separated by a comma."
    )


def distances(
    network: Lpips,
    a: UInt8[np.ndarray, "n h w c"],
    b: UInt8[np.ndarray, "n h w c"],
    batch_size: int,
) -> Float[np.ndarray, " n"]:
    """Of pairs of images, row by row, a batch at a time; one program for all."""

    def of(rows):
        rows = rows % len(a)
        return apply(network, a[rows], b[rows])

    return batches.through(of, range(len(a)), min(batch_size, len(a)))


@jax.jit
def apply(network: Lpips, a: Array, b: Array) -> Array:
    """`network.apply`, compiled once for each size of batch."""
    return network.apply(a, b)
