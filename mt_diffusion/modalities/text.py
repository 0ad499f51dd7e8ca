"""Words for an image: a sentence, by a frozen encoder (see models/sentences.py).

A value is one vector of numbers: [D] of the whole sentence, whitened on the captions of
the training set, which drifts and which the head predicts; and where the network reads
it, L tokens and which of them there are.
"""

import dataclasses
import functools
import pathlib
import types
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import captions as files
from mt_diffusion.files.names import shown
from mt_diffusion.modalities import build, tokens, words
from mt_diffusion.modalities.vector import Projected
from mt_diffusion.models import sentences
from mt_diffusion.models.sentences import Encoded, Sentences
from mt_diffusion.protocol import Code

MOST_KEPT = 50_000  # texts, with those that come later


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Text(Projected):
    """A sentence; its code is a fixed isometry of its whitened vector.

    feature: of examples, 'caption' where config.data.captions gives them: a text, or
    several that mean the same. encoder: 'letters', a folder, or a package that has one
    in it. num_components: D, of the vector. most_tokens: L, that are read. own_tokens:
    as the encoder has them, for a network that was trained on these; or else of unit
    RMS, turned to the size that all tokens have.
    encoder_digest, vector_mean [E], whitening [D, E] and captions (of the training set,
    among which values are told): empty, for `fit` to fill.
    """

    feature: str
    encoder: str
    most_tokens: int
    own_tokens: bool
    num_components: int
    encoder_digest: str
    vector_mean: Sequence[float]
    whitening: Sequence[Sequence[float]]
    captions: Sequence[str]

    encoders = types.MappingProxyType({"encoder": "encoder_digest"})
    words = ("captions",)
    added = types.MappingProxyType({"own_tokens": False})

    def __post_init__(self):
        """Refuses vectors of no numbers."""
        field = f"config.modalities.{self.name}.num_components"
        build.check_least(field, self.num_components, 1)
        super().__post_init__()

    def check_new(self, of_unit, schedule):
        super().check_new(of_unit, schedule)
        if not self.vector_mean:
            sentences.find(self.encoder)

    @classmethod
    def fit(cls, fields, source):
        if fields["vector_mean"]:
            return fields
        known = words.known(source, fields["feature"])
        encoder = sentences.find(fields["encoder"])
        found = sentences.cached(encoder, known, fields["most_tokens"])
        if fields["conditions"]:
            found.tell_unread(known)
        mean, whitening = words.whiten(found.pooled, fields["num_components"])
        return fields | {
            "encoder_digest": encoder.digest,
            "vector_mean": mean,
            "whitening": whitening,
            "captions": tuple(known),
        }

    @classmethod
    def stand_in(cls, fields):
        num = fields["num_components"]
        axes = tuple(map(tuple, np.eye(num).tolist()))
        return {"vector_mean": (0.0,) * num, "whitening": axes, "captions": ("",)}

    @classmethod
    def energy_of(cls, scale, fields, numbers):
        size = fields["num_components"]
        return super().energy_of(scale, fields, numbers) / size

    @property
    def size(self):
        return self.num_components

    @property
    def evidence_std(self):
        # So that its sum is as large as the embedding of t that it joins.
        return self.size**-0.5

    @functools.cached_property
    def _encoder(self) -> Sentences:
        sentences.check_named(self.encoder, f"{self.name}.encoder")
        found = sentences.find(self.encoder)
        if found.digest != self.encoder_digest:
            raise UserError(
                f"config.modalities.{self.name}.encoder = {self.encoder!r} makes "
                f"vectors of {found.size} numbers, and is not the encoder that this "
                f"model was trained with, of {len(self.vector_mean)} "
                f"({self.encoder_digest}, not {found.digest}); say where that one is "
                f"with --config.modalities.{self.name}.encoder=FOLDER."
            )
        return found

    @functools.cached_property
    def _values(self) -> dict[str, np.ndarray]:
        """Of texts that were encoded: of the training set, and what came since."""
        if not self.captions:
            return {}
        found = sentences.cached(self._encoder, self.captions, self.most_tokens)
        return dict(zip(self.captions, self._as_values(found), strict=True))

    @functools.cached_property
    def _told(self) -> tuple[list[str], np.ndarray]:
        """Captions of the training set, or what `compare_with` has put in their place.

        And their vectors of length 1, [K, D].

        Without the encoder it is none, which is said.
        """
        if not self.captions or not self._is_here():
            return [], np.zeros((0, self.size))
        return list(self.captions), self._units(self.captions)

    def _units(self, texts: Sequence[str]) -> np.ndarray:
        return sentences.unit(self.values_of(texts)[:, : self.size])

    def _is_here(self) -> bool:
        try:
            return bool(self._encoder.size)
        except UserError as error:
            print(f"{self.name} is not told in words: {error}")
            return False

    @functools.cached_property
    def _asked(self) -> list[str]:
        """The texts that were given last: one of them is shown as it was."""
        return []

    @functools.cached_property
    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.vector_mean), np.asarray(self.whitening)

    def _as_read(self, told: np.ndarray) -> np.ndarray:
        """[N, L, size of a token] of the encoder's, [N, L, E]."""
        width, size = told.shape[-1], self.tokens["size"]
        if self.own_tokens:
            if width != size:
                raise UserError(
                    f"config.modalities.{self.name}.own_tokens is true, so tokens.size "
                    f"must be that of {shown(self.encoder)}, {width}; it is {size}."
                )
            return told
        rms = np.sqrt(np.mean(told**2, axis=-1, keepdims=True))
        seed = tokens.seed_of(self.tokens, self.name)
        return told / np.maximum(rms, 1e-6) @ tokens.resized(width, size, seed)

    @property
    def _num_read(self) -> int:
        return self.most_tokens if self.conditions else 0

    def _as_values(self, found: Encoded) -> np.ndarray:
        """[N, D + L (size of a token + 1)] of what the encoder says."""
        mean, whitening = self._whitening
        parts = [(found.pooled - mean) @ whitening.T]
        if self._num_read:
            told = self._as_read(found.tokens.astype(np.float32))
            parts += [told.reshape(len(told), -1), found.mask]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _given(self, texts: Sequence[str]) -> np.ndarray:
        """The values of texts that somebody gave: who is told what is not read."""
        self._asked[:] = texts
        return self.values_of(texts, tells=True)

    def values_of(self, texts: Sequence[str], tells: bool = False) -> np.ndarray:
        """Of texts, each encoded once; tells: what of new ones is not read."""
        known = self._values
        made = {}
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            found = self._encoder(new, self.most_tokens)
            if tells and self._num_read:
                found.tell_unread(new)
            made = dict(zip(new, self._as_values(found), strict=True))
            if len(known) + len(new) <= MOST_KEPT:
                known.update(made)
        return np.stack([made[t] if t in made else known[t] for t in texts])

    def preprocess(self, example, rng):
        texts = words.as_texts(example.get(self.feature, ()))
        return self.values_of([texts[rng.integers(len(texts))]])[0] if texts else None

    def placeholder(self):
        room = self._num_read * (self.tokens["size"] + 1)
        return np.zeros(self.size + room, np.float32)

    def read(self, text):
        if not text.strip():
            return None
        path = pathlib.Path(text).expanduser()
        if files.is_other(text):
            raise UserError(
                f"--given={self.name}={shown(text)} is called as a file is, and is no "
                f"words; a list of texts is {files.LINES}."
            )
        return self._given(files.lines(path) if files.is_list(path) else [text])

    def take(self, given):
        several = isinstance(given, Iterable) and not isinstance(given, str)
        texts = list(given) if several else [given]
        are_texts = all(isinstance(text, str) for text in texts)
        if are_texts and not any(texts):
            return None
        if not are_texts or not all(text.strip() for text in texts):
            raise UserError(
                f"{self.name} is {shown(str(given))[:80]}; give a text, or several, "
                "none of them empty."
            )
        return self._given(texts)

    def postprocess(self, value):
        """[N, E], as the encoder has it, but in D dimensions alone."""
        mean, whitening = self._whitening
        back = whitening / np.sum(whitening**2, axis=1, keepdims=True)
        return (value[:, : self.size] @ back + mean).astype(np.float32)

    def show(self, item):
        (found,) = self.nearest(item[None])
        return shown(found[0][0]) if found else ""

    def nearest(self, items, num=1):
        names, there = self._told
        known = set(names)
        if more := [t for t in dict.fromkeys(self._asked) if t not in known]:
            names = [*names, *more]
            there = np.concatenate([there, self._units(more)])
        mean, whitening = self._whitening
        wanted = sentences.unit((np.asarray(items) - mean) @ whitening.T)
        cosines = wanted @ there.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :num]
        return [
            [(names[j], float(row[j])) for j in places]
            for row, places in zip(cosines, best, strict=True)
        ]

    def compare_with(self, texts):
        texts = list(dict.fromkeys(texts))
        self._asked.clear()
        self.__dict__["_told"] = texts, self._units(texts)

    @property
    def token_shape(self):
        return (self.most_tokens, self.tokens["size"]) if self.conditions else None

    def encode(self, value):
        latent = self._project(value[:, : self.size])
        if not self.conditions:
            return Code(latent=latent)
        told = value[:, self.size : -self.most_tokens]
        told = told.reshape(-1, self.most_tokens, self.tokens["size"])
        return Code(latent, told, mask=value[:, -self.most_tokens :] > 0.5)

    def comparable(self, value):
        return value[:, : self.size]

    def certain(self, value, latent):
        return super().certain(self.comparable(value), latent)

    def nll(self, prediction, value):
        return super().nll(prediction, self.comparable(value))

    def log_likelihood(self, prediction, value):
        return super().log_likelihood(prediction, self.comparable(value))

    def mean(self, prediction):
        return self._untold(super().mean(prediction))

    def draw(self, keys, prediction):
        return self._untold(super().draw(keys, prediction))

    def _untold(self, vector: jax.Array) -> jax.Array:
        """A value that has no tokens."""
        room = self._num_read * (self.tokens["size"] + 1)
        return jnp.pad(vector, ((0, 0), (0, room)))
