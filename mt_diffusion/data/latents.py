"""Latents of a data set that were encoded once, in shards of .npy beside a manifest.

A shard is float16 [n, F, h, w, K]: of n examples, as they are and, where F is 2,
mirrored; K channels of the mean, and as many of the standard deviation where latents
are drawn anew each time. The manifest, latents.json, says of which data, and of which
weights, by their digests. `spaces/encoding.py` writes them.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data.views import View, digest_of
from mt_diffusion.errors import UserError
from mt_diffusion.files import vectors, writing
from mt_diffusion.files.names import shown

MANIFEST = "latents.json"
MOMENTS = ("mean", "sample")
FEATURES = ("image", "pair")  # that an example may have latents of
MEAN, STD, DRAWN = "{}_mean", "{}_std", "{}_latent"  # names of an example's features
WEIGHTS = "latents_of"  # the name of the digest of the weights that made them
# Fields of config.data that make the images what they are.
SHAPING = ("image_size", "channels", "pair", "pair_feature") + (
    "pair_levels",
    "swap_pair",
    "source",
    "options",
)
UNKNOWN = "unknown"  # the digest of weights that are not here
AGAIN = "make them with --mode=precompute, the same --config, and --out=FOLDER"


class Unread(dict):
    """An example whose image is read when it is asked for, for it has latents.

    read: gives the image, uint8 [H, W, C]. is_mirrored: whether it is wanted so.
    """

    def __init__(
        self, told: dict, read: Callable[[], np.ndarray], is_mirrored: bool = False
    ):
        super().__init__(told)
        self._read, self._is_mirrored = read, is_mirrored

    def __missing__(self, name: str) -> np.ndarray:
        if name != "image":
            raise KeyError(name)
        image = self._read()
        self[name] = image[:, ::-1] if self._is_mirrored else image
        return self[name]

    def __or__(self, other: dict) -> "Unread":
        return Unread(super().__or__(other), self._read, self._is_mirrored)

    def mirrored(self) -> "Unread":
        """The same with the image's mirror image."""
        found = Unread(self, self._read, not self._is_mirrored)
        if "image" in found:  # it has been read
            found["image"] = found["image"][:, ::-1]
        return found


class Encoded(View):
    """A source whose examples also have their latents' moments.

    Their images are read where something asks for them: of a JPEG of 800x600 that takes
    a hundred times as long as its latents.
    """

    def __init__(self, source: Any, folder: pathlib.Path, split: str, manifest: dict):
        super().__init__(source)
        self._folder, self._split, self._told = folder, split, manifest

    def __getitem__(self, i: int) -> dict:
        told = getattr(self._source, "told", None)
        if told is None:
            return super().__getitem__(i)
        return Unread(self._of(told(i), i), lambda: self._source[i]["image"])

    def _of(self, example: dict, i: int) -> dict:
        told = self._told
        found: dict[str, Any] = {WEIGHTS: told["weights"]}
        for feature in FEATURES:
            if feature != "image" and feature not in example:
                continue
            shard, row = divmod(i, told["per_shard"])
            path = self._folder / shard_name(self._split, feature, shard)
            moments = np.array(opened(path)[row], np.float32)
            channels = told["latents"][-1]
            found[MEAN.format(feature)] = moments[..., :channels]
            if moments.shape[-1] > channels:
                found[STD.format(feature)] = moments[..., channels:]
        return example | found


class Noise(View):
    """A source with noise for latents, where these are not here."""

    def __init__(self, source: Any, shape: tuple[int, int, int]):
        super().__init__(source)
        self._shape = shape

    def _of(self, example: dict, i: int) -> dict:
        rng = np.random.default_rng(i)
        z = rng.standard_normal((1, *self._shape), np.float32)
        means = {MEAN.format(f): z for f in FEATURES if f in example}
        return example | means | {WEIGHTS: UNKNOWN}


def shard_name(split: str, feature: str, number: int) -> str:
    """The file of a shard."""
    return f"{split}_{feature}_{number:05d}.npy"


def shards(told: dict, split: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of all shards of a split that a manifest tells of."""
    num, size = told["data"][split]["examples"], told["per_shard"]
    if not (type(num) is type(size) is int and num >= 0 and size > 0):
        raise ValueError(f"{num!r} examples, {size!r} of them in a shard")
    height, width, channels = told["latents"]
    channels *= 2 if told["moments"] == "sample" else 1
    shape = told["flips"][split], height, width, channels
    for feature in told["features"][split]:
        for k in range(-(-num // size)):
            yield shard_name(split, feature, k), (min(size, num - k * size), *shape)


@functools.lru_cache(4096)
def opened(path: pathlib.Path) -> np.ndarray:
    """A shard, memory-mapped once in each process."""
    with vectors.explained(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def is_whole(path: pathlib.Path, shape: tuple[int, ...]) -> bool:
    """Whether a shard is there, of that shape and as long as its numbers need."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except vectors.BROKEN:
        return False
    return found.shape == shape and found.dtype == np.float16


def describe(config: ConfigDict, split: str, source: Any) -> dict[str, Any]:
    """What the latents of a split depend on in its data."""
    shaping = json.loads(config.to_json())
    of_pairs = getattr(source, "pair_digest", "")
    return {
        "examples": len(source),
        "digest": digest_of(source),
        **({"pair_digest": of_pairs} if of_pairs else {}),
        **{name: shaping[name] for name in SHAPING},
    }


def attach(source: Any, config: ConfigDict, split: str) -> Any:
    """The source with the latents of the folder config.latents, if it names one.

    Raises UserError for a folder that has none, not all, or those of other data.
    """
    if not config.latents:
        return source
    folder = pathlib.Path(config.latents).expanduser()
    told = read_manifest(folder)
    now = describe(config, split, source)
    before = told["data"][split]
    if others := [name for name, x in now.items() if before.get(name) != x]:
        raise UserError(
            f"config.data.latents = {shown(config.latents)!r} has latents of other "
            f"{split} data: {', '.join(others)} is {[before.get(n) for n in others]} "
            f"there and {[now[n] for n in others]} here. Make others into another "
            f"folder: {AGAIN}."
        )
    if split == "train" and config.random_flip and told["flips"][split] < 2:
        raise UserError(
            f"config.data.latents = {shown(config.latents)!r} has no latents of "
            "mirrored images, and config.data.random_flip trains on these as well; set "
            f"it to false, or {AGAIN}."
        )
    missing = [n for n, shape in shards(told, split) if not is_whole(folder / n, shape)]
    if missing:
        raise UserError(
            f"config.data.latents = {shown(config.latents)!r} is not whole: of its "
            f"{split} shards {len(missing)} are missing or broken, as {missing[0]}. "
            f"The command that makes them goes on where it ended: {AGAIN[5:]}."
        )
    return Encoded(source, folder, split, told)


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a folder of latents; UserError where it has none."""
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
        for split in ("train", "test"):
            next(shards(told, split), None)
        _ = told["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{shown(folder)} is no folder of latents ({writing.reason(error)} in its "
            f"{MANIFEST}); {AGAIN}."
        ) from error
    return told


def drawn(example: dict, is_flipped: bool, rng: np.random.Generator) -> dict:
    """An example with the latents of this time: the mean, or a draw, of one side.

    All that are images see the same ones. Without latents it is the example itself.
    """
    found = {}
    for feature in FEATURES:
        if MEAN.format(feature) in example:
            z = example[MEAN.format(feature)][int(is_flipped)]
            std = example.get(STD.format(feature))
            if std is not None:
                z = z + std[int(is_flipped)] * rng.standard_normal(z.shape, np.float32)
            found[DRAWN.format(feature)] = z
    return example | found


def of(example: dict, feature: str, weights: str) -> np.ndarray:
    """The unscaled latents of an example [h, w, c], of this time, or the mean.

    weights: the digest of those that the model knows. Raises UserError where there are
    none, or others.
    """
    if MEAN.format(feature) not in example:
        raise UserError(
            "a diffusion of latents reads those of its data from a folder, and "
            f"config.data.latents names none: {AGAIN}, then add "
            "--config.data.latents=FOLDER."
        )
    if example[WEIGHTS] != weights:
        raise UserError(
            "the latents of config.data.latents were made by other weights "
            f"({example[WEIGHTS]}) than config.primary.space.autoencoder has "
            f"({weights}): name the autoencoder that made them, or {AGAIN}."
        )
    name = DRAWN.format(feature)
    return example[name] if name in example else example[MEAN.format(feature)][0]
