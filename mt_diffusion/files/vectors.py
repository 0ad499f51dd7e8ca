"""Files of vectors, float [N, D]: .npy and .npz, never with pickles in them."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import arrays, writing
from mt_diffusion.files.names import shown

BROKEN: tuple[type[Exception], ...]
BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError)
BROKEN += (MemoryError, OverflowError, SyntaxError)
ROWS_AT_ONCE = 65_536  # of a memory-mapped file that are looked at


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """Vectors [N, D] of a file; .npy is memory-mapped.

    name: of the array in an .npz; without it, the only array there is. Raises UserError
    for a file that is not there, not whole, or has anything else in it.
    """
    shape(path, name)
    with explained(path):
        return _read_npy(path) if path.suffix == ".npy" else _read_npz(path, name)


def shape(path: pathlib.Path, name: str) -> tuple[int, int]:
    """(N, D) of the vectors that `read` would give, from the header of the file."""
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise UserError(
            f"there is no file of vectors {shown(path)}: it must end in .npy or .npz."
        )
    with explained(path):
        found = arrays.headers(path)
    header = found[_chosen(path, name, list(found))]
    if len(header.shape) != 2 or not header.size or header.dtype.kind != "f":
        raise UserError(
            f"{shown(path)} holds {header.dtype} {list(header.shape)}; vectors are "
            "floats [N, D], a row for each example."
        )
    return header.shape


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Makes a UserError of whatever a file that is no array makes numpy raise."""
    try:
        yield
    except BROKEN as error:
        raise UserError(
            f"{shown(path)} can't be read as an array of numbers "
            f"({shown(str(error))}); save it with numpy.save or numpy.savez, without "
            "pickled objects."
        ) from error


def _read_npy(path: pathlib.Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: pathlib.Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as found:
        return found[_chosen(path, name, found.files)]


def _chosen(path: pathlib.Path, name: str, there: Sequence[str]) -> str:
    """`name`, or that of the only array there is."""
    if name not in there and len(there) != 1:
        raise UserError(
            f"{shown(path)} has no array {name!r} among its arrays {list(there)}."
        )
    return name if name in there else there[0]


def text(path: pathlib.Path, name: str) -> str:
    """A text that an .npz has beside its vectors; '' where it has none."""
    if path.suffix != ".npz":
        return ""
    with explained(path), np.load(path, allow_pickle=False) as found:
        return str(found[name]) if name in found else ""


def check_names(path: pathlib.Path, names: Sequence[str]) -> None:
    """Raises UserError for an .npz without an array of each of these names."""
    with np.load(path, allow_pickle=False) as found:
        if missing := sorted(set(names) - set(found.files)):
            raise UserError(
                f"{shown(path)} has the arrays {found.files}, but {missing} are "
                f"missing; save one for each of {list(names)}."
            )


def check_finite(vectors: np.ndarray, path: pathlib.Path) -> None:
    """Raises UserError where a number of a file is not finite as float32."""
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        with np.errstate(over="ignore"):
            part = vectors[start : start + ROWS_AT_ONCE].astype(np.float32)
        wrong = ~np.isfinite(part).all(axis=1)
        if wrong.any():
            row = start + int(np.argmax(wrong))
            raise UserError(
                f"{shown(path)}: vector {row} has numbers that are not finite; make "
                "the file anew."
            )


def check_writable(path: pathlib.Path) -> None:
    """Raises UserError for a path that `write` would refuse."""
    if path.suffix != ".npz":
        raise UserError(f"--out={path} must end in .npz.")
    writing.claim_file(path)


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz of these arrays, whole or not at all; UserError where there is one."""
    check_writable(path)
    writing.arrays(path, arrays)
