"""Data sources with random access: source[i] -> {feature: array}.

The feature 'image' is uint8 [H, W, C]; `pairs` adds a second one, 'pair'.

A source is a class that `open_source` finds by its name in the config; it has a length,
an item, and the names of its classes; where it has any, also the `labels` of all
examples, so that these can be counted without their images. Add one here alone.
"""

import difflib
import functools
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import pairs, views
from mt_diffusion.errors import UserError, needs
from mt_diffusion.files import images as files

HOLDOUT = (
    5  # one in so many examples is for testing, where a data set has no test split
)


LOOSE = ""  # in place of a class, for an image that lies in no sub-folder
CLASS = "label"  # the feature that is an example's class, -1 or absent for none


class Source(Protocol):
    """Random access to examples."""

    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict: ...


def holdout(num_examples: int, split: str) -> np.ndarray:
    """Indices of the fixed 'train' or 'test' part of a data set without splits."""
    order = np.random.default_rng(0).permutation(num_examples)
    num_test = num_examples // HOLDOUT
    return np.sort(order[:num_test] if split == "test" else order[num_test:])


class Digits:
    """scikit-learn's 1,797 real 8x8 digits, part of its wheel."""

    def __init__(self, config: ConfigDict, split: str):
        """Reads no field but the shape of the images."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.class_names = [str(name) for name in digits.target_names]
        keep = holdout(len(digits.images), split)
        levels = np.round(digits.images[keep] * (255 / 16)).astype(np.uint8)
        shape = (config.image_size, config.image_size, config.channels)
        self.images = [files.resize(image[..., None], shape) for image in levels]
        self.labels = digits.target[keep]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], "label": int(self.labels[i])}


class Tfds:
    """Any TFDS data set with an 'image', from array_record files, without TensorFlow.

    Its 'label', if there is one, names the classes. image_features: names of all
    images of 8 bits that it has.
    """

    def __init__(self, config: ConfigDict, split: str):
        """Reads name, data_dir, download, train_split and test_split."""
        builder = find_builder(config)
        if not builder.data_path.exists():
            prepare(builder, config)
        wanted = config[f"{split}_split"]
        try:
            self._source = builder.as_data_source(wanted)
        except (NotImplementedError, ValueError) as error:
            raise UserError(
                f"the split {wanted!r} of {builder.data_dir} can't be read: {error} "
                "The data must be in array_record format; config.data.train_split and "
                f"test_split may name {list(builder.info.splits)}."
            ) from error
        labels = [f for n, f in builder.info.features.items() if n == "label"]
        self.class_names = list(getattr(labels[0], "names", [])) if labels else []
        self.image_features = find_images(builder)
        self._builder, self._wanted = builder, wanted
        self._shape = (config.image_size, config.image_size, config.channels)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        example = self._source[i]
        return example | {"image": files.resize(example["image"], self._shape)}

    @property
    def labels(self) -> list[int]:
        """Class of each example, read without decoding the images."""
        tfds = import_tfds()
        skip = {name: tfds.decode.SkipDecoding() for name in self.image_features}
        undecoded = self._builder.as_data_source(self._wanted, decoders=skip)
        return [int(undecoded[i]["label"]) for i in range(len(undecoded))]


def import_tfds() -> Any:
    """TFDS, which no other source needs. Raises UserError where it is not installed."""
    with needs("data", "config.data.source = 'tfds'"):
        import tensorflow_datasets as tfds
    return tfds


def find_builder(config: ConfigDict) -> Any:
    """TFDS's builder of config.name. Raises UserError for a name it does not know."""
    tfds = import_tfds()
    data_dir = tfds.core.Path(config.data_dir or tfds.core.constants.DATA_DIR)
    known = tfds.list_builders(with_community_datasets=False)
    name = re.split("[/:]", config.name)[0]  # without its variant and version
    if name not in known and not (name and (data_dir / name).is_dir()):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise UserError(
            f"config.data.name = {config.name!r} is no TFDS data set and no folder in "
            f"{data_dir}; the nearest is {near[0]!r}."
        )
    try:
        return tfds.builder(config.name, data_dir=data_dir)
    except (AssertionError, ValueError) as error:
        raise UserError(f"config.data.name = {config.name!r}: {error}") from error


def find_images(builder: Any) -> list[str]:
    """Names of the features that are images of 8 bits."""
    tfds = import_tfds()
    return sorted(
        name
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
    )


def prepare(builder: Any, config: ConfigDict) -> None:
    """Downloads a TFDS data set, if the config allows; this alone needs TensorFlow."""
    if not config.download:
        raise UserError(
            f"the TFDS data set {config.name!r} is not at {builder.data_dir}. Point "
            "--config.data.data_dir to a folder that has it (array_record format), or "
            "let it be downloaded with --config.data.download=true."
        )
    with needs("prepare", "config.data.download = true"):
        import tensorflow  # noqa: F401 # before TFDS has downloaded everything
    builder.download_and_prepare(file_format="array_record")


class Folder:
    """A folder of images with one sub-folder per class, of any size, RGB or grey.

    Below `train` and `test` (or `val`) where the folder has these, else split by a
    fixed draw. Pairs of images need no classes: label -1 is that of loose images.
    """

    def __init__(self, config: ConfigDict, split: str):
        """Reads path. Raises UserError for a folder without images, or a broken one."""
        root = pathlib.Path(config.path).expanduser()
        if not config.path or not root.is_dir():
            raise UserError(f"config.data.path = {config.path!r} is no folder.")
        roots = split_folders(root) or {"train": root, "test": root}
        find = loose_or_by_class if config.pair else images_by_class
        found = {part: find(folder) for part, folder in roots.items()}
        # Of both splits, so that a label means the same in each.
        names = {name for part in found.values() for _, name in part}
        self.class_names = sorted(names - {LOOSE})
        examples = found[split]
        if roots["train"] == roots["test"]:
            examples = [examples[i] for i in holdout(len(examples), split)]
        if not examples:
            raise UserError(
                f"{root} has too few images to hold out one in {HOLDOUT} for testing; "
                f"use {HOLDOUT} or more."
            )
        label = {LOOSE: -1} | {name: i for i, name in enumerate(self.class_names)}
        self.paths = [path for path, _ in examples]
        self.labels = [label[name] for _, name in examples]
        self._shape = (config.image_size, config.image_size, config.channels)
        files.in_parallel(files.check, self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict:
        image = files.read_image(self.paths[i], self._shape)
        return {"image": image, "label": self.labels[i]}


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path] | None:
    """The splits that a folder has as sub-folders; None for one without `train`."""
    if not (root / "train").is_dir():
        return None
    for name in ("test", "val", "validation"):
        if (root / name).is_dir():
            return {"train": root / "train", "test": root / name}
    raise UserError(
        f"{root} has a folder train, but none named test or val; add one, or point "
        "--config.data.path to the folder that holds the classes."
    )


def images_by_class(root: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """(file, name of its class) of all images in the sub-folders of `root`."""
    found = loose_or_by_class(root)
    for path, name in found:
        if name == LOOSE:
            raise UserError(
                f"{path} lies directly in {root}; put the images of each class into a "
                "sub-folder of their own (a single one, if there are no classes)."
            )
    return found


def loose_or_by_class(root: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """(file, name of its class) of all images below `root`; LOOSE for those in it."""
    return [
        (path, LOOSE if path.parent == root else path.relative_to(root).parts[0])
        for path in files.image_files(str(root))
    ]


BY_NAME = {"digits": Digits, "tfds": Tfds, "folder": Folder}


def open_source(config: ConfigDict, split: str) -> Source:
    """The 'train' or 'test' part of config.data; UserError for what is not there."""
    if config.source not in BY_NAME:
        raise UserError(
            f"config.data.source is {config.source!r}; choose one of {list(BY_NAME)}."
        )
    pairs.check(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TFDS, about its optional dependencies
        source: Any = BY_NAME[config.source](config, split)
    labels = functools.partial(read_labels, source)
    return views.of(pairs.add(source, config), config, split, labels)


def read_labels(source: Any) -> np.ndarray:
    """The class of each example, int [N], -1 where there is none."""
    if not source.class_names:
        return np.full(len(source), -1)
    return np.asarray(source.labels)
