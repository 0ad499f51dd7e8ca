"""The primary modality: the image z_0 that the diffusion itself generates."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mt_diffusion.data import files
from mt_diffusion.modalities.base import Known, Variable


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return (pixels.astype(np.float32) / 127.5 - 1).astype(np.float32)


def to_uint8(value: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8; exact inverse of `to_unit`, clipped outside."""
    return np.clip(np.round((np.asarray(value) + 1) * 127.5), 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Image(Variable):
    """Pixels [H, W, C] in [-1, 1]."""

    def preprocess(self, example, rng):
        return to_unit(example["image"])

    def placeholder(self):
        return np.zeros(self.shape, np.float32)

    def read(self, text):
        images = [files.read_exact(p, self.shape) for p in files.image_files(text)]
        return to_unit(np.stack(images))

    def postprocess(self, value):
        return to_uint8(value)

    def show(self, item):
        return item

    def known(self, value):
        return Known(value, jnp.ones_like(value[..., :1]))
