"""What the space of a diffusion is; a class beside this file is one of them.

z_0, and whatever is an image beside it, lives in a space. All that would otherwise
assume pixels asks it: what an example has there, what a picture becomes and what
becomes a picture, how far values go, which of them a mask of pixels leaves known, and
what their likelihood is.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array

Shape = tuple[int, int, int]


@runtime_checkable
class Space(Protocol):
    """picture: (H, W, C) of its images. unit: of bounds on what lives there."""

    picture: Shape
    unit: str

    @property
    def shape(self) -> Shape:
        """(h, w, c) of the diffusion; UserError for pictures that it can't have."""
        ...

    def files(self) -> Sequence[pathlib.Path]:
        """Files of weights, and what tells of them, that a picture needs."""
        ...

    @property
    def limit(self) -> float:
        """How far from 0 values go."""
        ...

    @property
    def stand_in(self) -> Mapping[str, Any]:
        """What `fit` gives, where neither weights nor data are here; none: {}."""
        ...

    def fit(self, source: Any) -> Mapping[str, Any]:
        """Fields that it takes from the training data, unless it has them already.

        They are kept in checkpoints.
        """
        ...

    def value(self, example: dict, feature: str) -> np.ndarray:
        """What an example has, float32 [h, w, c]; feature: 'image' or 'pair'."""
        ...

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Pictures, uint8 [N, H, W, C], as float32 [N, h, w, c]."""
        ...

    def decode(self, values: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
        """Pictures, uint8 [N, H, W, C], of values.

        seen: [N, h, w, 1], 0 where a value stands for nothing that was seen; where it
        is 0 everywhere, it is a value that was made, and whole.
        """
        ...

    def masked(
        self, pixels: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pictures as values, and which of these are seen [N, h, w, 1].

        mask: [N, H, W, 1], 1 where a pixel is seen; what others are is not told.
        """
        ...

    def seen(self, mask: np.ndarray) -> np.ndarray:
        """The pixels [N, H, W, 1] that a mask of values [N, h, w, 1] leaves seen."""
        ...

    def log_prob(self, x: Array, mean: Array, log_variance: Array) -> Array:
        """Logarithm of the probability, or the density, of x; elementwise."""
        ...
