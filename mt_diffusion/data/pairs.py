"""Second images: source[i] gets a feature 'pair', uint8 [H, W, C] as 'image' is.

`config.data.pair` says how it is had: from the other half of each file, from a second
folder, from a second feature of a TFDS data set, or computed from the image.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from ml_collections import ConfigDict
from scipy import ndimage

from mt_diffusion.data import classes, policy
from mt_diffusion.data.prepared import maker
from mt_diffusion.data.views import View
from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding, digests, finding
from mt_diffusion.files import images as files
from mt_diffusion.files.names import natural, same, shown, some


class Paired(View):
    """A source whose examples have a 'pair'; labels and classes stay as they are."""

    told = None

    def __init__(self, source: Any, config: ConfigDict):
        super().__init__(source)
        self._shape = (config.image_size, config.image_size, config.channels)


class LeftRight(Paired):
    """Files with the image on the left, its pair on the right (pix2pix)."""

    def __init__(self, source: Any, config: ConfigDict):
        """Raises UserError for a file that has no two equal halves."""
        super().__init__(source, config)
        if config.broken == policy.STOP:
            files.in_parallel(check_halves, source.paths)

    def __getitem__(self, i: int) -> dict:
        left, right = files.read_halves(self._source.paths[i], self._shape)
        own = {"image": left, "pair": right, classes.CLASS: self._source.labels[i]}
        return self._source.others(i) | own


class Folders(Paired):
    """Two folders, config.path and pair_path, with the same names below them."""

    def __init__(self, source: Any, config: ConfigDict):
        """Raises UserError for files without a counterpart, broken or of other form."""
        super().__init__(source, config)
        first, second = (
            pathlib.Path(path).expanduser() for path in (config.path, config.pair_path)
        )
        if not config.pair_path or not second.is_dir():
            raise UserError(
                f"config.data.pair_path = {shown(repr(config.pair_path))} is no folder."
                f"{maker.said(config)}"
            )
        counterparts = match(first, second)
        self._paths = [counterparts[path] for path in source.paths]
        self._below = second
        self._levels = config.pair_levels
        if config.broken == policy.STOP:
            files.in_parallel(check_form, source.paths, self._paths)
        if self._levels and config.broken == policy.STOP:
            check = functools.partial(check_mask, levels=self._levels)
            files.in_parallel(check, self._paths)

    @functools.cached_property
    def pair_digest(self) -> str:
        """Of the names and sizes of the second images."""
        names = (same(path.relative_to(self._below).as_posix()) for path in self._paths)
        return digests.of_listing(zip(names, self._paths, strict=True))

    def __getitem__(self, i: int) -> dict:
        path = self._paths[i]
        if self._levels:
            pair = spread(files.read_ids(path), self._levels, self._shape)
        else:
            pair = files.read_image(path, self._shape)
        return self._source[i] | {"pair": pair}


class Feature(Paired):
    """A TFDS data set with a second image, config.pair_feature."""

    def __init__(self, source: Any, config: ConfigDict):
        """Raises UserError for a feature that is no image."""
        super().__init__(source, config)
        self._name, self._levels = config.pair_feature, config.pair_levels
        if self._name not in source.image_features:
            raise UserError(
                f"config.data.pair_feature = {self._name!r} is no image of 8 bits in "
                f"the TFDS data set {config.name!r}; it has {source.image_features}."
            )

    def __getitem__(self, i: int) -> dict:
        example = self._source[i]
        pixels = example[self._name]
        if self._levels:
            pair = spread(pixels, self._levels, self._shape)
        else:
            pair = files.resize(pixels, self._shape)
        return example | {"pair": pair}


class Transformed(Paired):
    """Any source; the pair is computed from the image, by `TRANSFORMS`."""

    def __init__(self, source: Any, config: ConfigDict):
        super().__init__(source, config)
        self._transform = TRANSFORMS[config.pair]

    def __getitem__(self, i: int) -> dict:
        example = self._source[i]
        return example | {"pair": self._transform(example["image"])}


class Swapped(Paired):
    """The image is the pair, and the pair is the image."""

    def __getitem__(self, i: int) -> dict:
        example = self._source[i]
        return example | {"image": example["pair"], "pair": example["image"]}


def grey(image: np.ndarray) -> np.ndarray:
    """Luminance (ITU-R 601) in all C channels of uint8 [H, W, C]."""
    return files.resize(files.resize(image, (*image.shape[:2], 1)), image.shape)


def edges(image: np.ndarray) -> np.ndarray:
    """Sobel's gradient of the luminance in all channels of uint8 [H, W, C].

    A straight edge between black and white gives 255, the most that there is.
    """
    values = grey(image)[..., 0].astype(np.float64)
    gradient = [ndimage.sobel(values, axis, mode="nearest") / 4 for axis in (0, 1)]
    magnitude = np.clip(np.round(np.hypot(*gradient)), 0, 255).astype(np.uint8)
    return files.resize(magnitude[..., None], image.shape)


def half(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] at half its resolution: means of 2x2, each as four pixels."""
    height, width, channels = image.shape
    small = PIL.Image.fromarray(image[..., 0] if channels == 1 else image).reduce(2)
    large = np.asarray(small).repeat(2, axis=0).repeat(2, axis=1)
    return large[:height, :width].reshape(image.shape)


TRANSFORMS = {"edges": edges, "grey": grey, "half": half}
BY_NAME = {"left_right": LeftRight, "folders": Folders, "feature": Feature}
BY_NAME |= dict.fromkeys(TRANSFORMS, Transformed)
# What a way needs of config.data.source, and by which ways a field is read.
SOURCE_OF: dict[str, tuple[str, ...]]
SOURCE_OF = {"left_right": ("folder", "tar", "hf")}
SOURCE_OF |= {"folders": ("folder",), "feature": ("tfds",)}
READ_BY = {
    "pair_path": ["folders"],
    "pair_feature": ["feature"],
    "pair_levels": ["folders", "feature"],
    "swap_pair": list(BY_NAME),
}


def check(config: ConfigDict) -> None:
    """Raises UserError for fields of config.data about pairs that don't go together."""
    kind = config.pair
    if kind and kind not in BY_NAME:
        raise UserError(
            f"config.data.pair is {kind!r}; choose one of {list(BY_NAME)}, or '' for "
            "images without a second one."
        )
    if config.source not in (needed := SOURCE_OF.get(kind, (config.source,))):
        raise UserError(
            f"config.data.pair = {kind!r} needs config.data.source = "
            f"{' or '.join(map(repr, needed))}, but "
            f"that is {config.source!r}; {list(TRANSFORMS)} work with any source."
        )
    for field, kinds in READ_BY.items():
        if config[field] and kind not in kinds:
            raise UserError(
                f"config.data.{field} = {config[field]!r} is not read where "
                f"config.data.pair is {kind!r}, only with one of {kinds}."
            )
    if config.pair_levels and not 2 <= config.pair_levels <= 256:
        raise UserError(
            f"config.data.pair_levels is {config.pair_levels}; give the number of ids "
            "in a mask, 2 to 256, or 0 for pixels as they are."
        )
    if config.pair_levels and config.swap_pair:
        raise UserError(
            f"config.data.pair_levels = {config.pair_levels} makes a mask the second "
            "image, and swap_pair would make it the first, of which ids are not read; "
            "leave out one of them."
        )


def add(source: Any, config: ConfigDict) -> Any:
    """The source with the second images that config.pair describes, if any.

    Raises UserError for files that make no pairs.
    """
    if not config.pair:
        return source
    paired = BY_NAME[config.pair](source, config)
    return Swapped(paired, config) if config.swap_pair else paired


def spread(ids: np.ndarray, levels: int, shape: Sequence[int]) -> np.ndarray:
    """Ids 0..levels - 1, uint8 [h, w, 1], as grey levels evenly over 0..255 [H, W, C].

    Never mixes ids: resized to the nearest pixel. Raises UserError for other ids.
    """
    check_ids(ids, levels, "one of the data set")
    table = np.round(np.linspace(0, 255, levels)).astype(np.uint8)
    return np.repeat(table[files.resize_ids(ids, shape)], shape[-1], axis=-1)


def check_ids(ids: np.ndarray, levels: int, name: str) -> None:
    """Raises UserError where a mask, uint8 [h, w, C], has no ids 0..levels - 1."""
    if ids.shape[-1] == 1 and ids.max() < levels:
        return
    has = f"the id {ids.max()}" if ids.shape[-1] == 1 else "colours"
    void = " (often the mark of pixels without a class: give these an id of their own)"
    raise UserError(
        f"config.data.pair_levels = {levels} is for masks of ids from 0 to "
        f"{levels - 1}, but {shown(name)} has {has}"
        f"{void if has.endswith(' 255') else ''}; raise it to the number of ids, or "
        "set 0 for pixels as they are."
    )


def check_mask(path: pathlib.Path, levels: int) -> None:
    """Raises UserError for a file that is no mask of ids 0..levels - 1."""
    check_ids(files.read_ids(path), levels, str(path))


def match(first: pathlib.Path, second: pathlib.Path) -> dict:
    """{image file below `first`: that of the same relative stem below `second`}."""
    ours, theirs = by_stem(first), by_stem(second)
    for alone, root, other in (
        (ours.keys() - theirs.keys(), first, second),
        (theirs.keys() - ours.keys(), second, first),
    ):
        if alone:
            names = some(sorted(alone, key=natural))
            raise UserError(
                f"{len(alone)} images in {shown(root)} have no counterpart in "
                f"{shown(other)}: "
                f"{names}. Give both the same name, up to their suffix, below "
                "config.data.path and pair_path, or remove them."
            )
    return {path: theirs[stem] for stem, path in ours.items()}


def by_stem(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """{relative path without suffix: image file}; UserError for two of one stem."""
    found: dict[str, pathlib.Path] = {}
    for path in finding.image_files(str(root)):
        stem = str(path.relative_to(root).with_suffix(""))
        if stem in found:
            raise UserError(
                f"{shown(found[stem])} and {shown(path)} differ in their suffix alone, "
                "so it is not clear which belongs to a pair; remove one."
            )
        found[stem] = path
    return found


def check_halves(path: pathlib.Path) -> None:
    """Raises UserError for a file that can't be cut into a left and a right half."""
    width, height = decoding.size(path)
    if width % 2:
        raise UserError(
            f"{shown(path)} has {width}x{height} pixels; an image and its pair side by "
            "side have an even width. Remove it, or choose another config.data.pair."
        )


def check_form(first: pathlib.Path, second: pathlib.Path) -> None:
    """Raises UserError where `second` is broken, or its sides relate otherwise."""
    decoding.check(second)
    (w, h), (other_w, other_h) = decoding.size(first), decoding.size(second)
    if abs(w * other_h - other_w * h) > max(w + h, other_w + other_h):  # about a pixel
        raise UserError(
            f"{shown(first)} has {w}x{h} pixels and its pair {shown(second)} "
            f"{other_w}x{other_h}; "
            "these have another ratio of sides, so that no pixel would meet its "
            "counterpart. Crop them alike."
        )
