"""One writer for a folder, until it ends, however that comes about."""

import errno
import fcntl
import os
import re
import subprocess
import sys

import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.files import locks

HOLD = """
import pathlib, sys, time
from mt_diffusion.files import locks
with locks.held(pathlib.Path(sys.argv[1]), "--workdir=here"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_its_end_frees_the_folder(tmp_path):
    holder = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        who = (
            rf"process {other.pid} on {re.escape(os.uname().nodename)}, since \d{{4}}-"
        )
        with pytest.raises(UserError, match=f"--workdir=mine is being .* {who}"):
            with locks.held(tmp_path, "--workdir=mine"):
                pass
        other.kill()
    with locks.held(tmp_path, "--workdir=mine"):
        with pytest.raises(UserError, match=f"process {os.getpid()} on"):
            with locks.held(tmp_path, "--workdir=mine"):
                pass
    assert list(tmp_path.iterdir()) == []


def test_it_is_let_go_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.held(tmp_path, "--out=x"):
            raise ZeroDivisionError


def test_without_locks_the_last_holder_is_told_of(tmp_path, monkeypatch, capsys):
    """As on NFS without its lock service."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with locks.held(tmp_path, "--out=x"):
        text = (tmp_path / locks.FILE).read_bytes()
    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / locks.FILE).write_bytes(text)  # as after SIGKILL
    with locks.held(tmp_path, "--out=x"):
        said = capsys.readouterr().out
    assert "can't be locked (No locks available)" in said
    assert f"process {os.getpid()} on" in said and "nothing else writes there" in said
    with locks.held(tmp_path, "--out=x"):
        assert "process" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"\xff\x00", b"{}", b'{"pid": "\x1b[2J"}', b"[]"])
def test_a_damaged_lock_file_is_no_obstacle(tmp_path, content):
    (tmp_path / locks.FILE).write_bytes(content)
    with locks.held(tmp_path, "--out=x"), pytest.raises(UserError, match="process"):
        with locks.held(tmp_path, "--out=x"):
            pass


def test_a_file_that_its_holder_removed_meanwhile_locks_nothing(tmp_path, monkeypatch):
    """Another process has opened it just before, and locks it just after."""
    take, taken = locks._take, []

    def after_its_end(file, what):
        if not taken:
            (tmp_path / locks.FILE).unlink()
        taken.append(file)
        take(file, what)

    monkeypatch.setattr(locks, "_take", after_its_end)
    with locks.held(tmp_path, "--out=x"):
        assert len(taken) == 2 and (tmp_path / locks.FILE).exists()


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / locks.FILE).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="--out=x can't be written to"):
        with locks.held(tmp_path, "--out=x"):
            pass
    assert not (tmp_path / "victim").exists()
