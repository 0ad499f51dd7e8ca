"""The same image with some patches hidden: masked-image training and restoration.

A value is [H, W, C + 1]: the image in [-1, 1] with its hidden pixels at 0, and a last
plane that is 1 where the pixel is seen. What the head predicts is the masked image; a
generated value has no plane of its own and claims to see nothing.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mt_diffusion.data import files
from mt_diffusion.errors import UserError
from mt_diffusion.modalities.base import Code, Known, Modality
from mt_diffusion.modalities.image import to_uint8, to_unit
from mt_diffusion.models.layers import OutputBlock


class Head(nn.Module):
    """A copy of the U-Net's output block."""

    channels: int
    groups: int

    @nn.compact
    def __call__(self, features):
        block = OutputBlock(self.channels, self.groups, jnp.float32, name="block")
        return block(features["out"].astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MaskedImage(Modality):
    """x = image * mask; encoder: identity; head: the output block, Gaussian.

    max_patches: m ~ Uniform{0..max_patches} patches are hidden, overlaps allowed.
    patch_fraction: their side as a fraction of the image's. num_groups: of the head.
    """

    max_patches: int
    patch_fraction: float
    num_groups: int

    def __post_init__(self):
        """Refuses an image that the patches do not divide."""
        if self._patch * round(1 / self.patch_fraction) != self.shape[0]:
            raise UserError(
                f"images of size {self.shape[0]} can't be masked in patches of "
                f"{self.patch_fraction} of their size; choose a config.data.image_size "
                f"divisible by {round(1 / self.patch_fraction)}."
            )

    @property
    def _patch(self) -> int:
        return int(self.shape[0] * self.patch_fraction)

    @property
    def num_planes(self):
        return self.shape[-1] + 1 if self.conditions else 0

    def preprocess(self, example, rng):
        num_patches = int(rng.integers(self.max_patches + 1))
        return self.hide(to_unit(example["image"]), self.draw_mask(num_patches, rng))

    def draw_mask(self, num_patches: int, rng: np.random.Generator) -> np.ndarray:
        """1 where a pixel is seen; num_patches at uniform places are not. [H, W, 1]."""
        mask = np.ones((*self.shape[:2], 1), np.float32)
        corners = rng.integers(self.shape[0] - self._patch + 1, size=(num_patches, 2))
        for row, column in corners:
            mask[row : row + self._patch, column : column + self._patch] = 0
        return mask

    def hide(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The value [..., H, W, C + 1] of an image in [-1, 1] under a mask."""
        return np.concatenate([image * mask, mask], axis=-1)

    def placeholder(self):
        return np.zeros((*self.shape[:2], self.shape[2] + 1), np.float32)

    def read(self, text):
        values = []
        for path in files.image_files(text):
            image, mask = files.read_masked(path, self.shape)
            values.append(self.hide(to_unit(image), mask))
        return np.stack(values)

    def postprocess(self, value):
        return to_uint8(value[..., :-1])

    def show(self, item):
        return item

    def known(self, value):
        return Known(value[..., :-1], value[..., -1:])

    def encode(self, value):
        return Code(latent=value[..., :-1], planes=value)

    def head(self):
        return Head(self.shape[-1], self.num_groups)

    def nll(self, prediction, value):
        return jnp.mean((prediction - value[..., :-1]) ** 2, axis=(1, 2, 3))

    def mean(self, prediction):
        pixels = jnp.clip(prediction, -1, 1)
        return jnp.concatenate([pixels, jnp.zeros_like(pixels[..., :1])], axis=-1)
