"""Tars as WebDataset has them: the files of one example have one name, up to the dot.

`0001.jpg`, `0001.cls` and `0001.txt` are an image, its class and a caption. A suffix is
a column, and so is a field of a .json, as 'json.label'.
"""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mt_diffusion.data import splits
from mt_diffusion.data.kinds.listed import LOOSE, Example, Listed, found_classes
from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import same, shown
from mt_diffusion.files.within import tars
from mt_diffusion.files.within.parts import Part

SUFFIX = ".tar"
CLASS = "cls"  # the suffix of what is a class
JSON = "json"
LONGEST = 2**20  # bytes of a text

Files = dict[str, Part]  # of an example, by suffix


class Sample(NamedTuple):
    """Files that have one name; key: that name, with its folder."""

    key: str
    files: Files
    image: Part | None


class Tars(Listed):
    """A tar, or a folder of tars, which are of a part by their names."""

    def __init__(self, config: ConfigDict, split: str):
        """Reads path, splits, image_column, label_column and other_columns.

        Raises UserError for tars that are broken, or that have no images.
        """
        found = tars_of(config.path)
        names = splits.by_name(list(found), config.path, config)
        listed, left = {}, collections.Counter[str]()
        for name in sorted({*names["train"], *names["test"]}, key=list(found).index):
            samples = samples_of(found[name], config.image_column)
            listed[name] = list_of(name, samples, config)
            left["examples without an image"] += len(samples) - len(listed[name])
        parts = splits.together(names, listed)
        files = finding.Found([e.path for x in listed.values() for e in x], +left)
        if not all(parts.values()):
            raise UserError(
                f"there is no image in the tars of {shown(config.path)} ({files}); "
                f"{finding.AN_IMAGE}"
            )
        told = {"of": shown(config.path), "files": f"{files}; in {len(listed):,} .tar"}
        told["split"] = splits.told(names, list(found))
        super().__init__(config, split, parts, found_classes(parts), told)
        self._others = tuple(config.other_columns)

    def others(self, i: int) -> dict[str, Any]:
        """The columns of config.other_columns that it has."""
        parts = {n: part_of(self.beside[i], n) for n in self._others}
        found = {n: values([part], n)[0] for n, part in parts.items() if part}
        return {n: x for n, x in found.items() if x is not None}


def tars_of(path: str) -> dict[str, pathlib.Path]:
    """{name: tar} of a tar, or of all below a folder; UserError where there is none."""
    root = pathlib.Path(path).expanduser()
    if path and root.is_dir():
        found = finding.with_suffix(root, SUFFIX)
    else:
        found = {root.name: root} if path and root.is_file() else {}
    if not found:
        raise UserError(
            f"config.data.path = {shown(repr(path))} is no tar, and no folder with "
            f"files that end in {SUFFIX}."
        )
    return found


def samples_of(path: pathlib.Path, column: str) -> list[Sample]:
    """What is in a tar, by the names of its files; hidden ones are left.

    column: the suffix of images, '' for any. Raises UserError for a file that is there
    twice, and an example with several images.
    """
    column, found = column.lower(), dict[str, Files]()
    for part in tars.index(path):
        place = pathlib.PurePosixPath(part.name)
        stem, _, suffix = place.name.partition(".")
        if any(p.startswith(".") for p in place.parts) or not stem:
            continue
        files = found.setdefault(str(place.with_name(stem)), {})
        if files.setdefault(suffix.lower(), part) is not part:
            raise UserError(
                f"{shown(part)} is in its tar twice, and which one is meant nobody "
                "knows; make the tar anew."
            )
    samples = []
    for key, files in found.items():
        wanted = [s for s in files if f".{s}" in finding.SUFFIXES]
        wanted = [s for s in files if s == column] if column else wanted
        if len(wanted) > 1:
            raise UserError(
                f"{shown(path)}:{shown(key)} has several images, {', '.join(wanted)}: "
                f"say which with --config.data.image_column={wanted[0]}."
            )
        samples.append(Sample(key, files, files[wanted[0]] if wanted else None))
    return samples


def list_of(name: str, samples: Sequence[Sample], config: ConfigDict) -> list[Example]:
    """The examples of a tar called `name` that have an image, each with its class.

    Raises UserError where no example has the column that is asked for.
    """
    column = config.label_column or CLASS
    parts = {s.key: part for s in samples if (part := part_of(s.files, column))}
    if config.label_column and not parts:
        there = ", ".join(sorted({suffix for s in samples for suffix in s.files}))
        raise UserError(
            f"config.data.label_column = {shown(repr(column))} is in no example of "
            f"{shown(name)}; what they have is {shown(there)[:200]}, where a field of "
            "a json is called json.FIELD."
        )
    found = dict(zip(parts, values(list(parts.values()), column), strict=True))
    return [
        Example(
            path=s.image,
            name=named(found.get(s.key), s.image),
            place=pathlib.PurePosixPath(name, s.key.lstrip("/")),
            below=s.key,
            beside=s.files,
        )
        for s in samples
        if s.image is not None
    ]


def named(value: Any, image: Part) -> str:
    """The name of an image's class; UserError for what is no name."""
    if not isinstance(value, str | int | None):
        raise UserError(
            f"{shown(image)} has as its class {shown(repr(value))[:80]}; a class is a "
            "text, or a whole number. Name another one by --config.data.label_column."
        )
    return LOOSE if value is None else same(str(value))


def part_of(files: Files, column: str) -> Part | None:
    """The file that a column is in, if there is one."""
    is_field = column.startswith(f"{JSON}.") and column not in files
    return files.get(JSON if is_field else column)


def values(parts: Sequence[Part], column: str) -> list[Any]:
    """A column of some examples: a text, or what a json has; None for no such field.

    Raises UserError for what can't be read, or is no text.
    """
    for part in parts:
        if part.size > LONGEST:
            raise UserError(
                f"{shown(part)} has {part.size:,} bytes, more than the {LONGEST:,} "
                "that a text may have; name another column, or make the tar anew."
            )
    found = zip(parts, tars.contents(parts), strict=True)
    return [parsed(part, column, content) for part, content in found]


def parsed(part: Part, column: str, content: bytes) -> Any:
    """What a column's file says."""
    try:
        text = content.decode("utf-8")
        if not part.name.lower().endswith(f".{JSON}"):
            return text.strip()
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{shown(part)} can't be read ({shown(str(error))[:200]}), as column "
            f"{shown(column)}; mend it, or name another column."
        ) from error
    field = column.partition(".")[2]
    if not field:
        return found
    return found.get(field) if isinstance(found, dict) else None
