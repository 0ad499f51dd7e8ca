"""Files within files, read as files are: the members of a tar, the cells of a table."""

import hashlib
import io
import pathlib
from typing import Any, BinaryIO, NamedTuple, Protocol

from mt_diffusion.files import writing


class Stored(Protocol):
    """What of pathlib.Path an image is read by; its text is its name for people."""

    @property
    def suffix(self) -> str:
        """The end of its name, as '.png'."""
        ...

    def open(self, mode: Any = "rb") -> Any:
        """Its bytes, as a file is opened."""
        ...

    def stat(self) -> Any:
        """What has its size as st_size."""
        ...


class Size(NamedTuple):
    """As much of os.stat_result as is asked for."""

    st_size: int


class Part(NamedTuple):
    """Bytes start..start + size - 1 of a file, under a name of their own."""

    container: pathlib.Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.container}:{self.name}"

    @property
    def suffix(self) -> str:
        """Of its name, as '.png'."""
        return pathlib.PurePosixPath(self.name).suffix

    def stat(self) -> Size:
        """Its size."""
        return Size(self.size)

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its bytes, all of them in memory. Raises OSError where the file has fewer."""
        with self.container.open("rb") as file:
            file.seek(self.start)
            found = file.read(self.size)
        if len(found) < self.size:
            raise OSError(f"it has {len(found):,} bytes and not {self.size:,}")
        return io.BytesIO(found)


def cached(path: pathlib.Path, kind: str, suffix: str) -> pathlib.Path:
    """Where what is made of a file is kept, under another name for each state of it.

    kind: the folder for it in the user's cache. Raises OSError where there is no file.
    """
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    name = hashlib.sha256(repr(key).encode("utf8", "surrogateescape")).hexdigest()
    return writing.user_cache(kind) / f"{name[:32]}{suffix}"
