"""The space of pixels themselves, in [-1, 1]."""

import dataclasses
from typing import ClassVar

import numpy as np

from mt_diffusion.diffusion import likelihood
from mt_diffusion.spaces.space import Shape


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return (pixels.astype(np.float32) / 127.5 - 1).astype(np.float32)


def to_uint8(value: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8; exact inverse of `to_unit`, clipped outside."""
    return np.clip(np.round((np.asarray(value) + 1) * 127.5), 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """As of `Space`."""

    picture: Shape

    unit: ClassVar[str] = "bits_per_dim"
    limit: ClassVar[float] = 1  # no 1.0: programs are those of before, to the letter

    @property
    def shape(self):
        return self.picture

    @property
    def stand_in(self):
        return {}

    def files(self):
        return ()

    def fit(self, source):
        return {}

    def value(self, example, feature):
        return to_unit(example[feature])

    def encode(self, pixels):
        return to_unit(pixels)

    def decode(self, values, seen=None):
        return to_uint8(values)

    def masked(self, pixels, mask):
        return to_unit(pixels), mask

    def seen(self, mask):
        return mask

    def log_prob(self, x, mean, log_variance):
        return likelihood.discretised(x, mean, log_variance)
