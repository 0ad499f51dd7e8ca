"""What .npy and .npz files say of their arrays, compared with what they can hold.

A few bytes may claim terabytes; so this is asked before an array is read.
"""

import math
import pathlib
import zipfile
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

MUCH = 2**30  # bytes, from which on a file that unfolds to
TIMES = 100  # times its size is not one of numbers that somebody measured


class Header(NamedTuple):
    """Shape and type of an array, and how many bytes its numbers take."""

    shape: tuple[int, ...]
    dtype: np.dtype
    size: int


def headers(path: pathlib.Path) -> dict[str, Header]:
    """The headers of all arrays in a .npz by name, or of that in a .npy as ''.

    Raises ValueError for arrays that are not as long as they claim, hold objects, or
    unfold to absurdly more than the file has; OSError and zipfile.BadZipFile.
    """
    found = dict(_read(path))
    total, size = sum(header.size for header in found.values()), path.stat().st_size
    if total > max(MUCH, TIMES * size):
        raise ValueError(
            f"its {size:,} bytes unfold to {total:,}, which is no file of measured "
            "numbers"
        )
    return found


def _read(path: pathlib.Path) -> Iterator[tuple[str, Header]]:
    if path.suffix == ".npy":
        with open(path, "rb") as file:
            yield "", _header(file, path.stat().st_size, path.name)
        return
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            name = part.filename.removesuffix(".npy")
            with parts.open(part) as file:
                yield name, _header(file, part.file_size, name)


def _header(file: IO[bytes], size: int, name: str) -> Header:
    """Of an array that lies in `size` bytes."""
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"{name} is of version {version} of .npy, which has names")
    shape, _, dtype = read[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects, and needs allow_pickle, which is off")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != size - file.tell():
        raise ValueError(
            f"{name} claims {list(shape)} of {dtype}, which is {claimed:,} bytes, but "
            f"has {size - file.tell():,}"
        )
    return Header(shape, dtype, claimed)
