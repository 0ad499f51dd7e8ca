"""A folder of images: what is in it, its classes, its training and test part."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import classes, earlier, policy, splits
from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding, finding
from mt_diffusion.files import images as files
from mt_diffusion.files.names import same, shown

LOOSE = ""  # in place of a class, for an image that lies in no sub-folder
RULES = {0: earlier, 1: splits}  # by config.version


class Example(NamedTuple):
    """A file, its class, and its path below the folder of its split."""

    path: pathlib.Path
    name: str
    place: pathlib.PurePath

    @property
    def below(self) -> str:
        """Its path below its class, whatever that is called."""
        return "/".join(self.place.parts[1:] if self.name else self.place.parts)


class Folder:
    """A folder of images with one sub-folder per class, of any size, RGB or grey.

    Pairs of images need no classes: label -1 is that of loose images. facts: what was
    found, for people. refused: errors of files that config.broken leaves out.
    """

    def __init__(self, config: ConfigDict, split: str):
        """Reads path, splits, version, class_names, found and broken.

        Raises UserError for a folder without images, or with broken ones.
        """
        root = pathlib.Path(config.path).expanduser()
        if not config.path or not root.is_dir():
            raise UserError(
                f"config.data.path = {shown(repr(config.path))} is no folder."
                f"{f' {config.prepared_by} makes it.' if config.prepared_by else ''}"
            )
        if config.version not in RULES:
            raise UserError(
                f"config.data.version is {config.version}; choose one of {list(RULES)}."
            )
        rules = RULES[config.version]
        roots = rules.split_folders(root, config)
        found = {folder: rules.find(folder) for folder in dict.fromkeys(roots.values())}
        for folder, files_there in found.items():
            check_any(folder, files_there)
        parts = {part: examples_in(roots[part], found[roots[part]]) for part in roots}
        if not config.pair:
            check_no_loose(roots, parts)
        # Of both splits, so that a label means the same in each.
        self.class_names = classes.in_order(rules.class_names(roots, parts), config)
        examples = parts[split]
        if roots["train"] == roots["test"]:
            examples = [examples[i] for i in rules.held_out(examples, split)]
        if not examples:
            raise UserError(
                f"{shown(root)} has too few images to hold out one in {splits.HOLDOUT} "
                f"for testing; use {splits.HOLDOUT} or more."
            )
        failed = files.failures(decoding.check, [e.path for e in examples])
        self.refused = list(failed.values())
        if failed and config.broken != policy.SKIP:
            raise all_of(self.refused, len(examples))
        kept = [e for i, e in enumerate(examples) if i not in failed]
        self.paths = [e.path for e in kept]
        label = {LOOSE: -1} | {name: i for i, name in enumerate(self.class_names)}
        self.labels = [label[e.name] for e in kept]
        self.places = [e.place for e in kept]
        self.facts = facts(roots, found, self)
        self._shape = (config.image_size, config.image_size, config.channels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict:
        image = files.read_image(self.paths[i], self._shape)
        return {"image": image, classes.CLASS: self.labels[i]}

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the names and sizes of all files.

        And for their order; not for where the folder lies.
        """
        total = hashlib.sha256()
        for path, place in zip(self.paths, self.places, strict=True):
            name = same(place.as_posix()).encode("utf8", "surrogateescape")
            total.update(name + f"\0{os.stat(path).st_size}\n".encode())
        return total.hexdigest()[:16]


def examples_in(root: pathlib.Path, found: finding.Found) -> list[Example]:
    """The images found below a folder; LOOSE is the class of those in itself."""
    examples = []
    for path in found.images:
        place = path.relative_to(root)
        name = same(place.parts[0]) if len(place.parts) > 1 else LOOSE
        examples.append(Example(path, name, place))
    return examples


def check_any(folder: pathlib.Path, found: finding.Found) -> None:
    """Raises UserError for a folder without images."""
    if not found.images:
        raise UserError(
            f"there is no image in the folder {shown(folder)} ({found}); "
            f"{finding.AN_IMAGE}"
        )


def check_no_loose(
    roots: dict[str, pathlib.Path], parts: dict[str, list[Example]]
) -> None:
    """Raises UserError for images that lie in no class."""
    for part, examples in parts.items():
        if loose := [e.path for e in examples if e.name == LOOSE]:
            more = f" (and {len(loose) - 1:,} more)" if len(loose) > 1 else ""
            raise UserError(
                f"{shown(loose[0])} lies directly in {shown(roots[part])}{more}; put "
                "the images of each class into a sub-folder of their own (a single "
                "one, if there are no classes)."
            )


def all_of(refused: Sequence[UserError], num: int) -> UserError:
    """The first of some files' errors, with how many there are."""
    more = f" So it is with {len(refused):,} of {num:,} files."
    more += f" --config.data.broken={policy.SKIP} goes on without them."
    return UserError(f"{refused[0]}{more}")


def facts(
    roots: dict[str, pathlib.Path],
    found: dict[pathlib.Path, finding.Found],
    source: Folder,
) -> dict[str, str]:
    """What was found in a folder, and what its splits and classes are, in words."""
    if len(found) == 1:
        said = str(next(iter(found.values())))
        split = f"one in {splits.HOLDOUT} for testing"
    else:
        said = "; ".join(f"in {shown(f.name)} {x}" for f, x in found.items())
        split = "folders " + " and ".join(shown(roots[p].name) for p in roots)
        split += splits.besides(roots)
    told = {"files": said, "split": split}
    if source.refused:
        told["left out"] = f"{len(source.refused):,} broken: {source.refused[0]}"
    if source.class_names:
        counts = np.bincount([n for n in source.labels if n >= 0], minlength=1)
        counts = np.pad(counts, (0, max(len(source.class_names) - len(counts), 0)))
        told["classes"] = classes.told(source.class_names, counts.tolist())
    return told
