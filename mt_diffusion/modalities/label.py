"""Class labels, as probability vectors [K]; the paper's heads M and E, two encoders."""

import csv
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files.names import same, shown, some
from mt_diffusion.modalities import build, codes, evidence, tokens
from mt_diffusion.modalities.kinds import Coded
from mt_diffusion.models.classifier import EncoderClassifier
from mt_diffusion.models.layers import PooledMLP
from mt_diffusion.protocol import Code, Evidence

LONGEST = 10  # digits of the number of a class
LEAST = 1e-20  # probability of a class
HEADS = {"M": PooledMLP, "E": EncoderClassifier}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Label(Coded):
    """A class label; see its two encoders below.

    class_names: empty for those of the data set. head_kind: M, an MLP on the pooled
    middle block, or E, a classifier on the final features. heads: the fields of each.
    """

    class_names: Sequence[str]
    head_kind: str
    heads: Mapping[str, Mapping[str, Any]]

    def __post_init__(self):
        """Refuses a head that there is none of."""
        super().__post_init__()
        if self.head_kind not in HEADS:
            raise UserError(
                f"config.modalities.{self.name}.head_kind is {self.head_kind!r}; use "
                f"one of {list(HEADS)}."
            )

    def check_new(self, of_unit, schedule):
        super().check_new(of_unit, schedule)
        self.head()  # which refuses fields that are not its own

    @classmethod
    def fit(cls, fields, source):
        names = fields["class_names"] or source.class_names
        if not names:
            why = getattr(source, "why_no_classes", "")
            raise UserError(
                f"the data set has no class names{why}, so it can't train a label "
                "modality; name them in config.data.class_names, or use another data "
                "set."
            )
        check_places([str(name) for name in names], source.class_names)
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
        if same(text) in self._labels:
            return self._one_hot([self._labels[same(text)]])
        try:
            (words,) = csv.reader([text], skipinitialspace=True)
        except (csv.Error, ValueError):
            words = [text]
        return self._one_hot([self._index(word) for word in words or [""]])

    def take(self, given):
        is_one = isinstance(given, str) or np.ndim(given) == 0
        several = [given] if is_one else given
        return self._one_hot([self._index(one) for one in several])

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return {same(str(name)): i for i, name in enumerate(self.class_names)}

    def _index(self, given: Any) -> int:
        """Of a name, or of a number where no class is called by one.

        A number from a program, as `postprocess` makes it, has to mean the same class
        by its name and by its place.
        """
        word = same(str(given))
        by_name = self._labels.get(word, self._labels.get(word.strip()))
        is_number = word.isdecimal() and len(word) < LONGEST
        place = int(word) if is_number and int(word) < self.num_classes else None
        are_numbers = any(name.isdecimal() for name in self._labels)
        is_typed = isinstance(given, str)
        if by_name is not None and (is_typed or by_name == place):
            return by_name
        if place is not None and not are_numbers:
            return place
        names = ", ".join(map(shown, self.class_names[:12]))
        are_places = list(self._labels) == [str(i) for i in range(self.num_classes)]
        numbers = f"numbers from 0 to {self.num_classes - 1}, or "
        raise UserError(
            f"--given={self.name}={shown(word)} is no label of this model: give "
            f"{'' if are_numbers and not are_places else numbers}class names ({names}"
            f"{', ...' if self.num_classes > 12 else ''}), separated by commas"
            f'{"" if is_typed else ", as text"}. A name with a comma is quoted ("a,b").'
        )

    def _one_hot(self, labels: Sequence[int]) -> np.ndarray:
        return np.eye(self.num_classes, dtype=np.float32)[labels]

    def postprocess(self, value):
        return np.argmax(value, axis=-1).astype(np.int32)

    def estimate(self, mean):
        return np.asarray(mean, np.float32)  # probabilities, not the likeliest class

    def show(self, item):
        return shown(str(self.class_names[int(item)]))

    def head(self):
        cls, fields = HEADS[self.head_kind], self.heads.get(self.head_kind, {})
        where = f"config.modalities.{self.name}.heads.{self.head_kind}"
        wanted = build.types_of(cls, ("outputs", "parent", "name"))
        build.check_fields(where, fields, wanted)
        return cls(self.num_classes, **fields)

    def nll(self, prediction, value):
        return -jnp.sum(value * jax.nn.log_softmax(prediction), axis=-1)

    def log_likelihood(self, prediction, value):
        return -self.nll(prediction, value)

    def mean(self, prediction):
        return jax.nn.softmax(prediction)

    def draw(self, keys, prediction):
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (self.num_classes,)))(keys)
        drawn = jnp.argmax(jax.nn.log_softmax(prediction) + noise, axis=-1)
        return jax.nn.one_hot(drawn, self.num_classes, dtype=prediction.dtype)

    @property
    def scale(self):
        return math.sqrt(self.energy / math.prod(self.shape))

    def as_tokens(self, value: jax.Array) -> jax.Array:
        """[B, 1, D]: a fixed random direction of unit RMS per class, mixed linearly."""
        table = tokens.directions(self.tokens, self.num_classes, self.name)
        return (value @ jnp.asarray(table, value.dtype))[:, None, :]


def check_places(names: Sequence[str], of_data: Sequence[str]) -> None:
    """Raises UserError where a class of the data has its name at another's place."""
    for i, name in enumerate(of_data):
        if name in names and list(names).index(name) != i:
            raise UserError(
                f"class_names calls class {list(names).index(name)} {shown(name)}, but "
                f"that is class {i} of the data ({some(of_data)}). Leave class_names "
                "of the modality out, and give the order in config.data.class_names."
            )


class SharedUNet(Label):
    """The paper's encoder: the shared U-Net itself, reading the label's token."""

    @property
    def token_shape(self):
        return (1, self.tokens["size"])

    def check_new(self, of_unit, schedule):
        super().check_new(of_unit, schedule)
        self.check_loud()

    def encode(self, value):
        return Code(tokens=self.as_tokens(value))


class Codebook(Label):
    """A fixed codebook: orthogonal images of unit RMS, mixed linearly."""

    tables = ("images",)
    has_evidence = True

    def __post_init__(self):
        """Refuses a recipe that can't be made."""
        super().__post_init__()
        codes.check(self.codes, self.num_classes, self.shape, self.name)

    @property
    def token_shape(self):
        return (1, self.tokens["size"]) if self.conditions else None

    @property
    def num_codes(self):
        return self.num_classes

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The codes [K, H, W, C]."""
        return self.make_codes().astype(np.float32)

    def _mix(self, weights: jax.Array) -> jax.Array:
        table = jnp.asarray(self.images, weights.dtype)
        return jnp.einsum("bk,khwc->bhwc", weights, table)

    def encode(self, value):
        return Code(latent=self._mix(value), tokens=self.as_tokens(value))

    def measure(self, values, sources):
        counts = values.sum(axis=0, dtype=np.float64)
        shares = (counts + 1) / (counts.sum() + len(counts))
        measured = evidence.measure(self.images, sources)
        return {"measured": measured | {"shares": tuple(shares.tolist())}}

    @property
    def evidence_size(self):
        return self.num_classes + 1

    @property
    def _shares(self) -> np.ndarray:
        return np.asarray(self.measured["shares"])

    def evidence(self, y_t, level):
        mean, variance = evidence.leaked(self.measured, level)
        images = jnp.asarray(self.images, y_t.dtype)
        strength = level.drifts[self.name] * math.sqrt(math.prod(self.shape))
        seen = evidence.along(y_t, images) - mean
        absent = self.measured["absent"]
        q = evidence.of_class(seen, strength, variance, self._shares, absent)
        return self._evidence(jax.lax.stop_gradient(q), self._mix(q[:, :-1]))

    def certain(self, value, latent):
        q = jnp.concatenate([value, jnp.zeros_like(value[:, :1])], axis=-1)
        return self._evidence(q, latent)

    def _evidence(self, q: jax.Array, latent: jax.Array) -> Evidence:
        # Of the absent share the code says nothing, so it keeps the prior; the prior
        # itself is in the features' logits already (method.md, eq. 15).
        shares = jnp.asarray(self._shares, q.dtype)[None]
        of_value = q[:, :-1] / shares + q[:, -1:]
        return Evidence(latent, q, jnp.log(of_value + LEAST))

    def combine(self, prediction, gain):
        return prediction + gain
