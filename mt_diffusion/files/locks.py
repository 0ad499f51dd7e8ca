"""One writer for a folder at a time; readers need no leave."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from mt_diffusion.errors import UserError

FILE = ".lock"
LONGEST = 1000  # bytes of it that are read
TAKEN = BlockingIOError  # of all errors of a lock, the one that says: somebody has it


@contextlib.contextmanager
def held(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Keeps others from writing to a folder that is there, as long as it is entered.

    what: what the user said, as --workdir=runs/a. The system lets go of the lock when
    the process ends, however that comes about, even where its file is left. Raises
    UserError, with who has it, where another one holds it; says so, and goes on, where
    the file system has no locks.
    """
    path = folder / FILE
    file = _locked(path, what)
    try:
        with contextlib.suppress(OSError):  # of a full disk: it is locked all the same
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_me()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _locked(path: pathlib.Path, what: str) -> int:
    """A descriptor of the locked file that has this path."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise UserError(f"{what} can't be written to: {error}.") from error
        try:
            _take(file, what)
            # Whoever had it may have removed it between these two lines.
            if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _take(file: int, what: str) -> None:
    holder = _said(os.pread(file, LONGEST, 0))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except TAKEN as error:
        raise UserError(
            f"{what} is being written to by {holder or 'another process'}: two at once "
            "would destroy each other's files. Wait for that one, stop it, or name "
            "another folder."
        ) from error
    except OSError as error:
        before = f"; the last to write there, {holder}, has not ended by itself"
        print(
            f"warning: {what} can't be locked ({error.strerror})"
            f"{before if holder else ''}. See to it that nothing else writes there."
        )


def _me() -> dict[str, str | int]:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now}


def _said(text: bytes) -> str:
    """Who wrote that; '' for nobody, or a file that is not whole."""
    try:
        found = json.loads(text)
        who = f"process {int(found['pid'])} on {found['host']}, since {found['since']}"
        return ascii(who)[1:-1]
    except (ValueError, TypeError, KeyError):
        return ""
