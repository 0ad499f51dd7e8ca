"""Paths are names, never patterns, whatever letters they have."""

import os
import pathlib
from collections.abc import Iterator
from typing import Self

from etils import epath

from mt_diffusion.errors import UserError


# Each system has its own class of paths, which no type of etils names.
class Literal(type(epath.Path("/"))):  # type: ignore[misc]
    """A path of this machine for libraries that take etils' paths, as Orbax does.

    etils' own `glob` reads the folder as a pattern as well: below `a[1]` it finds
    nothing, and Orbax then leaves the parts of a checkpoint unjoined.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        """What matches the pattern below this folder, which is none itself."""
        return map(self._new, pathlib.Path(self).glob(pattern))


def literal(folder: pathlib.Path) -> Literal:
    r"""A folder for Orbax. Raises UserError for one that TensorStore takes for another.

    TensorStore reads \ as / on every system, and takes names in UTF-8 alone.
    """
    name = os.fspath(folder)
    if "\\" in name or name != name.encode(errors="replace").decode():
        raise UserError(
            f"checkpoints can't be kept in {ascii(name)[1:-1]}: TensorStore, which "
            "writes them, takes a backslash for a slash, and no letters but UTF-8. "
            "Rename the folder, or name it by a symbolic link without such letters."
        )
    return Literal(folder)
