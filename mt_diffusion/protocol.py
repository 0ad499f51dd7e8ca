"""What a modality is: a file in modalities/ and an entry in a config add one.

A variable is the primary image z_0 or the value x_i of a modality. On the host (`read`,
`preprocess`, `show`) it knows files and people, under jit (`encode`, `nll`) arrays.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from mt_diffusion.errors import UserError

# Taken out of z_t first: nothing, the drift of what is read, that expected of the rest.
FRAMES = ("none", "read", "evidence")
GUESSES = ("held", "held_alone", "coherent", "fresh", "mean", "absent")  # see guess.py
DRAW = "_drawn"  # after the name of a modality: a draw, where the name's is the mean
NO_DRIFT = "none"  # the design of a modality that does not drift
Many = Float[Array, "b ..."]  # values or predictions of a batch


class Code(NamedTuple):
    """A value in the terms of the network: what drifts it, and what conditions it.

    latent: E_i(x_i) in the diffusion space; None where the shared U-Net makes it.
    tokens: for cross-attention. planes: extra input channels. mask: which of the tokens
    there are, all where None; the network reads the others as where nothing is told.
    """

    latent: Float[Array, "b h w c"] | None = None
    tokens: Float[Array, "b l d"] | None = None
    planes: Float[Array, "b h w k"] | None = None
    mask: Bool[Array, "b l"] | None = None


class Known(NamedTuple):
    """Pixels of z_0 that a given value fixes: where mask [B, H, W, 1] is 1."""

    pixels: Float[Array, "b h w c"]
    mask: Float[Array, "b h w 1"]


class Level(NamedTuple):
    """Where t is: sqrt(alpha_bar_t), sigma_t and, by modality, alpha_tilde_t; [B]."""

    signal: Float[Array, " b"]
    noise: Float[Array, " b"]
    drifts: Mapping[str, Float[Array, " b"]]  # 0 for what can't be in z_t


class Evidence(NamedTuple):
    """What is known of a modality before the network looks.

    latent: its expected code, 0 for the share in which it is absent; of the frame, but
    for alpha_tilde_t. vector: for the embedding. gain: of the head's parameters.
    """

    latent: Float[Array, "b h w c"]
    vector: Float[Array, "b e"]
    gain: Array


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
    """A named part of an example, seen from the host; shape: (H, W, C) of z_0."""

    name: str
    shape: tuple[int, int, int]
    encoders: ClassVar[Mapping[str, str]] = {}  # fields that name one: of their digests
    words: ClassVar[tuple[str, ...]] = ()  # fields that have words of training data

    @classmethod
    def fit(cls, fields: dict, source: Any) -> dict:
        """Fields that this variable takes from the data set; kept in the checkpoint.

        Before that it is made of the fields as they are, so that these are checked.
        """
        return fields

    @classmethod
    def stand_in(cls, fields: dict) -> dict:
        """What `fit` takes, in shape alone, for programs without the data set."""
        return {}

    @classmethod
    def named_code(cls, fields: Mapping[str, Any]) -> dict[str, str]:
        """{field: module} of those of a config's fields that name code to be run."""
        return {}

    def preprocess(self, example: dict, rng: np.random.Generator) -> np.ndarray | None:
        """Value of one example, float32; None where the example has none."""
        raise NotImplementedError

    def placeholder(self) -> np.ndarray:
        """A value that stands where there is none; never read."""
        raise NotImplementedError

    def read(self, text: str) -> np.ndarray | None:
        """Values [M, ...] from what a user typed after `--given=NAME=`.

        None: not given. Raises UserError where it names no value; as all do here.
        """
        raise UserError(
            f"{self.name} can't be given: its class {type(self).__name__} reads no "
            f"values; add a method `read` to it, or leave out --given={self.name}."
        )

    def take(self, given: Any) -> np.ndarray | None:
        """Values [M, ...] from what a program gives, one or more, as of `postprocess`.

        None for what says: not given. Raises UserError for others; as all are here.
        """
        raise UserError(
            f"{self.name} can't be given: its class {type(self).__name__} takes no "
            "values; add a method `take` to it."
        )

    def postprocess(self, value: np.ndarray) -> np.ndarray:
        """Values [N, ...] as files and people have them (uint8 image, int32 label)."""
        raise NotImplementedError

    def estimate(self, mean: np.ndarray) -> np.ndarray:
        """Means [N, ...], between values where these lie apart, for people."""
        return self.postprocess(mean)

    def show(self, item: np.ndarray) -> np.ndarray | str:
        """One postprocessed value as a picture, uint8 [H, W, C], or as a few words."""
        raise NotImplementedError

    def between(self, a: np.ndarray, b: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Values [N, ...] on the way from a to b, at these shares of it [N]."""
        return np.stack([(1 - share) * a + share * b for share in shares])

    def nearest(
        self, items: np.ndarray, num: int = 1
    ) -> list[list[tuple[str, float]]] | None:
        """[(text, cosine)] nearest to each postprocessed value; None: no words."""
        return None

    def compare_with(self, texts: Sequence[str]) -> None:
        """From here on these texts are those that `nearest` knows, if it knows any."""

    def known(self, value: Array) -> Known | None:
        """Pixels of z_0 that these values fix; None for those that fix no pixel."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Modality(Variable):
    """A modality x_i that is encoded into the diffusion space and read by a head.

    drift: design of its aggregation weight. loss_weight: lambda_i.
    conditions: whether the network also reads it (variant X).
    frame: what is taken out of z_t before the network looks, one of FRAMES.
    guess: what it is taken to be while it is generated, one of GUESSES.
    tables: names of cached properties, arrays that `encode` and `evidence` use; they
    are arguments of the programs, and no constants in them.
    """

    drift: str | Sequence[float]
    loss_weight: float
    conditions: bool
    frame: str
    guess: str
    tables: ClassVar[tuple[str, ...]] = ()
    has_evidence: ClassVar[bool] = False
    is_continuous: ClassVar[bool] = False  # so that a mean is no draw, nor looks so

    def __post_init__(self):
        """Refuses words that mean nothing, and evidence where there is none."""
        where = f"config.modalities.{self.name}"
        for field, words in (("frame", FRAMES), ("guess", GUESSES)):
            if (word := getattr(self, field)) not in words:
                raise UserError(
                    f"{where}.{field} is {word!r}; choose one of {list(words)}."
                )
        if (weight := self.loss_weight) < 0:
            raise UserError(f"{where}.loss_weight is {weight}; it must be 0 or more.")
        if self.frame == "evidence" and not self.has_evidence:
            raise UserError(
                f"{where}.frame is 'evidence', but its encoder, "
                f"{type(self).__name__}, has none: what z_t says of its value has no "
                "closed form. Use frame = 'read' (its drift is taken out where the "
                "network reads it) or 'none'."
            )

    @property
    def scale(self) -> float:
        """The scale c of its drift."""
        raise NotImplementedError

    def with_tables(self, tables: Mapping[str, Any]) -> "Modality":
        """The same modality, with these arrays for its tables."""
        twin = copy.copy(self)
        vars(twin).update(tables)
        return twin

    def among(self, modalities: Sequence["Modality"]) -> "Modality":
        """The same modality, in a model that has these, itself among them."""
        return self

    def measure(self, values: np.ndarray, sources: Mapping[str, np.ndarray]) -> dict:
        """Fields that follow from training examples, kept in the checkpoint.

        values: [N, ...]. sources: what else may be in z_t, z_0 first, [N, H, W, C].
        """
        return {}

    def check_new(self, of_unit: np.ndarray, schedule: Any) -> None:
        """Raises UserError for what no new model may have; of_unit: alpha_tilde / c."""

    def evidence(self, y_t: Float[Array, "b h w c"], level: Level) -> Evidence:
        """What z_t says of it by its code alone; y_t: without what is read."""
        raise NotImplementedError

    def certain(self, value: Float[Array, "b ..."], latent: Array) -> Evidence:
        """The evidence of a value that is known, whose code is `latent`."""
        raise NotImplementedError

    def combine(self, prediction: Float[Array, "b ..."], gain: Array) -> Array:
        """The head's parameters, and what the code says; both as of `evidence`."""
        raise NotImplementedError

    @property
    def evidence_size(self) -> int:
        """Numbers of the vector that `evidence` gives."""
        raise NotImplementedError

    @property
    def evidence_std(self) -> float:
        """Of the weights that a new network begins to read that vector with."""
        return 1.0

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

    def nll(self, prediction: Many, value: Many) -> Float[Array, " b"]:
        """Training term of -log p(x_i | z_t): nats, or mean square over dimensions."""
        raise NotImplementedError

    def comparable(self, value: Array | np.ndarray) -> Array | np.ndarray:
        """The part of values [N, ...] that `mean` predicts, for errors between them."""
        return value

    def log_likelihood(self, prediction: Many, value: Many) -> Float[Array, " b"]:
        """Normalised log p(x_i | z_t) of the whole value in nats, for bounds."""
        raise NotImplementedError

    def log_density(self, prediction: Many, value: Many) -> Float[Array, " b"]:
        """The same but for a constant, for guidance, which follows its gradient."""
        return self.log_likelihood(prediction, value)

    def mean(self, prediction: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """E[x_i | z_t], a value that `encode` takes."""
        raise NotImplementedError

    def draw(self, keys: Key[Array, " b"], prediction: Many) -> Many:
        """A value of p(x_i | z_t) for each example, each from its own key."""
        raise UserError(
            f"config.modalities.{self.name}.guess is {self.guess!r}, but its class "
            f"{type(self).__name__} draws no values; add a method `draw` to it, or use "
            "guess = 'mean' or 'absent'."
        )


def is_evident(modality: Modality) -> bool:
    """Whether its code in z_t is looked for before the network looks."""
    return modality.frame == "evidence" and modality.drift != NO_DRIFT
