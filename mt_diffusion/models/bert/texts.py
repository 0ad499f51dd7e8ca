"""BERT and RoBERTa as encoders of sentences (see models/sentences.py)."""

import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError, needs
from mt_diffusion.files.names import shown
from mt_diffusion.models import encoded
from mt_diffusion.models.bert import network, saved
from mt_diffusion.models.encoded import AT_ONCE, Encoded, unit
from mt_diffusion.models.transformer import State

STEP = 8  # lengths are multiples of it, so that few programs are compiled


class Texts:
    """The mean of a text's tokens, or the first, as its vector; its tokens."""

    def __init__(self, folder: pathlib.Path):
        """Raises UserError for a folder that lacks something, or is of another form."""
        self._folder, self._saved = folder, saved.read(folder)
        self.size = self.width = int(self._saved.config["hidden_size"])
        self.most = self._saved.most

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for its weights, tokenizer and form."""
        told = self._saved
        lower = "lower" if told.is_lower else ""
        total = hashlib.sha256(f"{told.form}{told.is_mean}{told.most}{lower}".encode())
        for path in told.files:
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()[:16]

    @functools.cached_property
    def _state(self) -> State:
        return self._saved.state()

    @functools.cached_property
    def _tokenizer(self) -> Any:
        with needs("text", f"the sentence encoder {shown(self._folder)}"):
            import tokenizers
        path = self._saved.home / saved.TOKENIZER
        try:
            found = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # of Rust: whatever it is
            raise UserError(
                f"{shown(path)} can't be read as a tokenizer ({shown(str(error))}); "
                "save it once more."
            ) from error
        room = self._saved.config["vocab_size"]
        if (last := max(found.get_vocab().values(), default=0)) >= room:
            raise UserError(
                f"{shown(path)} has a word of the number {last}, its network {room} "
                "words; take the tokenizer that belongs to it."
            )
        found.no_padding()
        found.no_truncation()
        return found

    def __call__(self, texts: Sequence[str], num_tokens: int) -> Encoded:
        """Says of which texts the end is not read."""
        read = [text.lower() for text in texts] if self._saved.is_lower else texts
        found = [each.ids for each in self._tokenizer.encode_batch(list(read))]
        return encoded.in_parts(self._some, found, texts, num_tokens, self.most)

    def _some(self, found: Sequence[Sequence[int]], num_tokens: int) -> Encoded:
        length = max(num_tokens, *map(len, found))
        length = min(-(-length // STEP) * STEP, self.most)
        rows = AT_ONCE if len(found) > STEP else len(found)
        ids = np.zeros((rows, length), np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, row in enumerate(found):
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        both = jnp.asarray(ids), jnp.asarray(mask)
        hidden = network.hidden(self._state, *both, self._saved.form)
        tokens = np.asarray(hidden)[: len(found)]
        mask = mask[: len(found)]
        if self._saved.is_mean:
            count = np.maximum(mask.sum(1), 1)[:, None]
            pooled = np.sum(tokens * mask[..., None], axis=1) / count
        else:
            pooled = tokens[:, 0]
        room = np.zeros((len(found), num_tokens, self.size), np.float32)
        kept = min(num_tokens, length)
        room[:, :kept] = (tokens * mask[..., None])[:, :kept]
        seen = np.zeros((len(found), num_tokens), bool)
        seen[:, :kept] = mask[:, :kept]
        lengths = np.asarray(list(map(len, found)), np.int32)
        return Encoded(unit(pooled), room, seen, lengths)
