"""One image file as the picture that a person sees: upright, in 8 bits.

Right, or refused: what has no one meaning in 8 bits, as floats, is a UserError that
names the file.
"""

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import shown
from mt_diffusion.files.within.parts import Stored

MOST_LONG = 100  # times its shorter side: a longer picture is none that is meant
SPREAD = {"2": 85, "4": 17}  # grey of so many bits, as Pillow spreads it over 0..255
ORIENTATION = 274  # a tag of EXIF
SIDEWAYS = {5, 6, 7, 8}
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # tags of TIFF
UNSIGNED = {1, 4}  # numbers, or of no kind
HEIF = (".heic", ".heif")
IDS = ("1", "L", "P")
BROKEN: tuple[type[Exception], ...]
BROKEN = (OSError, SyntaxError, ValueError, struct.error, EOFError, OverflowError)
BROKEN += (RuntimeError, IndexError)  # of decoders, and of files of records
BROKEN += (MemoryError, PIL.Image.DecompressionBombError)
BROKEN += (PIL.Image.DecompressionBombWarning, UserWarning)  # where these are errors


@contextlib.contextmanager
def opened(path: Stored) -> Iterator[PIL.Image.Image]:
    """An image file whose header has been read, and is one of a picture.

    Raises UserError for any other, also where its pixels are decoded in the context.
    """
    try:
        # Of a file with a name, Pillow maps raw pixels, and then turns TIFFs wrongly.
        with (
            path.open("rb") as file,
            PIL.Image.open(file, formats=finding.formats()) as image,
        ):
            check_header(image)
            yield image
    except UserError:
        raise
    except BROKEN as error:
        text = why(error, path)
        raise UserError(f"{shown(path)} can't be read as an image {text}") from error


def why(error: Exception, path: Stored) -> str:
    """What is wrong with a file, and what to do about it."""
    text, known = str(error) or type(error).__name__, finding.formats()
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    if isinstance(error, PIL.Image.UnidentifiedImageError):
        if path.suffix.lower() in HEIF and "HEIF" not in known:
            return (
                "here: install what reads it (pip install pillow-heif), or convert it."
            )
        text = f"it is none of {', '.join(known)}"
    is_bomb = isinstance(error, PIL.Image.DecompressionBombError)
    remedy = "shrink or remove it." if is_bomb else "repair or remove it."
    return f"({shown(text)}); {remedy}"


def check_header(image: PIL.Image.Image) -> None:
    """Raises ValueError for what is no picture of 8 or 16 bits, from its header."""
    width, height = image.size
    if max(width, height) > MOST_LONG * min(width, height):
        raise ValueError(
            f"it has {width}x{height} pixels, more than {MOST_LONG} times as long as "
            "wide"
        )
    if image.mode in ("F", "HSV") or (image.mode == "I" and image.format != "PPM"):
        raise ValueError(
            f"it holds numbers that are no levels of 8 or 16 bits ({image.mode}), and "
            "where white is nobody knows; save it with 8 bits"
        )
    kinds = np.ravel(tag(image, SAMPLE_FORMAT) or 1)
    if image.format == "TIFF" and not UNSIGNED.issuperset(kinds.tolist()):
        raise ValueError("its levels are signed; save it with unsigned ones of 8 bits")
    if "transparency" in image.info and rawmode(image) == "RGB;16B":
        raise ValueError(
            "one of its colours of 16 bits is transparent, which can't be told from "
            "others in 8 bits; save it with 8 bits"
        )


def tag(image: Any, number: int) -> Any:
    """A tag of a TIFF; None of other files."""
    return image.tag_v2.get(number) if image.format == "TIFF" else None


def rawmode(image: PIL.Image.Image) -> str:
    """How levels lie in a file that is not decoded yet, as 'L;4'."""
    tile = getattr(image, "tile", ())
    args = tile[0][3] if tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def picture(path: Stored) -> PIL.Image.Image:
    """A file as a person sees it; RGBA or LA where some of it is transparent."""
    with opened(path) as image:
        return as_picture(image)


def as_picture(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of any mode, decoded or not, upright and in 8 bits."""
    raw = rawmode(image)
    is_inverted = tag(image, PHOTOMETRIC) == 0
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return of_16_bits(image, is_inverted)
    key = image.info.get("transparency")
    bits = raw.partition(";")[2]
    if image.mode == "L" and bits in SPREAD and isinstance(key, int):
        return with_key(image, np.asarray(image), key * SPREAD[bits])
    if image.mode in ("LA", "La", "PA", "RGBa") or image.has_transparency_data:
        return image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    return image.convert("RGB") if image.mode == "LAB" else image


def of_16_bits(image: PIL.Image.Image, is_inverted: bool) -> PIL.Image.Image:
    """Grey of 16 bits, by its upper 8; Pillow's `convert` would clip it to white."""
    levels = np.asarray(image).astype(np.int64)
    levels = 65535 - levels if is_inverted else levels
    grey = PIL.Image.fromarray((levels >> 8).astype(np.uint8))
    key = image.info.get("transparency")
    return with_key(grey, levels, key) if isinstance(key, int) else grey


def with_key(grey: PIL.Image.Image, levels: np.ndarray, key: int) -> PIL.Image.Image:
    """Grey that is transparent where its levels [h, w] are those of the key."""
    alpha = np.where(levels == key, 0, 255).astype(np.uint8)
    return PIL.Image.merge("LA", (grey, PIL.Image.fromarray(alpha)))


def flattened(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """A picture in L or RGB, what is transparent of it on white."""
    if image.mode not in ("LA", "RGBA"):
        return image.convert(mode)
    image = image.convert("RGBA")
    bands: Any = image.getextrema()
    if bands[3][0] < 255:
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert(mode)


def ids(path: Stored) -> np.ndarray:
    """int64 [h, w]: the numbers in a file of one channel, or of a palette.

    Raises UserError for a file that holds colours.
    """
    with opened(path) as image:
        bits = rawmode(image).partition(";")[2]
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode not in IDS and not image.mode.startswith("I"):
        raise UserError(
            f"{shown(path)} holds colours ({image.mode}), not ids of classes; save it "
            "with one channel of 8 or 16 bits, or with a palette. (Colours are for "
            "training with config.data.pair_levels = 0.)"
        )
    found = np.asarray(image).astype(np.int64)
    return found // SPREAD[bits] if image.mode == "L" and bits in SPREAD else found


def size(path: Stored) -> tuple[int, int]:
    """(width, height) of a file as a person sees it, without decoding its pixels."""
    with opened(path) as image:
        is_sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
        # Pillow says of a TIFF what it is once it is upright.
        return (
            image.size[::-1] if is_sideways and image.format != "TIFF" else image.size
        )


def check(path: Stored) -> None:
    """Raises UserError where a file is broken, without decoding all of it."""
    with opened(path) as image:
        image.verify()
