"""How data are split: by sub-folders, or by a hash of each example's own name."""

import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import natural, same, shown, some

HOLDOUT = 5  # one in so many examples is for testing, where nothing else says which
NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
NONE = "none"  # of config.splits: all sub-folders are classes

find = finding.find


def split_folders(root: pathlib.Path, config: ConfigDict) -> dict[str, pathlib.Path]:
    """Where the training and the test part lie; both in root, if it is to be split.

    config: of the data, whose `splits` is '' to recognise folders by NAMES, in any
    case, 'none', or 'TRAIN,TEST'. Raises UserError for folders that are not clear.
    """
    names = finding.folders(root)
    if config.splits == NONE:
        return {"train": root, "test": root}
    if config.splits:
        return named(root, config.splits, names)
    known = {
        part: [n for n in names if n.lower() in words] for part, words in NAMES.items()
    }
    others = set(names).difference(*known.values())
    both = [*known["train"], *known["test"]]
    are_classes = others and not any(finding.folders(root / n) for n in both)
    if not known["train"] or (are_classes and not config.pair):
        return {"train": root, "test": root}
    return {part: root / the_one(root, part, known[part]) for part in NAMES}


def the_one(root: pathlib.Path, part: str, names: Sequence[str]) -> str:
    """The folder that is a part; UserError where there is none, or more than one."""
    remedy = (
        "say which are the parts with --config.data.splits=TRAIN,TEST, or 'none' if "
        "all of them are classes"
    )
    if not names:
        raise UserError(
            f"{shown(root)} has a folder train, but none named test or val; add one, "
            "point --config.data.path to the folder that holds the classes, or "
            f"{remedy}."
        )
    first = min(names, key=lambda name: NAMES[part].index(name.lower()))
    if rivals := [n for n in names if n != first and n.lower() == first.lower()]:
        raise UserError(
            f"{shown(root)} has the folders {some([first, *rivals])}: {remedy}."
        )
    return first


def named(
    root: pathlib.Path, text: str, names: Sequence[str]
) -> dict[str, pathlib.Path]:
    """The folders of a text 'TRAIN,TEST'; UserError for others than there are."""
    chosen = [name.strip() for name in text.split(",")]
    if len(set(chosen)) != 2 or not set(chosen) <= set(names):
        raise UserError(
            f"config.data.splits = {shown(text)!r} must be '', 'none', or two of the "
            f"folders in {shown(root)}, as TRAIN,TEST; there are {some(names)}."
        )
    return {part: root / name for part, name in zip(NAMES, chosen, strict=True)}


def by_name(names: Sequence[str], where: str, config: ConfigDict) -> dict[str, list]:
    """Which files, or splits of a data set, are of which part, by words in their names.

    All are of both, and so are yet to be split, where no name says more than that it is
    for training. config: of the data, whose `splits` is as of `split_folders`. Raises
    UserError for names that are not clear.
    """
    both = {part: list(names) for part in NAMES}
    if config.splits == NONE:
        return both
    words = NAMES
    if config.splits:
        chosen = [name.strip() for name in config.splits.split(",")]
        if len(set(chosen)) != 2:
            raise UserError(
                f"config.data.splits = {shown(repr(config.splits))} must be '', "
                f"'none', or two words as TRAIN,TEST; in {shown(where)} there are "
                f"{some(names)}."
            )
        words = {part: (word,) for part, word in zip(NAMES, chosen, strict=True)}
    found = {part: with_word(names, some_of) for part, some_of in words.items()}
    is_known = found["train"] and (found["test"] or set(found["train"]) < set(names))
    if not config.splits and not is_known:
        return both
    for part, of_part in found.items():
        if not of_part:
            raise UserError(
                f"{shown(where)} has {some(names)}, of which none is for {part}ing by "
                f"its name ({', '.join(map(shown, words[part]))}): say which are with "
                "--config.data.splits=TRAIN,TEST, or 'none' to hold out one in "
                f"{HOLDOUT}."
            )
    if twice := sorted(set(found["train"]) & set(found["test"])):
        raise UserError(
            f"{shown(where)} has {some(twice)}, which would be for training and for "
            "testing, by its name; say which is which with "
            "--config.data.splits=TRAIN,TEST, in words that only one has."
        )
    return found


def together(
    names: Mapping[str, Sequence[str]], listed: Mapping[str, Sequence[Any]]
) -> dict[str, list]:
    """The examples of each part, from those by name; one list where both are all.

    names: as of `by_name`.
    """
    parts = {part: [e for n in names[part] for e in listed[n]] for part in NAMES}
    if names["train"] == names["test"]:
        parts["test"] = parts["train"]
    return parts


def told(names: Mapping[str, Sequence[str]], there: Sequence[str]) -> str:
    """What is for training, what for testing, and what is there besides, in words."""
    if names["train"] == names["test"]:
        return f"one in {HOLDOUT} for testing"
    said = " and ".join(f"{some(names[part])} for {part}ing" for part in NAMES)
    unused = [n for n in there if n not in (*names["train"], *names["test"])]
    return said + (f"; not used: {some(unused)}" if unused else "")


def with_word(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Names with the first of some words that any has, in any case, whole."""
    for word in words:
        pattern = rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])"
        if found := [name for name in names if re.search(pattern, name, re.I)]:
            return found
    return []


def besides(roots: Mapping[str, pathlib.Path]) -> str:
    """What is said of folders beside those of the splits."""
    used = {folder.name for folder in roots.values()}
    others = [n for n in finding.folders(roots["train"].parent) if n not in used]
    return f"; not used: {some(others)}" if others else ""


def class_names(
    roots: Mapping[str, pathlib.Path], parts: Mapping[str, Sequence[Any]]
) -> list[str]:
    """All sub-folders, in natural order; one without images is a class too."""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(roots.values()):
        here: dict[str, str] = {}
        for name in finding.folders(folder):
            if (other := here.setdefault(same(name), name)) != name:
                raise UserError(
                    f"{shown(folder)} has two folders that are both called "
                    f"{shown(name)}, written in two ways ({ascii(other)} and "
                    f"{ascii(name)}); make them one."
                )
        found |= here
    return sorted(found, key=natural)


def held_out(examples: Sequence[Any], split: str) -> list[int]:
    """Indices of the 'train' or 'test' part.

    An example is in the same one whatever else is there, for a hash of its path below
    its class decides. Neither part stays empty, where there are two examples.
    """
    values = [draw(example.below) for example in examples]
    first = min(values, default=0.0)
    is_test = [value < max(1 / HOLDOUT, first + 1e-12) for value in values]
    if len(examples) > 1 and all(is_test):
        is_test[values.index(max(values))] = False
    if len(examples) == 1:
        is_test = [False]
    return [i for i, test in enumerate(is_test) if test == (split == "test")]


def holdout(num_examples: int, split: str) -> np.ndarray:
    """Indices of the fixed 'train' or 'test' part of a data set that never changes."""
    order = np.random.default_rng(0).permutation(num_examples)
    num_test = num_examples // HOLDOUT
    return np.sort(order[:num_test] if split == "test" else order[num_test:])


def draw(below: str) -> float:
    """A number in [0, 1) that a path has, in whatever case and with any suffix."""
    stem = str(pathlib.PurePosixPath(below).with_suffix(""))
    name = same(same(stem).casefold()).encode("utf8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(name).digest()[:6]) / 2**48
