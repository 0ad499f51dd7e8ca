"""Class labels, as probability vectors [K]; the paper's heads M and E, two encoders."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from mt_diffusion.errors import UserError
from mt_diffusion.modalities.base import Code, Modality
from mt_diffusion.models.classifier import EncoderClassifier
from mt_diffusion.models.layers import PooledMLP

HEADS = {"M": PooledMLP, "E": EncoderClassifier}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Label(Modality):
    """A class label; see its two encoders below.

    class_names: empty for those of the data set. head_kind: M, an MLP on the pooled
    middle block, or E, a classifier on the final features. heads: the fields of each.
    token_size: D of the token that stands for a label. code_side: of the random grids
    that a codebook enlarges to the size of Z, the smaller the smoother; 0: that size.
    """

    class_names: Sequence[str]
    head_kind: str
    heads: Mapping[str, Mapping[str, Any]]
    token_size: int
    code_side: int

    judges = ("label.judge",)

    def __post_init__(self):
        """Refuses a head that there is none of."""
        super().__post_init__()
        if self.head_kind not in HEADS:
            raise UserError(
                f"config.modalities.{self.name}.head_kind is {self.head_kind!r}; use "
                f"one of {list(HEADS)}."
            )

    @classmethod
    def fit(cls, fields, source):
        names = fields["class_names"] or source.class_names
        if not names:
            raise UserError(
                "the data set has no class names, so it can't train a label modality; "
                "name them in the config's class_names, or use another data set."
            )
        return fields | {"class_names": tuple(names)}

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def preprocess(self, example, rng):
        label = int(example.get("label", -1))
        if label >= self.num_classes:
            raise UserError(
                f"the data has a label {label}, but config.modalities.{self.name} "
                f"knows {self.num_classes} classes; labels are 0 to "
                f"{self.num_classes - 1}, or -1 where there is none."
            )
        return None if label < 0 else self._one_hot([label])[0]

    def placeholder(self):
        return np.zeros(self.num_classes, np.float32)

    def read(self, text):
        return self._one_hot([self._index(word.strip()) for word in text.split(",")])

    def _index(self, word: str) -> int:
        if word in self.class_names:
            return list(self.class_names).index(word)
        if word.isdecimal() and int(word) < self.num_classes:
            return int(word)
        names = ", ".join(self.class_names[:12])
        raise UserError(
            f"--given={self.name}={word} is no label of this model: give numbers from "
            f"0 to {self.num_classes - 1}, or class names ({names}"
            f"{', ...' if self.num_classes > 12 else ''}), separated by commas."
        )

    def _one_hot(self, labels: Sequence[int]) -> np.ndarray:
        return np.eye(self.num_classes, dtype=np.float32)[labels]

    def postprocess(self, value):
        return np.argmax(value, axis=-1).astype(np.int32)

    def show(self, item):
        return str(self.class_names[int(item)])

    def head(self):
        return HEADS[self.head_kind](self.num_classes, **self.heads[self.head_kind])

    def nll(self, prediction, value):
        return -jnp.sum(value * jax.nn.log_softmax(prediction), axis=-1)

    def log_likelihood(self, prediction, value):
        return -self.nll(prediction, value)

    def mean(self, prediction):
        return jax.nn.softmax(prediction)

    def tokens(self, value: jax.Array) -> jax.Array:
        """[B, 1, D]: a fixed random direction of unit RMS per class, mixed linearly."""
        rng = np.random.default_rng(0)
        table = rng.standard_normal((self.num_classes, self.token_size))
        table /= np.sqrt(np.mean(table**2, axis=-1, keepdims=True))
        return (value @ jnp.asarray(table, value.dtype))[:, None, :]


class SharedUNet(Label):
    """The paper's encoder: the shared U-Net itself, reading the label's token."""

    @property
    def token_shape(self):
        return (1, self.token_size)

    def encode(self, value):
        return Code(tokens=self.tokens(value))


class Codebook(Label):
    """A fixed codebook: orthogonal images of unit RMS, mixed linearly."""

    @property
    def token_shape(self):
        return (1, self.token_size) if self.conditions else None

    def encode(self, value):
        codes = jnp.einsum("bk,khwc->bhwc", value, jnp.asarray(self.codes, value.dtype))
        return Code(latent=codes, tokens=self.tokens(value))

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Orthogonal images [K, H, W, C]. Raises UserError where a grid has no room."""
        height, width, channels = self.shape
        side, field = self.code_side, f"config.modalities.{self.name}.code_side"
        if not 0 <= side <= min(height, width):
            raise UserError(f"{field} is {side}; use 0 to {min(height, width)}.")
        grid = (side or height, side or width, channels)
        if self.num_classes > math.prod(grid):
            raise UserError(
                f"a codebook of grids of shape {grid} holds at most {math.prod(grid)} "
                f"classes, but there are {self.num_classes}; use another {field}, or "
                "kind = 'label.SharedUNet'."
            )
        rng = np.random.default_rng(0)
        grids = rng.standard_normal((*grid, self.num_classes))
        factors = np.divide((*self.shape, self.num_classes), grids.shape)
        images = ndimage.zoom(grids, factors, order=1, mode="nearest", grid_mode=True)
        orthogonal, _ = np.linalg.qr(images.reshape(-1, self.num_classes))
        return np.sqrt(len(orthogonal)) * orthogonal.T.reshape(-1, *self.shape)
