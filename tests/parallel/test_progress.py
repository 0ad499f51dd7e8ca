"""How far a run is, on terminals of any width and in a pipe."""

import io
import pathlib
import sys

import pytest
import tqdm

from mt_diffusion.parallel import progress
from mt_diffusion.parallel.progress import Progress


class Clock:
    """Seconds that pass when told, as tqdm asks for them."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(tqdm.std, "time", lambda: self.now)


class Terminal(io.StringIO):
    """What a terminal was told."""

    def isatty(self):
        return True


def shown_on_a_terminal(columns, monkeypatch, clock):
    """The last line of a bar at 2,345 of 100,000 steps, with a loss and more."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Progress(total=100_000, unit="step")  # as of training
    bar.dynamic_ncols = lambda _: (columns, 24)  # as of a terminal so wide
    bar.set_postfix_str("loss 0.1234  eps 0.1  label 0.02", refresh=False)
    for _ in range(2345):
        clock.now += 0.125
        bar.update()
    line = terminal.getvalue().split("\r")[-1].rstrip()
    bar.close()
    return line


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_line_fits_the_terminal_with_speed_time_left_and_loss(columns, monkeypatch):
    line = shown_on_a_terminal(columns, monkeypatch, Clock(monkeypatch))
    assert len(line) <= columns
    for word in ("2345/100000", "8.00 step/s", "3:23:2", "loss 0.1234"):
        assert word in line
    assert ("label 0.02" in line) == (columns >= 80)


def test_in_a_pipe_there_is_a_line_every_30_seconds(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    for _ in Progress(range(100), "samples", 100):
        clock.now += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "\r" not in "".join(lines)
    assert [line.split()[1] for line in lines] == ["30%", "60%", "90%", "100%"]
    assert "samples:  30% 30/100" in lines[0] and "01:10 left" in lines[0]


def test_what_takes_no_time_says_its_end_alone_in_a_pipe(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress(what="samples", total=10) as bar:
        for _ in range(10):
            clock.now += 2
            bar.update()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("samples: 100% 10/10")
    with Progress(what="nothing", total=0):
        pass
    assert capsys.readouterr().err == ""


def test_a_line_waits_for_what_somebody_else_has_said(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    bar = Progress(what="train", total=100)
    for _ in range(50):
        clock.now += 20
        bar.wait()
        clock.now += 9
        bar.update()
    assert capsys.readouterr().err == ""


def test_the_speed_is_right_whoever_says_where_it_is(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    bar = Progress(total=1000, unit="step")
    for step in range(1, 201):
        clock.now += 0.25
        bar.update()
        if step in (50, 75):  # a line of the log's, the last at 18.75 s
            bar.wait()
    (line,) = capsys.readouterr().err.splitlines()
    assert "4.00 step/s 03:21 left" in line  # at 48.75 s, with 805 to go


def test_what_has_no_parts_says_how_long_it_takes(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(progress, "OFTEN", 0.01)
    with progress.clock("compiling"):
        while "00:40" not in (told := capsys.readouterr().err):
            clock.now += 40 * (clock.now == 1000)
    assert "\r" not in told and told.splitlines()[-1] == "compiling: 00:40"
    clock.now += 20
    with progress.clock("compiling"):
        clock.now += 2
    assert capsys.readouterr().err.splitlines()[-1] == "compiling: 00:02"
    monkeypatch.undo()  # a tick of 30 s, which no failure waits for
    with pytest.raises(KeyError), progress.clock("compiling"):
        raise KeyError
    assert capsys.readouterr().err == ""


def test_bytes_are_counted_in_their_thousands(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    total = 61_683_754
    with Progress(what="a.tgz", total=total, unit="B", scaled=True) as bar:
        for _ in range(2):
            clock.now += 31
            bar.update(total // 2)
    assert "50% 30.8M/61.7M" in capsys.readouterr().err


def test_nothing_else_says_how_far_it_is():
    package = pathlib.Path(progress.__file__).parents[1]
    found = [p.name for p in package.rglob("*.py") if "import tqdm" in p.read_text()]
    assert found == ["progress.py"]
