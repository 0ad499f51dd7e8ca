"""CLIP's tokenizer, from its own files: tokenizer.json, or vocab.json and merges.txt.

Byte pairs of lower-case words, whose ends are marked, between a start and an end.
"""

import pathlib
from typing import Any, NamedTuple

from mt_diffusion.errors import UserError, needs
from mt_diffusion.files import weights
from mt_diffusion.files.names import shown

WHOLE, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
TOLD = ("special_tokens_map.json", "tokenizer_config.json")  # the later one holds
BESIDE = "tokenizer"  # the folder next to Stable Diffusion's text_encoder
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokenizer(NamedTuple):
    """encoder: of the package tokenizers. end, padding: ids; files: all it is of."""

    encoder: Any
    end: int
    padding: int
    files: tuple[pathlib.Path, ...]


def files_of(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The tokenizer's files of a folder with weights, or of `tokenizer` beside it.

    Raises UserError where there are none.
    """
    for place in (folder, folder.parent / BESIDE):
        for names in ((WHOLE,), (VOCAB, MERGES)):
            if all((place / name).is_file() for name in names):
                told = [name for name in TOLD if (place / name).is_file()]
                return tuple(place / name for name in (*names, *told))
    raise UserError(
        f"{shown(folder)} has no tokenizer: neither {WHOLE} nor {VOCAB} with {MERGES} "
        f"is in it, or in the folder {BESIDE} beside it. Take these from where the "
        "model is from."
    )


def read(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer that belongs to a folder; UserError where it can't be read."""
    files = files_of(folder)
    with needs("text", f"CLIP's tokenizer in {shown(folder)}"):
        import tokenizers
    try:
        found = (
            tokenizers.Tokenizer.from_file(str(files[0]))
            if files[0].name == WHOLE
            else made_of(*files[:2])
        )
    except Exception as error:  # of Rust: whatever it is
        raise UserError(
            f"{shown(files[0])} can't be read as a tokenizer ({shown(str(error))}); "
            "take it once more from where the model is from."
        ) from error
    padding = padding_of(files)
    found.add_special_tokens([START, END, padding])
    found.no_padding()
    found.no_truncation()
    ids: list[Any] = [found.token_to_id(token) for token in (START, END, padding)]
    marks = (ids[0], ids[1])
    framed = found.encode("a").ids
    if (framed[0], framed[-1]) != marks:
        raise UserError(
            f"{shown(files[0])} is no tokenizer of a CLIP: it puts {framed} for 'a', "
            f"but {START} and {END}, which are {marks}, stand around a text."
        )
    return Tokenizer(found, ids[1], ids[2], files)


def made_of(vocab: pathlib.Path, merges: pathlib.Path) -> Any:
    """The tokenizer of these words and merges, in the order that they were learnt."""
    from tokenizers import Regex, Tokenizer, models, normalizers, processors
    from tokenizers import pre_tokenizers as splits

    words, pairs = models.BPE.read_file(str(vocab), str(merges))
    found = Tokenizer(
        models.BPE(words, pairs, end_of_word_suffix="</w>", unk_token=END)
    )
    found.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words_alone = splits.Split(Regex(WORDS), behavior="removed", invert=True)
    found.pre_tokenizer = splits.Sequence(
        [words_alone, splits.ByteLevel(add_prefix_space=False)]
    )
    found.post_processor = processors.RobertaProcessing(
        (END, words[END]), (START, words[START]), False, False
    )
    return found


def padding_of(files: tuple[pathlib.Path, ...]) -> str:
    """The token that fills up a text; OpenAI's is its end, Stable Diffusion 2's '!'."""
    padding = END
    for path in files:
        if path.name in TOLD:
            told = weights.read_table(path).get("pad_token") or padding
            padding = told["content"] if isinstance(told, dict) else told
    return padding
