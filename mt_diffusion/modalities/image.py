"""The primary image z_0, which the diffusion itself generates; images in general."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mt_diffusion.diffusion import likelihood
from mt_diffusion.files import finding
from mt_diffusion.files import images as files
from mt_diffusion.models.layers import OutputBlock
from mt_diffusion.protocol import Known, Variable


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return (pixels.astype(np.float32) / 127.5 - 1).astype(np.float32)


def to_uint8(value: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8; exact inverse of `to_unit`, clipped outside."""
    return np.clip(np.round((np.asarray(value) + 1) * 127.5), 0, 255).astype(np.uint8)


def read_images(text: str, shape: Sequence[int]) -> np.ndarray:
    """[M, H, W, C] in [-1, 1] of an image file, or of all in a folder, of this size."""
    images = [files.read_exact(path, shape) for path in finding.image_files(text)]
    return to_unit(np.stack(images))


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
    """Pixels [H, W, C] in [-1, 1]."""

    def preprocess(self, example, rng):
        return to_unit(example["image"])

    def placeholder(self):
        return np.zeros(self.shape, np.float32)

    def read(self, text):
        return read_images(text, self.shape)

    def take(self, given):
        return to_unit(files.as_pixels(given, self.shape, self.name))

    def postprocess(self, value):
        return to_uint8(value)

    def show(self, item):
        return item

    def log_prob(self, value: Array, mean: Array, log_variance: Array) -> Array:
        """Logarithm of p(z_0 | z_1), elementwise: of a level of 256."""
        return likelihood.discretised(value, mean, log_variance)

    def known(self, value):
        return Known(value, jnp.ones_like(value[..., :1]))
