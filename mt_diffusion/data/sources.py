"""Data sources with random access: source[i] -> {feature: array}.

The feature 'image' is uint8 [H, W, C].

A source is a class that `open_source` finds by its name in the config; it has a length,
an item, and the names of its classes. Add one here and nowhere else.
"""

import concurrent.futures
import difflib
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import files
from mt_diffusion.errors import UserError

HOLDOUT = (
    5  # one in so many examples is for testing, where a data set has no test split
)


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

    Its 'label', if there is one, names the classes.
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
        self._shape = (config.image_size, config.image_size, config.channels)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict:
        example = self._source[i]
        return example | {"image": files.resize(example["image"], self._shape)}


def find_builder(config: ConfigDict) -> Any:
    """TFDS's builder of config.name. Raises UserError for a name it does not know."""
    import tensorflow_datasets as tfds

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


def prepare(builder: Any, config: ConfigDict) -> None:
    """Downloads a TFDS data set, if the config allows; this alone needs TensorFlow."""
    if not config.download:
        raise UserError(
            f"the TFDS data set {config.name!r} is not at {builder.data_dir}. Point "
            "--config.data.data_dir to a folder that has it (array_record format), or "
            "let it be downloaded with --config.data.download=true."
        )
    builder.download_and_prepare(file_format="array_record")


class Folder:
    """A folder of images with one sub-folder per class, of any size, RGB or grey.

    Below `train` and `test` (or `val`) where the folder has these, else split by a
    fixed draw.
    """

    def __init__(self, config: ConfigDict, split: str):
        """Reads path. Raises UserError for a folder without images, or a broken one."""
        root = pathlib.Path(config.path).expanduser()
        if not config.path or not root.is_dir():
            raise UserError(f"config.data.path = {config.path!r} is no folder.")
        roots = split_folders(root) or {"train": root, "test": root}
        found = {part: images_by_class(folder) for part, folder in roots.items()}
        # Of both splits, so that a label means the same in each.
        self.class_names = sorted({name for part in found.values() for _, name in part})
        self._examples = found[split]
        if roots["train"] == roots["test"]:
            kept = holdout(len(self._examples), split)
            self._examples = [self._examples[i] for i in kept]
        if not self._examples:
            raise UserError(
                f"{root} has too few images to hold out one in {HOLDOUT} for testing; "
                f"use {HOLDOUT} or more."
            )
        self._shape = (config.image_size, config.image_size, config.channels)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(files.check, [path for path, _ in self._examples]))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, i: int) -> dict:
        path, name = self._examples[i]
        label = self.class_names.index(name)
        return {"image": files.read_image(path, self._shape), "label": label}


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
    paths = files.image_files(str(root))
    for path in paths:
        if path.parent == root:
            raise UserError(
                f"{path} lies directly in {root}; put the images of each class into a "
                "sub-folder of their own (a single one, if there are no classes)."
            )
    return [(path, path.relative_to(root).parts[0]) for path in paths]


BY_NAME = {"digits": Digits, "tfds": Tfds, "folder": Folder}


def open_source(config: ConfigDict, split: str) -> Source:
    """The 'train' or 'test' part of config.data; UserError for what is not there."""
    if config.source not in BY_NAME:
        raise UserError(
            f"config.data.source is {config.source!r}; choose one of {list(BY_NAME)}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TFDS, about its optional dependencies
        return BY_NAME[config.source](config, split)
