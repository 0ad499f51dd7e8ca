"""One writer for a folder at a time; readers need no leave.

In a bucket nothing can be locked: there the writer says every 20 seconds that it is
still there, and who finds its word looks on for a minute whether it is said again.
"""

import contextlib
import datetime
import fcntl
import itertools
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from mt_diffusion.errors import UserError
from mt_diffusion.files import paths, writing

FILE = ".lock"
LONGEST = 1000  # bytes of it that are read
TAKEN = BlockingIOError  # of all errors of a lock, the one that says: somebody has it
BEAT, SILENT = 20.0, 60.0  # seconds, in a bucket
SETTLED = 2.0  # seconds, after which of two that began at once the later one has it


@contextlib.contextmanager
def held(folder: pathlib.Path, what: str) -> Iterator[Callable[[], None]]:
    """Keeps others from writing to a folder that is there, as long as it is entered.

    what: what the user said, as --workdir=runs/a. Gives what raises UserError once
    another one has taken the folder all the same, as it can in a bucket. The system
    lets go of the lock when the process ends, however that comes about, even where its
    file is left. Raises UserError, with who has it, where another one holds it; says
    so, and goes on, where the file system has no locks.
    """
    path = folder / FILE
    if paths.is_remote(path):
        with _said_in_bucket(path, what) as check:
            yield check
        return
    file = _locked(path, what)
    try:
        with contextlib.suppress(OSError):  # of a full disk: it is locked all the same
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_me()).encode(), 0)
        yield lambda: None
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
        raise taken(what, holder) from error
    except OSError as error:
        before = f"; the last to write there, {holder}, has not ended by itself"
        print(
            f"warning: {what} can't be locked ({error.strerror})"
            f"{before if holder else ''}. See to it that nothing else writes there."
        )


def taken(what: str, holder: str) -> UserError:
    """What is said of a folder that another one writes to."""
    return UserError(
        f"{what} is being written to by {holder or 'another process'}: two at once "
        "would destroy each other's files. Wait for that one, stop it, or name "
        "another folder."
    )


@contextlib.contextmanager
def _said_in_bucket(path: pathlib.Path, what: str) -> Iterator[Callable[[], None]]:
    """`held`, by an object that says who is there, and is written anew every BEAT.

    It is no lock: between two that come within SETTLED seconds, and after a silence of
    SILENT seconds, as of a machine that was suspended, two may write. Whoever finds
    another one there, or nobody, has lost the folder.
    """
    with writing.explained(path):
        _wait_for_silence(path, what)
    mine = _me() | {"name": secrets.token_hex(8)}
    ended, others = threading.Event(), [b""]  # what another one has said there

    def say(beat: int) -> None:
        path.write_text(json.dumps(mine | {"beat": beat}))

    def is_mine() -> bool:
        there = _read(path)
        found = f'"{mine["name"]}"'.encode() in there
        others[0] = b"" if found else there or b"nobody"
        return found

    def go_on() -> None:
        for beat in itertools.count(1):
            if ended.wait(BEAT):
                return
            with contextlib.suppress(*paths.failures(path)):  # the next may be heard
                if not is_mine():
                    return
                say(beat)

    def check() -> None:
        if others[0]:
            raise taken(what, _said(others[0]))

    with writing.explained(path):
        say(0)
        time.sleep(SETTLED)
        is_mine()
    check()
    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(*paths.failures(path)):
            if is_mine():
                path.unlink()


def _wait_for_silence(path: pathlib.Path, what: str) -> None:
    """Raises UserError where another one says within SILENT seconds that it is there.

    By what it says and not by when, so that no clocks are compared.
    """
    first, end = _read(path), time.monotonic() + SILENT
    if first:
        print(
            f"{what} was last written to by {_said(first) or 'another process'}, which "
            f"has not ended by itself; waiting {SILENT:.0f} s for a sign of it",
            flush=True,
        )
    while first and time.monotonic() < end:
        time.sleep(SILENT / 20)
        now = _read(path)
        if now and now != first:
            raise taken(what, _said(now))
        first = now


def _read(path: pathlib.Path) -> bytes:
    """What an object says; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


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
