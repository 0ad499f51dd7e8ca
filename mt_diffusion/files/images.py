"""Image files: finding them, reading them at the size of the diffusion space."""

import concurrent.futures
import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image

from mt_diffusion.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
MODES = {1: "L", 3: "RGB"}


def image_files(path: str) -> list[pathlib.Path]:
    """The image `path`, or all images below the folder `path`, sorted; no hidden ones.

    Raises UserError where there is none.
    """
    root = pathlib.Path(path).expanduser()
    if root.is_file():
        return [root]
    found = sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    )
    if not found:
        what = "no image in the folder" if root.is_dir() else "no file or folder"
        raise UserError(f"there is {what} {path}; images end in {sorted(SUFFIXES)}.")
    return found


def read_image(path: pathlib.Path, shape: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, C] of an image file of any size and mode, cropped as ADM does."""
    image = _open(path)
    return _crop(image.convert(MODES[shape[-1]]), shape)


def read_halves(
    path: pathlib.Path, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right half of an image file, each as of a file of its own."""
    image = _open(path).convert(MODES[shape[-1]])
    width, height = image.width // 2, image.height
    left, right = (
        _crop(image.crop((x, 0, x + width, height)), shape) for x in (0, width)
    )
    return left, right


def read_ids(path: pathlib.Path) -> np.ndarray:
    """uint8 [h, w, 1]: the numbers in an image file of one channel, or of a palette.

    Raises UserError for a file that holds colours.
    """
    with _opened(path) as image:
        image.load()
    if image.mode not in ("1", "L", "P"):
        raise UserError(
            f"{path} holds colours ({image.mode}), not ids of classes; save it with "
            "one channel of 8 bits or with a palette. (Colours are for training with "
            "config.data.pair_levels = 0.)"
        )
    return np.asarray(image, np.uint8)[..., None]


def read_exact(path: pathlib.Path, shape: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, C] of an image file that has this size already, pixel by pixel."""
    return _exact(_open(path), path, shape)


def read_exact_ids(path: pathlib.Path, shape: Sequence[int]) -> np.ndarray:
    """`read_ids` of an image file that has this size already, uint8 [H, W, 1]."""
    ids = read_ids(path)
    _check_size(ids.shape[1], ids.shape[0], path, shape)
    return ids


def read_masked(
    path: pathlib.Path, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, C] and a mask [H, W, 1], 1 where the file is fully opaque.

    Raises UserError for a file of another size, or one in which nothing is hidden.
    """
    image = _open(path)
    pixels = _exact(image, path, shape)
    seen = np.asarray(image.convert("RGBA").getchannel("A"))[..., None] == 255
    if seen.all():
        raise UserError(
            f"{path} has no transparent pixel. A masked image is a PNG whose hidden "
            "pixels are transparent: erase the part to restore, and save with its "
            "alpha channel."
        )
    return pixels, seen.astype(np.float32)


def _exact(
    image: PIL.Image.Image, path: pathlib.Path, shape: Sequence[int]
) -> np.ndarray:
    _check_size(*image.size, path, shape)
    return np.asarray(image.convert(MODES[shape[-1]])).reshape(shape)


def _check_size(
    width: int, height: int, path: pathlib.Path, shape: Sequence[int]
) -> None:
    if (height, width) != tuple(shape[:2]):
        raise UserError(
            f"{path} has {width}x{height} pixels, but this model's images have "
            f"{shape[1]}x{shape[0]}; resize it first, so that its pixels can be kept."
        )


def as_pixels(
    values: Any, shape: Sequence[int], what: str, channels: Sequence[int] = ()
) -> np.ndarray:
    """uint8 [N, H, W, C] of what a program has: arrays, or PIL images, one or several.

    shape: (H, W, C). channels: how many there may be, (C,) where empty. what: of which
    the errors speak. Raises UserError for other types, sizes and dtypes.
    """
    wanted = tuple(channels) or (shape[-1],)
    if isinstance(values, PIL.Image.Image):
        values = [values]
    if isinstance(values, Sequence) and not isinstance(values, str):
        values = np.stack([np.asarray(v) for v in values]) if len(values) else values
    found = np.asarray(values)
    if found.dtype != np.uint8:
        raise UserError(
            f"{what} is an array of {found.dtype}; give uint8, 0 to 255, or PIL images."
        )
    size = tuple(shape[:2])
    if found.shape[-3:-1] != size or found.shape[-1] not in wanted:
        found = found[..., None]  # grey, without an axis for its channel
    found = found[None] if found.ndim == 3 else found
    if found.ndim != 4 or found.shape[1:3] != size or found.shape[3] not in wanted:
        raise UserError(
            f"{what} has the shape {np.shape(values)}; this model takes images "
            f"[{shape[0]}, {shape[1]}, {' or '.join(map(str, wanted))}], or several."
        )
    return found


def resize(pixels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An image array, uint8 [h, w, 1 or 3], at shape [H, W, C]; itself if it fits."""
    if pixels.shape == tuple(shape):
        return pixels
    grey = pixels.shape[-1] == 1
    image = PIL.Image.fromarray(pixels[..., 0] if grey else pixels)
    return _crop(image.convert(MODES[shape[-1]]), shape)


def resize_ids(ids: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Ids of classes, uint8 [h, w, 1], at [H, W, 1]: never mixed, cropped as images."""
    image = PIL.Image.fromarray(ids[..., 0])
    return _fit(image, (*shape[:2], 1), PIL.Image.Resampling.NEAREST)


def _open(path: pathlib.Path) -> PIL.Image.Image:
    with _opened(path) as image:
        image.load()
    if image.mode.startswith("I;16"):  # `convert` would clip these to white
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and image.has_transparency_data:  # it warns of other ways
        return image.convert("RGBA")
    return image


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[PIL.Image.Image]:
    try:
        with PIL.Image.open(path) as image:
            yield image
    except (
        OSError,
        SyntaxError,
        ValueError,
        PIL.Image.DecompressionBombError,
    ) as error:
        raise UserError(
            f"{path} can't be read as an image ({error}); repair or remove it."
        ) from error


def _crop(image: PIL.Image.Image, shape: Sequence[int]) -> np.ndarray:
    """Shrinks by halves, resizes the shorter side to fit, crops the centre (ADM)."""
    height, width, _ = shape
    while min(image.size) >= 2 * min(height, width):
        image = image.resize(
            (image.width // 2, image.height // 2), PIL.Image.Resampling.BOX
        )
    return _fit(image, shape, PIL.Image.Resampling.BICUBIC)


def _fit(
    image: PIL.Image.Image, shape: Sequence[int], resampling: PIL.Image.Resampling
) -> np.ndarray:
    """Resizes the shorter side to fit, crops the centre."""
    height, width, channels = shape
    scale = max(width / image.width, height / image.height)
    if scale != 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, resampling)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def size(path: pathlib.Path) -> tuple[int, int]:
    """(width, height) of an image file, from its header."""
    with _opened(path) as image:
        return image.size


def check(path: pathlib.Path) -> None:
    """Raises UserError where an image file is broken, without decoding all of it."""
    with _opened(path) as image:
        image.verify()


def in_parallel(function: Callable, *paths: Iterable[pathlib.Path]) -> None:
    """Calls a check on all files; the first error is raised."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(function, *paths))
