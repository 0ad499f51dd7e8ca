"""Examples that are listed before they are read: the files of a folder, parts of tars.

What all such kinds have alike: which examples are for testing, classes by name, headers
that are looked at when it is opened, and what stands for all of it in a run's config.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import classes, policy, splits
from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding, digests
from mt_diffusion.files import images as files
from mt_diffusion.files.names import natural, same
from mt_diffusion.files.within.parts import Stored

LOOSE = ""  # in place of a class, for an example that has none


class Example(NamedTuple):
    """An image that is yet to be read.

    path: a file, or a part of one. name: of its class. place: what it is called within
    its data set. below: that without its class, by which data are split. beside: what
    else its source knows of it.
    """

    path: Stored
    name: str
    place: pathlib.PurePath
    below: str
    beside: Any = None


class Listed:
    """A source of listed examples, of images of any size, RGB or grey.

    Label -1 is that of loose ones. facts: what was found, for people. refused: errors
    of images that config.broken leaves out.
    """

    def __init__(
        self,
        config: ConfigDict,
        split: str,
        parts: Mapping[str, Sequence[Example]],
        class_names: Sequence[str],
        told: Mapping[str, str],
        held_out: Callable[[Sequence[Any], str], Sequence[int]] = splits.held_out,
    ):
        """Reads class_names, found and broken.

        parts: of each split; one and the same where it is yet to be split, which is
        what `held_out` does. class_names: of both, so that a label means the same in
        each. told: what people are told first. Raises UserError for images that are
        broken, or too few.
        """
        self.class_names = classes.in_order(class_names, config)
        examples = parts[split]
        if parts["train"] is parts["test"]:
            examples = [examples[i] for i in held_out(examples, split)]
        if not examples:
            raise UserError(
                f"{told['of']} has too few images to hold out one in {splits.HOLDOUT} "
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
        self.beside = [e.beside for e in kept]
        self.facts = {name: text for name, text in told.items() if name != "of"}
        self.facts |= facts(self)
        self._shape = (config.image_size, config.image_size, config.channels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict:
        return self.told(i) | {"image": files.read_image(self.paths[i], self._shape)}

    def told(self, i: int) -> dict:
        """An example but for its image, which is not read."""
        return self.others(i) | {classes.CLASS: self.labels[i]}

    def others(self, i: int) -> dict[str, Any]:
        """What else an example has, beside its image and its class."""
        return {}

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for the names and sizes of all images.

        And for their order; not for where the data lie.
        """
        names = (same(place.as_posix()) for place in self.places)
        return digests.of_listing(zip(names, self.paths, strict=True))


def found_classes(parts: Mapping[str, Sequence[Example]]) -> list[str]:
    """The classes that any example of the parts has, in natural order."""
    return sorted(
        {e.name for part in parts.values() for e in part if e.name}, key=natural
    )


def all_of(refused: Sequence[UserError], num: int) -> UserError:
    """The first of some images' errors, with how many there are."""
    more = f" So it is with {len(refused):,} of {num:,} files."
    more += f" --config.data.broken={policy.SKIP} goes on without them."
    return UserError(f"{refused[0]}{more}")


def facts(source: Listed) -> dict[str, str]:
    """What was left out, and which classes there are, in words."""
    told = {}
    if source.refused:
        told["left out"] = f"{len(source.refused):,} broken: {source.refused[0]}"
    if source.class_names:
        counts = np.bincount([n for n in source.labels if n >= 0], minlength=1)
        counts = np.pad(counts, (0, max(len(source.class_names) - len(counts), 0)))
        told["classes"] = classes.told(source.class_names, counts.tolist())
    return told
