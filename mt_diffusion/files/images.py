"""Image files at the size of the diffusion space, and arrays and pictures as them."""

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image

from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding
from mt_diffusion.files.names import shown
from mt_diffusion.files.within.parts import Stored

MODES = {1: "L", 3: "RGB"}
WITH_ALPHA = {2: "LA", 4: "RGBA"}


def read_image(path: Stored, shape: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, C] of an image file of any size and mode, cropped as ADM does.

    Upright; what is transparent is seen on white.
    """
    return _crop(_flat(path, shape), shape)


def read_halves(path: Stored, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right half of an image file, each as of a file of its own."""
    image = _flat(path, shape)
    width, height = image.width // 2, image.height
    left, right = (
        _crop(image.crop((x, 0, x + width, height)), shape) for x in (0, width)
    )
    return left, right


def read_ids(path: Stored) -> np.ndarray:
    """uint8 [h, w, 1]: the numbers in an image file of one channel, or of a palette.

    Raises UserError for a file that holds colours, or ids above 255.
    """
    ids = decoding.ids(path)
    if ids.max() > 255:
        raise UserError(
            f"{shown(path)} has the id {ids.max()}; ids of classes are 0 to 255. "
            "Number its classes anew."
        )
    return ids.astype(np.uint8)[..., None]


def read_exact(path: Stored, shape: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, C] of an image file that has this size already, pixel by pixel."""
    check_size(path, shape)
    return np.asarray(_flat(path, shape)).reshape(shape)


def read_exact_ids(path: Stored, shape: Sequence[int]) -> np.ndarray:
    """`read_ids` of an image file that has this size already, uint8 [H, W, 1]."""
    check_size(path, shape)
    return read_ids(path)


def read_masked(path: Stored, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, C] and a mask [H, W, 1], 1 where the file is fully opaque.

    Raises UserError for a file of another size, or one in which nothing is hidden.
    """
    check_size(path, shape)
    image = decoding.picture(path)
    pixels = np.asarray(image.convert(MODES[shape[-1]])).reshape(shape)
    seen = np.asarray(image.convert("RGBA").getchannel("A"))[..., None] == 255
    if seen.all():
        raise UserError(
            f"{shown(path)} has no transparent pixel. A masked image is a PNG whose "
            "hidden pixels are transparent: erase the part to restore, and save with "
            "its alpha channel."
        )
    return pixels, seen.astype(np.float32)


def check_size(path: Stored, shape: Sequence[int]) -> None:
    """Raises UserError for a file whose header says another size than [H, W, C]."""
    width, height = decoding.size(path)
    if (height, width) != tuple(shape[:2]):
        raise UserError(
            f"{shown(path)} has {width}x{height} pixels, but this model's images have "
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
        values = [_of_picture(v, wanted[-1], what) for v in values]
        if len({v.shape for v in values}) > 1:
            shapes = sorted({v.shape for v in values})
            raise UserError(f"{what} has images of several shapes, {shapes}; give one.")
        values = np.stack(values) if len(values) else values
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


def as_ids(values: Any, shape: Sequence[int], what: str) -> np.ndarray:
    """`as_pixels` of masks [N, H, W, 1], of which a palette's numbers are the ids."""
    several = [values] if isinstance(values, PIL.Image.Image) else values
    if isinstance(several, Sequence) and not isinstance(several, str):
        several = [np.asarray(v) for v in several]
    return as_pixels(several, (*shape[:2], 1), what)


def _of_picture(value: Any, channels: int, what: str) -> np.ndarray:
    """An array of what may be a PIL image, which then gets so many channels."""
    if not isinstance(value, PIL.Image.Image):
        return np.asarray(value)
    try:
        decoding.check_header(value)
    except ValueError as error:
        raise UserError(f"{what}: an image can't be taken, for {error}.") from error
    picture = decoding.as_picture(value)
    if channels in MODES:
        return np.asarray(decoding.flattened(picture, MODES[channels]))
    return np.asarray(picture.convert(WITH_ALPHA[channels]))


def resize(pixels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An image array, uint8 [h, w, 1 to 4], at shape [H, W, C]; itself if it fits.

    2 and 4 channels have alpha, and what is transparent is seen on white.
    """
    if pixels.shape == tuple(shape):
        return pixels
    grey = pixels.shape[-1] == 1
    image = PIL.Image.fromarray(pixels[..., 0] if grey else pixels)
    return _crop(decoding.flattened(image, MODES[shape[-1]]), shape)


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """An image array of 8 or 16 bits, in uint8, as files of 16 bits are read."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def resize_ids(ids: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Ids of classes, uint8 [h, w, 1], at [H, W, 1]: never mixed, cropped as images."""
    image = PIL.Image.fromarray(ids[..., 0])
    return fit(image, (*shape[:2], 1), PIL.Image.Resampling.NEAREST)


def _flat(path: Stored, shape: Sequence[int]) -> PIL.Image.Image:
    """A file in as many channels as the shape has, none of them alpha."""
    return decoding.flattened(decoding.picture(path), MODES[shape[-1]])


def _crop(image: PIL.Image.Image, shape: Sequence[int]) -> np.ndarray:
    """Shrinks by halves, resizes the shorter side to fit, crops the centre (ADM)."""
    height, width, _ = shape
    while min(image.size) >= 2 * min(height, width):
        image = image.resize(
            (image.width // 2, image.height // 2), PIL.Image.Resampling.BOX
        )
    return fit(image, shape)


def fit(
    image: PIL.Image.Image,
    shape: Sequence[int],
    resampling: PIL.Image.Resampling = PIL.Image.Resampling.BICUBIC,
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


def in_parallel(function: Callable, *paths: Iterable[Stored]) -> None:
    """Calls a check on all files; the first error is raised."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(function, *paths))


def failures(function: Callable, paths: Iterable[Stored]) -> dict[int, UserError]:
    """{i: what a check of the i-th file says} of the files that it refuses."""

    def error_of(path: Stored) -> UserError | None:
        try:
            function(path)
        except UserError as error:
            return error
        return None

    with concurrent.futures.ThreadPoolExecutor() as pool:
        errors = list(pool.map(error_of, paths))
    return {i: error for i, error in enumerate(errors) if error is not None}
