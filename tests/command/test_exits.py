"""How the process ends: statuses, one paragraph, SIGTERM."""

import contextlib
import errno
import signal
import subprocess
import sys
import time

import pytest

from mt_diffusion.command import exits
from mt_diffusion.errors import Stopped, UserError


@pytest.mark.parametrize(
    "error, status, words",
    [
        (UserError("a.b is 3; use 4."), 2, "error: a.b is 3; use 4."),
        (OSError(errno.ENOSPC, "No space", "a/b"), 2, "'a/b'. Make room; the same"),
        (OSError(errno.EFBIG, "Too large", "a/b"), 2, "'a/b'. Make room; the same"),
        (OSError(errno.EROFS, "Read-only", "a/b"), 2, "'a/b'. Permit it; the same"),
        (PermissionError(errno.EACCES, "No", "a/b"), 2, "Permit it; the same command"),
        (Stopped("told to stop"), 75, "told to stop"),
        (KeyboardInterrupt(), 130, "continues from its last checkpoint"),
    ],
)
def test_each_ending_has_a_status_and_a_paragraph(capsys, error, status, words):
    with pytest.raises(SystemExit) as ended, exits.explained():
        raise error
    assert ended.value.code == status
    out, err = capsys.readouterr()
    assert words in " ".join(err.split()) and out == ""
    assert max(map(len, err.splitlines())) <= 88


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No"), ValueError("a bug")])
def test_what_nobody_meant_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised, exits.explained():
        raise error
    assert raised.value is error


@contextlib.contextmanager
def process(program):
    """A process with these lines, whose first print has been read."""
    imports = "from mt_diffusion import errors\nfrom mt_diffusion.command import exits"
    program = f"{imports}\nimport time\n{program}"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            assert started.stdout.readline() == "ready\n", started.stderr.read()
            yield started
        finally:
            started.kill()


def test_sigterm_ends_the_process_at_once_and_asks_to_be_resumed():
    with process("exits.answer_sigterm()\nprint('ready')\ntime.sleep(60)") as told:
        told.send_signal(signal.SIGTERM)
        _, err = told.communicate(timeout=30)
    assert told.returncode == 75
    assert err == "told to stop; the same command starts again.\n"


LATE = """
import threading
exits.answer_sigterm()
with exits.decided(), exits.explained():
    threading.Thread(target=time.sleep, args=({seconds},)).start()
    print("ready")
    raise errors.{error}("over")
"""


def test_what_is_decided_outlives_another_sigterm():
    """While threads end, Python has no answer to it any more."""
    with process(LATE.format(seconds=1, error="Stopped")) as ending:
        assert ending.stderr.readline() == "over\n"
        time.sleep(0.3)
        ending.send_signal(signal.SIGTERM)
        assert ending.communicate(timeout=30)[1] == ""
    assert ending.returncode == 75


def test_after_a_failure_no_thread_is_waited_for():
    with process(LATE.format(seconds=60, error="UserError")) as failed:
        assert failed.communicate(timeout=30)[1] == "error: over\n"
    assert failed.returncode == 2
