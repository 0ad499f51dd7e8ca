"""Paths are names, never patterns, whatever letters they have; also those in buckets.

A path of this machine is a pathlib.Path; one in a bucket, gs://..., has the same
methods, as far as an object store can do what they say.
"""

import contextlib
import fnmatch
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Self

from etils import epath

from mt_diffusion.errors import UserError
from mt_diffusion.files import buckets


# Each system has its own class of paths, which no type of etils names.
class Literal(type(epath.Path("/"))):  # type: ignore[misc]
    """A path for libraries that take etils' paths, as Orbax does; and all in buckets.

    etils' own `glob` reads the folder as a pattern as well: below `a[1]` it finds
    nothing, and Orbax then leaves the parts of a checkpoint unjoined. Of buckets it
    takes `resolve` for something of this machine, and `walk` forgets gs://.
    """

    def glob(self, pattern: str) -> Iterator[Self]:
        """What matches the pattern below this folder, which is none itself."""
        if not is_remote(self):
            yield from map(self._new, pathlib.Path(self).glob(pattern))
            return
        first, _, rest = pattern.partition("/")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in self.iterdir():
                if path != self and fnmatch.fnmatchcase(path.name, first):
                    yield from path.glob(rest) if rest else [path]

    def walk(self, **options: Any) -> Iterator[tuple[Self, list[str], list[str]]]:
        """(folder, names of folders, names of files) of all below this one."""
        for folder, folders, files in super().walk(**options):
            if is_remote(self) and not is_remote(folder):
                folder = self._new(f"{buckets.SCHEME}{folder}")
            yield folder, folders, files

    def resolve(self, strict: bool = False) -> Self:
        """Itself, in a bucket: there are no links, and each address is whole."""
        return self if is_remote(self) else super().resolve(strict)

    def mkdir(self, *args: Any, **options: Any) -> None:
        """Nothing, in a bucket: it has no folders, and is itself made by its owner."""
        if not is_remote(self):
            super().mkdir(*args, **options)

    def open(self, mode: str = "r", buffering: int = -1, **options: Any) -> IO[Any]:
        """As of pathlib; how it is buffered is up to the client of a bucket."""
        return super().open(mode, **options)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether that is in a bucket."""
    return os.fspath(path).startswith(buckets.SCHEME)


def of(text: str | os.PathLike, what: str = "") -> pathlib.Path:
    """The path that a user means, of this machine or in a bucket that can be reached.

    what: what the user said, as --workdir=gs://bucket/run. Raises UserError for other
    addresses, and as `buckets.check` does.
    """
    name = os.fspath(text)
    if not is_remote(name):
        if "://" in name:
            raise UserError(
                f"{what or name} is no path of a file system. Checkpoints can be kept "
                "in Cloud Storage, gs://BUCKET/FOLDER, and in folders. Mount any other "
                "bucket, and name the folder there."
            )
        return pathlib.Path(text).expanduser()
    buckets.check(name, what or name)
    found: Any = Literal(name)
    return found


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


def failures(path: str | os.PathLike) -> tuple[type[Exception], ...]:
    """What is raised where a path can't be read or written, though it is well meant."""
    return buckets.failures() if is_remote(path) else (OSError,)


def files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below a folder."""
    if not is_remote(folder):
        yield from (path for path in folder.rglob("*") if path.is_file())
        return
    there: Any = folder
    for below, _, names in there.walk():
        yield from (below / name for name in names if name)  # else a folder's mark


def size(file: pathlib.Path) -> int | None:
    """The bytes of a file; None where there is none."""
    if not is_remote(file):
        return file.stat().st_size if file.is_file() else None
    try:
        found: Any = file.stat()
    except FileNotFoundError:
        return None
    return None if found.is_directory else found.length


@contextlib.contextmanager
def at_hand(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file, or a copy on this machine of one in a bucket, as long as it is entered.

    For libraries that open files themselves.
    """
    if not is_remote(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / file.name
        with file.open("rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


def remove(folder: pathlib.Path) -> None:
    """Removes a folder with all that is in it, as far as that can be."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(*failures(folder)):
        there: Any = folder
        there.rmtree(missing_ok=True)
