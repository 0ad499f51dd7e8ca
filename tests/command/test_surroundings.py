"""Terminals, locales and settings of JAX that a user's environment brings along."""

import io
import os
import subprocess
import sys
import warnings

import jax
import pytest

from mt_diffusion.command import exits, startup


@pytest.mark.parametrize("name", startup.NOT_OURS)
def test_what_would_change_a_run_is_left_aside_and_said(name, capsys):
    startup.leave_aside()
    assert not capsys.readouterr().out
    try:
        jax.config.update(name, True)
        startup.leave_aside()
        assert not getattr(jax.config, name)
    finally:
        jax.config.update(name, False)
    assert f"{name.upper()} is left aside" in capsys.readouterr().out


def test_a_terminal_of_ascii_shows_what_it_can(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    startup.set_up_python()
    print("runs/\u00e9\u732b", flush=True)
    assert written.getvalue() == b"runs/\\xe9\\u732b\n"


@pytest.mark.parametrize("options, is_error", [(["error"], False), ([], True)])
def test_warnings_of_libraries_are_no_errors(monkeypatch, options, is_error):
    monkeypatch.setattr(sys, "warnoptions", options)
    with warnings.catch_warnings(record=not is_error):
        warnings.simplefilter("error")
        startup.set_up_python()
        if is_error:  # as pytest has it here
            with pytest.raises(UserWarning):
                warnings.warn("theirs", UserWarning, stacklevel=1)
        else:
            warnings.warn("theirs", UserWarning, stacklevel=1)


def test_a_name_that_a_terminal_would_act_on_is_shown_escaped(capsys):
    with pytest.raises(SystemExit):
        exits.leave(
            2, "error: runs/\x1b]0;owned\x07/\u202egnp.png, \x9b2J is no \u00e9t\u00e9."
        )
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        r"error: runs/\x1b]0;owned\x07/\u202egnp.png, \x9b2J is no \u00e9t\u00e9."
    ).replace(r"\u00e9", "\u00e9")


WRITE = r"""
import pathlib, sys
from mt_diffusion.files import writing
writing.text(pathlib.Path(sys.argv[1]), "3 \u00d7 \u732b")
"""


def test_files_are_utf_8_in_every_locale(tmp_path):
    surroundings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    path = tmp_path / "index.html"
    command = [sys.executable, "-c", WRITE, path]
    subprocess.run(command, env=os.environ | surroundings, check=True)
    assert path.read_text("utf-8") == "3 \u00d7 \u732b"


PRINT = """
from mt_diffusion.command import exits
with exits.decided(), exits.explained():
    while True:
        print("much" * 1000)
"""


def test_a_reader_that_has_enough_ends_the_command_in_silence():
    with subprocess.Popen(
        [sys.executable, "-c", PRINT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=30) == 141
