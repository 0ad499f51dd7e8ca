"""CLIP's text tower as an encoder of sentences (see models/sentences.py)."""

import functools
import hashlib
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.files.names import shown
from mt_diffusion.models import encoded
from mt_diffusion.models.clip import saved, tokenizer, towers
from mt_diffusion.models.clip.tokenizer import Tokenizer
from mt_diffusion.models.encoded import AT_ONCE, Encoded

FEW = 8  # texts, up to which there is a program for each number of them


class Texts:
    """The vector of a text, of length 1, and its tokens' hidden states.

    A text is filled up to all places with the tokenizer's padding, and these tokens are
    read as well: Stable Diffusion was trained so.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises UserError for what is no CLIP that reads texts, or lacks a file."""
        self._folder = folder
        tokenizer.files_of(folder)
        self._tower = saved.read(folder, saved.TEXT)
        self.width = self._tower.width
        projection = self._tower.state.get(saved.PROJECTIONS[saved.TEXT])
        self.size = self.width if projection is None else len(projection)
        self.most = int(self._tower.config["max_position_embeddings"])

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for its weights, tokenizer and form."""
        state = {name: np.asarray(x) for name, x in self._tower.state.items()}
        total = hashlib.sha256(f"{self._tower.form}{weights.digest(state)}".encode())
        for path in tokenizer.files_of(self._folder):
            total.update(path.read_bytes())
        return total.hexdigest()[:16]

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        found = tokenizer.read(self._folder)
        room, words = self._tower.config["vocab_size"], found.encoder.get_vocab_size()
        if words > room:
            raise UserError(
                f"{shown(found.files[0])} has {words} words, the CLIP in "
                f"{shown(self._folder)} {room}; take the tokenizer that belongs to it."
            )
        return found

    def __call__(self, texts: Sequence[str], num_tokens: int) -> Encoded:
        """Says of which texts the end is not read."""
        batch = self._tokenizer.encoder.encode_batch(list(texts))
        found = [each.ids for each in batch]
        return encoded.in_parts(self._some, found, texts, num_tokens, self.most)

    def _some(self, found: Sequence[Sequence[int]], num_tokens: int) -> Encoded:
        _, end, padding, _ = self._tokenizer
        rows = AT_ONCE if len(found) > FEW else len(found)
        ids = np.full((rows, self.most), padding, np.int32)
        ends = np.zeros(rows, np.int32)
        for i, row in enumerate(found):
            ids[i, : len(row)], ends[i] = row, self._last(row, end)
        both = jnp.asarray(ids), jnp.asarray(ends)
        pooled, hidden = towers.text(self._tower.state, *both, self._tower.form)
        room = np.zeros((len(found), num_tokens, self.width), np.float32)
        seen = np.zeros((len(found), num_tokens), bool)
        kept = min(num_tokens, self.most)
        room[:, :kept] = np.asarray(hidden)[: len(found), :kept]
        seen[:, :kept] = True
        vectors = encoded.unit(np.asarray(pooled)[: len(found)])
        lengths = np.asarray(list(map(len, found)), np.int32)
        return Encoded(vectors, room, seen, lengths)

    def _last(self, ids: Sequence[int], end: int) -> int:
        """Where transformers takes the vector: the first end, which a text may hold.

        It takes the first of the largest id where a config has OpenAI's eos_token_id
        of 2, which is the same with their words.
        """
        told = self._tower.config["eos_token_id"]
        return list(ids).index(max(ids) if told == 2 else end)
