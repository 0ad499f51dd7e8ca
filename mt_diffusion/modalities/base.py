"""What a modality is: one file here and one entry in a config add one to the project.

A variable of an example is the primary image z_0 or the value x_i of a modality. The
functions on the host (`preprocess`, `read`, `postprocess`, `show`) know files and
people; the functions under jit (`encode`, `nll`, `mean`, `known`) know arrays with a
leading batch axis.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from mt_diffusion.errors import UserError


class Code(NamedTuple):
    """A value in the terms of the network: what drifts it, and what conditions it.

    latent: E_i(x_i) in the diffusion space; None where the shared U-Net is the encoder
    and makes it from the tokens.
    tokens: for cross-attention. planes: extra input channels.
    """

    latent: Float[Array, "b h w c"] | None = None
    tokens: Float[Array, "b l d"] | None = None
    planes: Float[Array, "b h w k"] | None = None


class Known(NamedTuple):
    """Pixels of z_0 that a given value fixes: where mask [B, H, W, 1] is 1."""

    pixels: Float[Array, "b h w c"]
    mask: Float[Array, "b h w 1"]


@struct.dataclass
class Batch:
    """Examples: z_0 [B, H, W, C], values {modality: [B, ...]}, available ones [B].

    Arrays of numpy on the host, of jax under jit; one example has no axis B.
    """

    z0: Any
    values: Mapping[str, Any]
    available: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Variable:
    """A named part of an example, seen from the host.

    shape: (H, W, C) of the diffusion space.
    judges: what an evaluation asks about it: FILE.function of evaluation/judges, or
    package.module.function, from (variable, drawn, real) to figures.
    """

    name: str
    shape: tuple[int, int, int]
    judges: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, fields: dict, source: Any) -> dict:
        """Fields that this variable takes from the data set; kept in the checkpoint."""
        return fields

    def preprocess(self, example: dict, rng: np.random.Generator) -> np.ndarray | None:
        """Value of one example, float32; None where the example has none."""
        raise NotImplementedError

    def placeholder(self) -> np.ndarray:
        """A value that stands where there is none; never read."""
        raise NotImplementedError

    def read(self, text: str) -> np.ndarray:
        """Values [M, ...] from what a user typed after `--given=NAME=`.

        Raises UserError where the text names no value of this variable; as all do here.
        """
        raise UserError(
            f"{self.name} can't be given: its class {type(self).__name__} reads no "
            f"values; add a method `read` to it, or leave out --given={self.name}."
        )

    def postprocess(self, value: np.ndarray) -> np.ndarray:
        """Values [N, ...] as files and people have them (uint8 image, int32 label)."""
        raise NotImplementedError

    def show(self, item: np.ndarray) -> np.ndarray | str:
        """One postprocessed value as a picture, uint8 [H, W, C], or as a few words."""
        raise NotImplementedError

    def known(self, value: Array) -> Known | None:
        """Pixels of z_0 that these values fix; None for those that fix no pixel."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Modality(Variable):
    """A modality x_i that is encoded into the diffusion space and read by a head.

    drift, drift_scale: design and scale of its aggregation weight.
    loss_weight: lambda_i. conditions: whether the network also reads it (variant X).
    drop_rate: share of training examples in which it is absent.
    null_rate: share in which it drifts but does not condition, as when it is generated.
    """

    drift: str | Sequence[float]
    drift_scale: float
    loss_weight: float
    conditions: bool
    drop_rate: float
    null_rate: float

    def __post_init__(self):
        """Refuses rates that are no shares."""
        if (
            self.drop_rate < 0
            or self.null_rate < 0
            or self.drop_rate + self.null_rate > 1
        ):
            raise UserError(
                f"config.modalities.{self.name} has drop_rate {self.drop_rate} and "
                f"null_rate {self.null_rate}; these are shares of the examples, each 0 "
                "or more, together at most 1."
            )

    @property
    def token_shape(self) -> tuple[int, int] | None:
        """(L, D) of the tokens that `encode` gives; None without."""
        return None

    @property
    def num_planes(self) -> int:
        """Channels of the planes that `encode` gives; 0 without."""
        return 0

    def encode(self, value: Float[Array, "b ..."]) -> Code:
        """E_i(x_i); fixed, without parameters of its own."""
        raise NotImplementedError

    def head(self) -> nn.Module:
        """D_i: a module from features {'mid', 'out'} to parameters of p(x_i | z_t)."""
        raise NotImplementedError

    def nll(
        self, prediction: Float[Array, "b ..."], value: Float[Array, "b ..."]
    ) -> Float[Array, " b"]:
        """Training term of -log p(x_i | z_t): nats, or mean square over dimensions."""
        raise NotImplementedError

    def comparable(self, value: np.ndarray) -> np.ndarray:
        """The part of values [N, ...] that `mean` predicts, for errors between them."""
        return value

    def log_likelihood(
        self, prediction: Float[Array, "b ..."], value: Float[Array, "b ..."]
    ) -> Float[Array, " b"]:
        """Normalised log p(x_i | z_t) of the whole value in nats, for bounds."""
        raise NotImplementedError

    def mean(self, prediction: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """E[x_i | z_t], a value that `encode` takes."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian(Modality):
    """A modality whose p(x_i | z_t) is a Gaussian around the head's prediction.

    std: its standard deviation in a bound, and the scale of guidance by heads, as
    1 / std^2; no part of training, which has the MSE.
    """

    std: float

    def __post_init__(self):
        """Refuses a deviation that is none."""
        super().__post_init__()
        if not self.std > 0:
            raise UserError(
                f"config.modalities.{self.name}.std is {self.std}, a standard "
                "deviation; it must be above 0."
            )


def locate(kind: str) -> type[Variable]:
    """The class `kind`: 'label.Codebook' here, or 'package.module.Class' elsewhere.

    Raises UserError where there is no such module, or no such class in it.
    """
    module, _, name = kind.rpartition(".")
    for path in (f"{__package__}.{module}", module or __package__):
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if not path.startswith(error.name or path):
                raise  # the module is there, but something that it imports is not
        else:
            cls = getattr(found, name, None)
            if isinstance(cls, type) and issubclass(cls, Variable):
                return cls
    raise UserError(
        f"no modality {kind!r}: give FILE.Class of a file in mt_diffusion/modalities, "
        "such as 'label.Codebook', or package.module.Class of your own."
    )


def build(name: str, fields: dict, shape: Sequence[int]) -> Variable:
    """The variable `name` as its config describes it: `kind` and its class's fields."""
    fields = dict(fields)
    cls = locate(fields.pop("kind"))
    wanted = {f.name for f in dataclasses.fields(cls)} - {"name", "shape"}
    if wrong := sorted(wanted ^ set(fields)):
        raise UserError(
            f"config.modalities.{name} must have exactly the fields {sorted(wanted)}; "
            f"{wrong} are missing or unknown."
        )
    return cls(name=name, shape=tuple(shape), **fields)
