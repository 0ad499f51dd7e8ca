"""What is in a tar and where, so that its files can be read in any order.

Nothing is unpacked. The index of a tar is made once, and kept in the user's cache.
"""

import contextlib
import itertools
import json
import pathlib
import tarfile
from collections.abc import Iterator, Sequence

from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding, writing
from mt_diffusion.files.names import shown
from mt_diffusion.files.within.parts import Part, cached

BROKEN: tuple[type[Exception], ...] = (tarfile.TarError, *decoding.BROKEN)
BLOCK = 512  # bytes; one of zeros marks the end of a tar


def index(path: pathlib.Path) -> list[Part]:
    """The regular files in a tar, as they come.

    Raises UserError for what is no whole tar, or a compressed one.
    """
    with explained(path):
        kept = cached(path, "tars", ".json")
    with contextlib.suppress(OSError, ValueError, TypeError):
        return [Part(path, *entry) for entry in json.loads(kept.read_text("utf-8"))]
    with explained(path):
        found = list(scan(path))
    with contextlib.suppress(OSError, UserError):  # without room it is made each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        writing.text(kept, json.dumps([part[1:] for part in found]))
    return found


def scan(path: pathlib.Path) -> Iterator[Part]:
    """As `index`, by a look at each header; raises what tarfile does, and ReadError."""
    size = path.stat().st_size
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.size < 0 or member.offset_data + member.size > size:
                raise tarfile.ReadError(
                    f"of {member.name} it should have {member.size:,} bytes, and has "
                    "others: it was cut off, or its header lies"
                )
            if member.isreg() and not member.issparse():
                yield Part(path, member.name, member.offset_data, member.size)
            tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
        end = tar.offset  # type: ignore[attr-defined]
    # tarfile takes a header that can't be read for the end.
    if read(path, end) != bytes(BLOCK):
        raise tarfile.ReadError("it ends without a mark, or goes on with no header")


def read(path: pathlib.Path, start: int) -> bytes:
    """A block of a file."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(BLOCK)


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Makes of what is raised where a tar is read a UserError that names it."""
    try:
        yield
    except BROKEN as error:
        said = shown(str(error) or type(error).__name__)
        raise UserError(
            f"{shown(path)} can't be read as a tar ({said[:200]}); make it anew (a "
            "compressed one has to be unpacked to a plain .tar)."
        ) from error


def contents(parts: Sequence[Part]) -> list[bytes]:
    """What is in small files of tars; UserError where it is not there."""
    found = []
    for path, of_path in itertools.groupby(parts, lambda part: part.container):
        with explained(path), path.open("rb") as file:
            for part in of_path:
                file.seek(part.start)
                found.append(file.read(part.size))
    return found
