"""Files of vectors, float [N, D]: .npy and .npz, never with pickles in them."""

import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import writing

ROWS_AT_ONCE = 65_536  # of a memory-mapped file that are looked at


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """Vectors [N, D] of a file; .npy is memory-mapped.

    name: of the array in an .npz; without it, the only array there is. Raises UserError
    for a file that is not there, not whole, or has anything else in it.
    """
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise UserError(
            f"there is no file of vectors {path}: it must end in .npy or .npz."
        )
    try:
        found = _read_npy(path) if path.suffix == ".npy" else _read_npz(path, name)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} can't be read as an array of numbers ({error}); save it with "
            "numpy.save or numpy.savez, without pickled objects."
        ) from error
    if found.ndim != 2 or not found.size or found.dtype.kind != "f":
        raise UserError(
            f"{path} holds {found.dtype} {list(found.shape)}; vectors are floats "
            "[N, D], a row for each example."
        )
    return found


def _read_npy(path: pathlib.Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: pathlib.Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        if name not in arrays and len(arrays.files) != 1:
            raise UserError(
                f"{path} has no array {name!r} among its arrays {arrays.files}."
            )
        return arrays[name if name in arrays else arrays.files[0]]


def check_names(path: pathlib.Path, names: Sequence[str]) -> None:
    """Raises UserError for an .npz without an array of each of these names."""
    with np.load(path, allow_pickle=False) as arrays:
        if missing := sorted(set(names) - set(arrays.files)):
            raise UserError(
                f"{path} has the arrays {arrays.files}, but {missing} are missing; "
                f"save one for each of {list(names)}."
            )


def check_finite(vectors: np.ndarray, path: pathlib.Path) -> None:
    """Raises UserError where a number of a file is not finite as float32."""
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        with np.errstate(over="ignore"):
            part = vectors[start : start + ROWS_AT_ONCE].astype(np.float32)
        wrong = ~np.isfinite(part).all(axis=1)
        if wrong.any():
            raise UserError(
                f"{path}: vector {start + int(np.argmax(wrong))} has numbers that are "
                "not finite; make the file anew."
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
