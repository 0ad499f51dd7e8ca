"""A source of a user's own, `package.module.Class`, checked on its first examples.

The class gets config.data and the split. Whatever its code raises is said with its
place there, for it is a mistake that its writer can mend.
"""

import contextlib
import functools
import importlib
import pathlib
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cloudpickle
import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import classes
from mt_diffusion.data.views import digest_of
from mt_diffusion.errors import UserError
from mt_diffusion.files import images as files
from mt_diffusion.files.names import shown

FIELD = "config.data.source"
FIRST = 8  # examples that are looked at before anything starts
CHANNELS = (1, 2, 3, 4)  # of an image; 2 and 4 have alpha


def is_one(name: str) -> bool:
    """Whether a name is that of a class of one's own."""
    return "." in name


def named_code(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, module) of the code that the section `data` of a config names, if any."""
    name = str(data.get("source", ""))
    if is_one(name):
        yield FIELD, name.rpartition(".")[0]


class Own:
    """A class of a user's own, as a source: its images at the size of the config.

    facts: of its classes, where it has `labels`; else these are read from all examples
    when they are asked for.
    """

    def __init__(self, config: ConfigDict, split: str):
        """Imports the class; raises UserError for one that is no source."""
        self._name = f"{FIELD} = {config.source!r}"
        cls = find(config.source)
        with self._explained(f"for the {split} split"):
            self._source = cls(config, split)
            num, found = len(self._source), list(self._source.class_names)
        if num < 1:
            raise UserError(f"{self._name} has no {split} example; it must have one.")
        if not all(isinstance(name, str) for name in found) or repeated(found):
            raise UserError(
                f"{self._name} has the class_names {shown(found)[:200]}; they must be "
                "texts, each another one, or () where there are no classes."
            )
        self.class_names = classes.in_order(found, config)
        self._table = classes.table(found, self.class_names)
        self._num, self.digest = num, str(digest_of(self._source))
        self._shape = (config.image_size, config.image_size, config.channels)
        self._check_alike([self._read(i) for i in range(min(num, FIRST))])
        if config.num_workers:
            self._check_pickled(config.num_workers)
        self.facts = {}
        if self.class_names and hasattr(self._source, "labels"):
            counts = np.bincount([n for n in self.labels if n >= 0], minlength=1)
            counts = np.pad(counts, (0, len(self.class_names) - len(counts)))
            self.facts["classes"] = classes.told(self.class_names, counts.tolist())

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, i: int) -> dict:
        example = self._read(i)
        image = files.resize(example["image"], self._shape)
        return example | {"image": image} | self._label(example)

    @functools.cached_property
    def labels(self) -> list[int]:
        """The class of each example, -1 for none."""
        if not hasattr(self._source, "labels"):
            each = (self._label(self._read(i)) for i in range(len(self)))
            return [label.get(classes.CLASS, -1) for label in each]
        with self._explained("at labels"):
            found = [int(label) for label in self._source.labels]
        most = len(self.class_names) - 1
        if len(found) != len(self) or not all(-1 <= label <= most for label in found):
            raise UserError(
                f"{self._name} has {len(found):,} labels; there must be one for each "
                f"of its {len(self):,} examples, from -1 to {most}."
            )
        return [self._table[n] if n >= 0 else n for n in found]

    def _label(self, example: dict) -> dict:
        """The label alone, by the order of the run's classes."""
        if classes.CLASS not in example:
            return {}
        label = int(example[classes.CLASS])
        return {classes.CLASS: self._table[label] if label >= 0 else -1}

    def _read(self, i: int) -> dict:
        """An example as the class has it, which `wrong` finds nothing wrong with."""
        with self._explained(f"at [{i}]"):
            example = self._source[i]
            problem = wrong(example, len(self._table))
        if problem:
            raise UserError(f"{self._name} at [{i}] {problem}.")
        return dict(example)

    def _check_alike(self, examples: Sequence[dict]) -> None:
        """Raises UserError for arrays beside the image that are not of one shape."""
        first: dict[str, tuple] = {}
        for i, example in enumerate(examples):
            for name in sorted(example.keys() - {"image", classes.CLASS}):
                if isinstance(x := example[name], np.ndarray):
                    kind = first.setdefault(name, (i, x.dtype, x.shape))
                    if kind[1:] != (x.dtype, x.shape):
                        raise UserError(
                            f"{self._name} has {shown(name)} {kind[1]} {kind[2]} at "
                            f"[{kind[0]}], but {x.dtype} {x.shape} at [{i}]; an array "
                            "must have one shape and one type in all examples."
                        )

    def _check_pickled(self, workers: int) -> None:
        """Raises UserError for what can't be handed to another process."""
        try:
            cloudpickle.dumps(self._source)
        except Exception as error:  # whatever an object of a user's class raises
            raise UserError(
                f"{self._name} can't be handed to other processes ({told(error)}), as "
                f"config.data.num_workers = {workers} wants it. Open files and "
                "connections when they are first read, or leave num_workers at 0."
            ) from error

    @contextlib.contextmanager
    def _explained(self, where: str) -> Iterator[None]:
        """Makes of what a user's code raises a UserError that says where it did."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # whatever code that a user wrote raises
            raise UserError(f"{self._name} {where}: {told(error)}.") from error


def find(name: str) -> type:
    """The class `package.module.Class`; UserError where there is none.

    Modules are looked for as Python does, first in the current folder.
    """
    module, _, last = name.rpartition(".")
    remedy = "write package.module.Class, with the module where Python finds it"
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{FIELD} = {shown(repr(name))} names no class: {remedy}.")
    try:
        found = getattr(importlib.import_module(module), last, None)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{FIELD} = {name!r}: there is no module {error.name!r}; {remedy}."
        ) from error
    except Exception as error:  # whatever is wrong with code that a user wrote
        raise UserError(f"{FIELD} = {name!r} can't be imported: {told(error)}.") from (
            error
        )
    needed = ("__len__", "__getitem__")
    if not isinstance(found, type) or not all(hasattr(found, n) for n in needed):
        raise UserError(
            f"{FIELD} = {name!r}: {module} has no class {last} with a length and items "
            "(__len__, __getitem__, class_names)."
        )
    return found


def wrong(example: Any, num_classes: int) -> str:
    """What is wrong with an example; '' for nothing."""
    if not isinstance(example, Mapping) or "image" not in example:
        return f"is {kind(example)}; it must be a dict with an 'image'"
    image = example["image"]
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if not fits or image.ndim != 3 or image.shape[-1] not in CHANNELS or not image.size:
        return f"has as its image {kind(image)}; it must be uint8 [height, width, 1|3]"
    label = example.get(classes.CLASS, -1)
    if not isinstance(label, int | np.integer) or isinstance(label, bool):
        return f"has as its label {kind(label)}; it must be a whole number"
    if not -1 <= label < num_classes:
        known = f"it has {num_classes} class_names, so labels are -1 (none)"
        return f"has the label {label}, but {known} to {num_classes - 1}"
    return ""


def kind(value: Any) -> str:
    """What a value is, in a word or two."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {shown(list(value))[:100]}"
    return f"a {type(value).__name__}"


def repeated(names: Sequence[str]) -> bool:
    """Whether a name is there twice."""
    return len(set(names)) < len(names)


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    return shown((str(error) or type(error).__name__).splitlines()[0][:200].rstrip("."))


def told(error: Exception) -> str:
    """An error, and the last line of a user's file that it came from."""
    places = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    package = str(pathlib.Path(__file__).parents[2])
    theirs = [p for p in places if not p[0].startswith((package, "<frozen"))]
    libraries = tuple(sysconfig.get_paths().values())
    theirs = [p for p in theirs if not p[0].startswith(libraries)] or theirs[:1]
    if isinstance(error, SyntaxError):
        theirs = [(str(error.filename), error.lineno)]
    where = f" ({shown(theirs[-1][0])}, line {theirs[-1][1]})" if theirs else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"
