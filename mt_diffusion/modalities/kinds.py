"""Kinds of modalities: Gaussian ones, images as they are, mixtures of fixed codes."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.modalities import codes, evidence, tokens
from mt_diffusion.modalities.codes import Wanted
from mt_diffusion.protocol import NO_DRIFT, Modality

# RMS of a code that the network makes: at 8x8 one of 1 and 2 was learned, of 7 and 10
# not (error of the noise 0.16 and 0.24, 1 and more; results/digits.md).
LOUDEST = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian(Modality):
    """A modality whose p(x_i | z_t) is a Gaussian around the head's prediction.

    std: its standard deviation in a bound and in a draw, and the scale of guidance by
    heads, as 1 / std^2; no part of training, which has the MSE.
    """

    std: float

    is_continuous = True

    def __post_init__(self):
        """Refuses a deviation that is none."""
        super().__post_init__()
        if not self.std > 0:
            raise UserError(
                f"config.modalities.{self.name}.std is {self.std}, a standard "
                "deviation; it must be above 0."
            )

    def draw(self, keys, prediction):
        """As of `Modality`: around the mean."""
        mean = self.mean(prediction)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        return mean + self.std * noise.astype(mean.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Identity(Gaussian):
    """A modality whose code is its value, an image.

    drift_scale: c, the code's RMS being that of its pixels.
    """

    drift_scale: float

    @property
    def scale(self):
        return self.drift_scale

    def check_new(self, of_unit, schedule):
        if not self.drift_scale > 0:
            raise UserError(
                f"config.modalities.{self.name}.drift_scale is {self.drift_scale}; it "
                "must be above 0, such as 1. A modality that does not drift has "
                f"drift = {NO_DRIFT!r} beside it."
            )

    def log_density(self, prediction, value):
        # Of a level of 256 the gradient is wrong in the tails: none beyond 6 std.
        distance = (self.comparable(value) - prediction) / self.std
        axes = tuple(range(1, distance.ndim))
        return -0.5 * jnp.sum(distance**2 * self._counts(value), axis=axes)

    def _counts(self, value: jax.Array) -> jax.Array | float:
        """Which of the pixels are the value's own, 1 or 0."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Coded(Modality):
    """A modality whose code mixes fixed codes, orthogonal images of unit RMS.

    energy: of a code, c^2 D, against the unit variance of the noise in each direction;
    the same number means the same legibility at every image size.
    codes: their recipe (see codes.py), and `measured`, empty, for `measure` to fill.
    tokens: the recipe of what the network reads (see tokens.py).
    """

    energy: float
    codes: Mapping[str, Any]
    measured: Mapping[str, Any]
    tokens: Mapping[str, Any]

    def __post_init__(self):
        """Refuses an energy that is none, and tokens that can't be."""
        super().__post_init__()
        tokens.check(self.tokens, self.name)
        if not self.energy > 0:
            raise UserError(
                f"config.modalities.{self.name}.energy is {self.energy}; it must be "
                f"above 0. A modality that does not drift has "
                f"config.modalities.{self.name}.drift = {NO_DRIFT!r}."
            )

    def check_new(self, of_unit, schedule):
        # Bayes' rule for z_0 and all else known bounds what any network reads, so it
        # holds for every frame and encoder.
        num = self.num_read_together
        if self.drift != NO_DRIFT and num:
            evidence.check_legible(self.name, self.energy, num, of_unit, schedule)

    def check_loud(self) -> None:
        """Raises UserError for a code of the network's own that drowns the image."""
        if self.drift != NO_DRIFT and self.scale > LOUDEST:
            twice = 4 * self.energy / self.scale**2
            raise UserError(
                f"config.modalities.{self.name}.energy = {self.energy:g} makes a code "
                f"of {self.scale:.3g} for each number of the image, against the "
                "noise's 1: too much for a network that makes its codes itself, and "
                f"finds them without evidence. Use {twice:.3g} or less, "
                "which is 2 for each."
            )

    @property
    def num_read_together(self) -> int:
        """Numbers of this energy that are read as one; 0: the data have yet to say."""
        return 1

    @property
    def num_codes(self) -> int:
        """How many codes of its recipe it mixes; 0 where another encoder makes them."""
        return 0

    @functools.cached_property
    def earlier(self) -> tuple[Wanted, ...]:
        """Codes of other modalities, to which its own are orthogonal."""
        return ()

    def among(self, modalities):
        """As of `Modality`; UserError where its codes have no room beside others."""
        if not self._is_together:
            return self
        coded = [m for m in modalities if isinstance(m, Coded) and m._is_together]
        earlier = sorted(m._wanted for m in coded if m._wanted < self._wanted)
        codes.check_together((*earlier, self._wanted), self.shape)
        twin = dataclasses.replace(self)  # which has made no codes yet
        vars(twin)["earlier"] = tuple(earlier)
        return twin

    @property
    def _is_together(self) -> bool:
        """Whether codes of its recipe drift, of a version that heeds others."""
        drifts = self.num_codes > 0 and self.drift != NO_DRIFT
        return drifts and self._wanted.version >= codes.TOGETHER

    @property
    def _wanted(self) -> Wanted:
        return codes.wanted(self.codes, self.num_codes, self.name)

    def make_codes(self) -> np.ndarray:
        """Its codes, float64 [K, H, W, C], of unit RMS."""
        recipe = self.codes, self.num_codes, self.shape, self.name
        return codes.make(*recipe, self.earlier)

    @classmethod
    def energy_of(cls, scale: float, fields: Mapping, numbers: int) -> float:
        """The energy of codes of scale c; numbers: D, of an image."""
        return scale**2 * numbers
