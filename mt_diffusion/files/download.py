"""A file from the net, whole and the right one or not at all."""

import base64
import hashlib
import http.client
import pathlib
import urllib.error
import urllib.request
from typing import NamedTuple

from mt_diffusion.errors import UserError
from mt_diffusion.files import writing
from mt_diffusion.parallel.progress import Progress

AT_ONCE = 1 << 18  # bytes
PATIENCE = 60.0  # seconds without a byte


class Wanted(NamedTuple):
    """A file as its publisher describes it.

    size: in bytes. integrity: the SHA-512 in base64 that npm calls by this name.
    """

    url: str
    size: int
    integrity: str


def fetch(wanted: Wanted, path: pathlib.Path) -> None:
    """Downloads a file to `path`, unless it is there; goes on where it was cut off.

    Raises UserError where the net fails, which keeps what has come, and for a file that
    is not the one that is wanted, of which nothing is kept.
    """
    if path.exists() and _is(path, wanted):
        return
    part = path.with_name(path.name + ".part")
    writing.make_folder(path.parent, f"{path.parent}")
    if part.exists() and part.stat().st_size >= wanted.size:
        part.unlink()  # of another file, or of one that was refused below
    try:
        _append(wanted, part)
    except (OSError, ValueError, http.client.HTTPException) as error:  # no URL at all
        raise UserError(
            f"{wanted.url} could not be downloaded ({writing.reason(error)}); "
            f"{part.stat().st_size if part.exists() else 0:,} of {wanted.size:,} bytes "
            "are here. The same command goes on from there."
        ) from error
    if not _is(part, wanted):
        found = part.stat().st_size
        if found < wanted.size:
            raise UserError(
                f"{wanted.url} ended after {found:,} of {wanted.size:,} bytes. The "
                "same command goes on from there."
            )
        part.unlink()
        raise UserError(
            f"{wanted.url} is not the file that was published: its {found:,} bytes "
            f"have another SHA-512 than {wanted.integrity}. Nothing of it was kept; "
            "look what stands between here and the publisher, and try again."
        )
    part.replace(path)


def _append(wanted: Wanted, part: pathlib.Path) -> None:
    """Adds to a file what it lacks; begins anew where the server can't go on."""
    here = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(wanted.url)
    if here:
        request.add_header("Range", f"bytes={here}-")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        goes_on = here > 0 and answer.status == http.client.PARTIAL_CONTENT
        start = here if goes_on else 0
        name = wanted.url.rpartition("/")[2]
        size = wanted.size
        bar = Progress(what=name, total=size, unit="B", initial=start, scaled=True)
        with open(part, "ab" if goes_on else "wb") as file, bar:
            # One byte more than there may be shows that it is another file.
            while start <= wanted.size and (block := answer.read(AT_ONCE)):
                file.write(block)
                start += len(block)
                bar.update(len(block))


def _is(path: pathlib.Path, wanted: Wanted) -> bool:
    """Whether a file is the one that is wanted."""
    if path.stat().st_size != wanted.size:
        return False
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha512").digest()
    return f"sha512-{base64.b64encode(found).decode()}" == wanted.integrity
