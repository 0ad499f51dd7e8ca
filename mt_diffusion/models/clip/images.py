"""CLIP's image tower, on images as data sets have them."""

import functools
import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np
import PIL.Image

from mt_diffusion.errors import UserError
from mt_diffusion.files import images, weights
from mt_diffusion.files.names import shown
from mt_diffusion.models.clip import saved, towers
from mt_diffusion.models.encoded import unit

PREPARED = "preprocessor_config.json"
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, of pixels in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = PIL.Image.Resampling.BICUBIC


class Images:
    """The vectors of images uint8 [N, H, W, 1 or 3], float32 [N, D], of length 1.

    shape: (H, W, C) of the model's own images, to which others are resized.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises UserError for what is no CLIP that reads images."""
        self._tower = saved.read(folder, saved.VISION)
        size = self._tower.config["image_size"]
        self.shape = (size, size, 3)
        path = folder / PREPARED
        told = weights.read_table(path) if path.is_file() else {}
        if told.get("resample", BICUBIC) != BICUBIC:
            raise UserError(
                f"{shown(path)} has resample = {told['resample']}; a CLIP that is read "
                f"here resizes by {int(BICUBIC)}, which is bicubic."
            )
        self._mean, self._std = (
            np.asarray(told.get(name, own), np.float32)
            for name, own in (("image_mean", MEAN), ("image_std", STD))
        )

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for its weights, form and preparation."""
        state = {name: np.asarray(x) for name, x in self._tower.state.items()}
        told = f"{self._tower.form}{self.shape}{self._mean}{self._std}"
        total = hashlib.sha256(f"{told}{weights.digest(state)}".encode())
        return total.hexdigest()[:16]

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [N, H, W, 3], at the model's size and scale."""
        resize = functools.partial(images.fit, shape=self.shape)
        rows = [resize(PIL.Image.fromarray(as_colour(row))) for row in pixels]
        return (np.stack(rows).astype(np.float32) / 255 - self._mean) / self._std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The vectors."""
        prepared = jnp.asarray(self.prepare(pixels))
        found = towers.image(self._tower.state, prepared, self._tower.form)
        return unit(np.asarray(found))


def as_colour(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] of what may be grey."""
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
