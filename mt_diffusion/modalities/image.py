"""The primary image z_0, which the diffusion itself generates; images in general."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mt_diffusion.files import finding
from mt_diffusion.files import images as files
from mt_diffusion.models.layers import OutputBlock
from mt_diffusion.protocol import Known, Variable
from mt_diffusion.spaces.pixels import to_uint8 as to_uint8
from mt_diffusion.spaces.pixels import to_unit as to_unit
from mt_diffusion.spaces.space import Space


def read_pixels(text: str, shape: Sequence[int]) -> np.ndarray:
    """uint8 [M, H, W, C] of an image file, or of all in a folder, of this size."""
    images = [files.read_exact(path, shape) for path in finding.image_files(text)]
    return np.stack(images)


def read_images(text: str, shape: Sequence[int]) -> np.ndarray:
    """The same in [-1, 1]."""
    return to_unit(read_pixels(text, shape))


class OutputHead(nn.Module):
    """A copy of the U-Net's output block: the mean of an image [B, H, W, C]."""

    shape: tuple[int, int, int]
    groups: int

    @nn.compact
    def __call__(self, features):
        height, _, channels = self.shape
        h = features["out"]
        patch = height // h.shape[1]
        return OutputBlock(channels, self.groups, patch, name="block")(h)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Image(Variable):
    """An image as it is in its space: pixels in [-1, 1], or latents."""

    space: Space

    def preprocess(self, example, rng):
        return self.space.value(example, "image")

    def placeholder(self):
        return np.zeros(self.shape, np.float32)

    def read(self, text):
        return self.space.encode(read_pixels(text, self.space.picture))

    def take(self, given):
        pixels = files.as_pixels(given, self.space.picture, self.name)
        return self.space.encode(pixels)

    def postprocess(self, value):
        return self.space.decode(value)

    def show(self, item):
        return item

    def log_prob(self, value: Array, mean: Array, log_variance: Array) -> Array:
        """Logarithm of p(z_0 | z_1), elementwise: of a level of 256, of pixels."""
        return self.space.log_prob(value, mean, log_variance)

    def known(self, value):
        return Known(value, jnp.ones_like(value[..., :1]))
