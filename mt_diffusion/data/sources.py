"""Data sources with random access: source[i] -> {feature: array}.

The feature 'image' is uint8 [H, W, C]; `pairs` adds a second one, 'pair'.

A source is a class that `open_source` finds by its name in the config; it has a length,
an item, and the names of its classes; where it has any, also the `labels` of all
examples, so that these can be counted without their images. It may have `facts`, what
people are told of it, and a `digest` of what it holds. Add one here alone.
"""

import difflib
import functools
import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import (
    changed,
    classes,
    described,
    pairs,
    policy,
    tfds_builder,
    views,
)
from mt_diffusion.data.classes import CLASS
from mt_diffusion.data.folders import Folder
from mt_diffusion.data.splits import holdout
from mt_diffusion.errors import UserError, needs
from mt_diffusion.files import decoding
from mt_diffusion.files import images as files
from mt_diffusion.files.names import shown


class Source(Protocol):
    """Random access to examples."""

    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict: ...


class Digits:
    """scikit-learn's 1,797 real 8x8 digits, part of its wheel."""

    def __init__(self, config: ConfigDict, split: str):
        """Reads no field but the shape of the images."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        found = [str(name) for name in digits.target_names]
        self.class_names = classes.in_order(found, config)
        keep = holdout(len(digits.images), split)
        levels = np.round(digits.images[keep] * (255 / 16)).astype(np.uint8)
        shape = (config.image_size, config.image_size, config.channels)
        self.images = [files.resize(image[..., None], shape) for image in levels]
        self.labels = np.asarray(classes.table(found, self.class_names))[
            digits.target[keep]
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], CLASS: int(self.labels[i])}


class Tfds:
    """Any TFDS data set with images, from array_record files, without TensorFlow.

    `described` has which features are the image and the class. image_features: names
    of all images of 8 bits. why_no_classes: of labels that are no classes, in words.
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
        features = dict(builder.info.features.items())
        self._image = described.image_of(builder)
        self._class, self.why_no_classes = described.class_of(builder)
        found = described.class_names(builder)
        known = self._class is not None
        self.class_names = classes.in_order(found, config) if known else []
        self._table = classes.table(found, self.class_names)
        images = described.images(builder)
        self.image_features = [n for n in images if features[n].np_dtype == np.uint8]
        self.digest = f"{builder.info.full_name} {wanted}"
        self._builder, self._wanted, self._images = builder, wanted, images
        self._shape = (config.image_size, config.image_size, config.channels)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        example = self._read(i)
        pixels = files.to_8_bits(example[self._image])
        found: dict[str, Any] = {"image": files.resize(pixels, self._shape)}
        rest = {n: x for n, x in example.items() if n not in (self._class, CLASS)}
        if self._class is not None:
            found[CLASS] = self._label(int(example[self._class]))
        return rest | found

    def _read(self, i: int) -> dict:
        try:
            return self._source[i]
        except decoding.BROKEN as error:  # a record, or an image in it
            raise UserError(
                f"example {i} of {self.digest} can't be read "
                f"({shown(str(error))[:200]}); prepare the TFDS data set anew."
            ) from error

    def _label(self, label: int) -> int:
        """Of the data's number; -1, of no class, stays."""
        return self._table[label] if 0 <= label < len(self._table) else label

    @property
    def labels(self) -> list[int]:
        """Class of each example, read without decoding the images."""
        tfds = import_tfds()
        skip = {name: tfds.decode.SkipDecoding() for name in self._images}
        undecoded = self._builder.as_data_source(self._wanted, decoders=skip)
        numbers = (undecoded[i][self._class] for i in range(len(undecoded)))
        return [self._label(int(number)) for number in numbers]


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
        return tfds_builder.build(config.name, data_dir)
    except (AssertionError, ValueError) as error:
        raise UserError(f"config.data.name = {config.name!r}: {error}") from error


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


BY_NAME = {"digits": Digits, "tfds": Tfds, "folder": Folder}


def open_source(config: ConfigDict, split: str) -> Source:
    """The 'train' or 'test' part of config.data; UserError for what is not there."""
    if config.source not in BY_NAME:
        raise UserError(
            f"config.data.source is {config.source!r}; choose one of {list(BY_NAME)}."
        )
    policy.check(config)
    pairs.check(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TFDS, about its optional dependencies
        source = BY_NAME[config.source](config, split)
    changed.check(config, split, source)
    labels = functools.partial(read_labels, source)
    refused = getattr(source, "refused", [])
    told = views.captioned(pairs.add(source, config), config, source, split)
    found = views.of(told, config, split, labels)
    return policy.of(found, config, refused)


def read_labels(source: Any) -> np.ndarray:
    """The class of each example, int [N], -1 where there is none."""
    if not source.class_names:
        return np.full(len(source), -1)
    return np.asarray(source.labels)
