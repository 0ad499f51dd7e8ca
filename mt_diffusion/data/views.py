"""Views of a source: vectors attached to its examples, features kept in only a share.

A view is a source itself. `of` puts on a source what its config asks for.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data.prepared import maker
from mt_diffusion.errors import UserError
from mt_diffusion.files import captions, vectors
from mt_diffusion.files.names import same, shown

SPLITS = ("train", "test")
OF_SPLIT = "{split}_digest"  # in a file of vectors: of the examples they are of
FEATURE = "vector"  # the name under which examples have their vectors
CAPTIONS = "captions"
CAPTION = "caption"  # the same of their captions: a list, perhaps empty
OF_CLASSES = "classes"  # of config.captions: the names of classes


class View:
    """A source whose examples are in some way others; what it says of itself is not.

    `_of` makes them.
    """

    def __init__(self, source: Any):
        self.class_names: Sequence[str] = source.class_names
        self.facts: Mapping[str, str] = getattr(source, "facts", {})
        self.why_no_classes: str = getattr(source, "why_no_classes", "")
        # Of every example, so that they can be read without its image.
        self.captions: Sequence[Sequence[str]] | None = getattr(source, CAPTIONS, None)
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        return self._of(self._source[i], i)

    def _of(self, example: dict, i: int) -> dict:
        """The i-th example, from the source's."""
        raise NotImplementedError

    @property
    def told(self) -> Callable[[int], dict] | None:
        """From i to the example but for its image, which is not read.

        None where the source has none without.
        """
        below = getattr(self._source, "told", None)
        return below and (lambda i: self._of(below(i), i))

    @property
    def digest(self) -> str:
        """Of the source."""
        return digest_of(self._source)

    @property
    def pair_digest(self) -> str:
        """Of the second images, where these are files of their own; '' for others."""
        return getattr(self._source, "pair_digest", "")


class Attached(View):
    """A source whose i-th example also has the i-th vector, float32 [D]."""

    def __init__(self, source: Any, found: np.ndarray):
        """found: float [N, D], perhaps memory-mapped."""
        super().__init__(source)
        self._vectors = found

    def _of(self, example: dict, i: int) -> dict:
        return example | {FEATURE: np.array(self._vectors[i], np.float32)}


class Captioned(View):
    """A source whose i-th example also has the i-th captions, a list of texts."""

    def __init__(self, source: Any, found: Sequence[Sequence[str]]):
        super().__init__(source)
        self.captions = self._found = found
        num = sum(map(bool, found))
        self.facts = {**self.facts, CAPTIONS: f"of {num:,} of {len(found):,} examples"}

    def _of(self, example: dict, i: int) -> dict:
        return example | {CAPTION: list(self._found[i])}


class Thinned(View):
    """A source in which only the examples `kept`, bool [N], have a feature."""

    def __init__(self, source: Any, feature: str, kept: np.ndarray):
        super().__init__(source)
        self._feature = feature
        self._kept = kept

    def _of(self, example: dict, i: int) -> dict:
        if self._kept[i]:
            return example
        return {name: x for name, x in example.items() if name != self._feature}


def of(
    source: Any, config: ConfigDict, split: str, labels: Callable[[], np.ndarray]
) -> Any:
    """The source under the views of config.vectors and config.keep.

    labels: gives the class of each example, int [N]; called only where it is needed.
    Raises UserError for a file that does not fit the split, vectors beside images that
    are flipped, and shares that are none.
    """
    if config.vectors:
        check_no_flip(config)
        found = load(config.vectors, split, len(source), digest_of(source))
        source = Attached(source, found)
    for feature, share in config.keep.items():
        check_share(feature, share, source)
        if share < 1 and split == "train":
            kept = spread(labels(), round(share * len(source)))
            source = Thinned(source, feature, kept)
    return source


def captioned(source: Any, config: ConfigDict, below: Any, split: str) -> Any:
    """The source with the captions that config.captions names, if any.

    below: the source without second images, which has the paths of its files, or the
    labels of its classes. Raises UserError for a table of which no file is for
    training.
    """
    if not config.captions:
        return source
    if config.captions == OF_CLASSES:
        words = [name.replace("_", " ") for name in below.class_names]
        labels = below.labels if words else [-1] * len(below)
        return Captioned(source, [words[i : i + 1] if i >= 0 else [] for i in labels])
    path = pathlib.Path(config.captions).expanduser()
    if not path.exists():
        raise UserError(
            f"config.data.captions = {shown(repr(config.captions))} is no file."
            f"{maker.said(config)}"
        )
    found = captions.table(path)
    if not hasattr(below, "places"):
        raise UserError(
            f"config.data.captions = {shown(config.captions)!r} names files, and the "
            f"data source {config.source!r} has none; use a folder, or "
            f"{OF_CLASSES!r} for the names of classes."
        )
    root = pathlib.Path(config.path).expanduser()
    of_all = [
        next((found[name] for name in names_of(root, *both) if name in found), [])
        for both in zip(below.paths, below.places, strict=True)
    ]
    if split == SPLITS[0] and not any(of_all):
        raise UserError(
            f"config.data.captions = {shown(config.captions)!r} has captions of "
            f"{len(found):,} files, as {shown(next(iter(found), ''))!r}, and of none "
            f"of the {len(of_all):,} in {shown(root)}, as "
            f"{shown(below.places[0].name)}. Write the names of files, or their paths "
            "below that folder."
        )
    return Captioned(source, of_all)


def names_of(root: pathlib.Path, path: Any, place: pathlib.PurePath) -> list[str]:
    """What a table may call a file: its path below root, below its split, its name.

    path: of a file, or what is read as one, as the member of a tar.
    """
    if isinstance(path, pathlib.Path):
        below = [path.relative_to(root), place, pathlib.PurePath(path.name)]
    else:  # its container stands first in its place
        inside = pathlib.PurePath(*place.parts[1:])
        below = [place, inside, pathlib.PurePath(place.name)]
    return [same(name.with_suffix("").as_posix()) for name in below]


def digest_of(source: Any) -> str:
    """What stands for a source's examples, and for their order; '' for unknown."""
    return getattr(source, "digest", "")


def load(path: str, split: str, num_examples: int, digest: str = "") -> np.ndarray:
    """Vectors [N, D] of a split, from an .npz of both or one .npy for each.

    digest: of the examples, which one that the file carries must equal.
    """
    if not path.endswith(".npz") and "{split}" not in path:
        raise UserError(
            f"config.data.vectors = {path!r} must end in .npz, or name one .npy for "
            "each split, as vectors_{split}.npy."
        )
    paths = {s: pathlib.Path(path.replace("{split}", s)).expanduser() for s in SPLITS}
    shapes = {s: vectors.shape(paths[s], s) for s in SPLITS}
    if len(set(paths.values())) == 1:
        vectors.check_names(paths[split], SPLITS)
    sizes = {s: size for s, (_, size) in shapes.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(
            f"config.data.vectors = {path!r}: the vectors of both splits must have the "
            f"same length D, but have {sizes}."
        )
    if (num := shapes[split][0]) != num_examples:
        raise UserError(
            f"config.data.vectors = {path!r} has {num:,} vectors for the {split}"
            f" split, which has {num_examples:,} examples; there must be one for each, "
            "in the same order."
        )
    of = vectors.text(paths[split], OF_SPLIT.format(split=split))
    if of and digest and of != digest:
        raise UserError(
            f"config.data.vectors = {path!r} was made of other {split} examples, or in "
            "another order: make it anew (--mode=precompute)."
        )
    found = vectors.read(paths[split], split)
    vectors.check_finite(found, paths[split])
    return found


def check_no_flip(config: ConfigDict) -> None:
    """Raises UserError where images are flipped, for their vectors can't follow."""
    if config.random_flip:
        raise UserError(
            f"config.data.vectors = {config.vectors!r} has a vector of each image as "
            "it is, but config.data.random_flip trains on mirror images as well; set "
            "--config.data.random_flip=false."
        )


def check_share(feature: str, share: float, source: Any) -> None:
    """Raises UserError for a share outside 0..1, or of what can't be missing."""
    name = f"config.data.keep.{feature}"
    if not 0 <= share <= 1:
        raise UserError(f"{name} is {share}; it is a share of the examples, 0 to 1.")
    if share < 1 and (feature == "image" or feature not in source[0]):
        there = sorted(set(source[0]) - {"image"})
        raise UserError(
            f"{name} is {share}, but the features that the data set has, and that may "
            f"be missing, are {there}."
        )


def spread(labels: np.ndarray, num: int) -> np.ndarray:
    """Which examples are kept: exactly `num`, drawn evenly from each class. bool [N].

    Always the same ones, and those of a smaller share are among those of a larger. A
    class has its first example kept before another has its second of two.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    place = np.zeros(len(labels))  # of an example among those of its class, in 0..1
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = np.arange(len(members)) / len(members)
    first = order[np.argsort(place[order], kind="stable")[:num]]
    return np.isin(np.arange(len(labels)), first)
