"""How the process ends: each way has an exit status, and one paragraph on stderr."""

import contextlib
import errno
import os
import signal
import sys
import textwrap
from collections.abc import Iterator

from mt_diffusion.errors import Stopped, UserError
from mt_diffusion.files.names import shown

MISTAKE, RESUME, CTRL_C = 2, 75, 130  # 75 is EX_TEMPFAIL: call again
PIPE = 141  # as of a process that SIGPIPE ended
# What a system says to a write: no room left, or none allowed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Ends the process, with a status, for what a user or a cluster can mend or meant.

    Any other exception keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        leave(MISTAKE, f"error: {error}")
    except BrokenPipeError:  # whoever read stdout has ended, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE)
    except OSError as error:  # of a file that a library writes, or of stdout
        if error.errno not in FULL + REFUSED:
            raise
        mend = "Make room" if error.errno in FULL else "Permit it"
        leave(MISTAKE, f"error: {error}. {mend}; the same command then continues.")
    except Stopped as stopped:
        leave(RESUME, str(stopped))
    except KeyboardInterrupt:
        leave(
            CTRL_C,
            "stopped; the same command goes on: a training continues from its last "
            "checkpoint, anything else with what is on disk.",
        )


def leave(status: int, message: str) -> None:
    """Ends the process. What a terminal would act on, in a name, is shown escaped."""
    said = textwrap.wrap(message, 88, break_long_words=False)
    print(*map(shown, said), sep="\n", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def decided() -> Iterator[None]:
    """Ends the process with the status that is decided, come what may.

    Python forgets its answer to SIGTERM before all libraries have ended. After MISTAKE,
    CTRL_C and PIPE nothing is waited for: threads of Orbax may wait for minutes to
    write what could not even be begun, and others compile what nobody will run.
    """
    try:
        yield
    except SystemExit as ending:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if ending.code not in (MISTAKE, CTRL_C, PIPE):
            raise
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ending.code)


def answer_sigterm() -> None:
    """From here on SIGTERM ends the process at once, with RESUME.

    Nothing is saved that is not on disk already, and what is half written doesn't
    count. An exception instead could be taken by a library for a failure of its own.
    """

    def end(*_: object) -> None:
        try:
            os.write(2, b"told to stop; the same command starts again.\n")
        finally:
            os._exit(RESUME)

    signal.signal(signal.SIGTERM, end)
