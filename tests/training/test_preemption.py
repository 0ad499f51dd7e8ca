"""Being told to stop, by whoever may."""

import os
import signal
import subprocess
import sys

import pytest

from mt_diffusion.training.preemption import Preemption

ANSWERED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(autouse=True)
def as_from_a_shell():
    """What a process is started with in the foreground."""
    before = {n: signal.signal(n, signal.SIG_DFL) for n in ANSWERED}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, answer in before.items():
        signal.signal(number, answer)


@pytest.mark.parametrize("number", ANSWERED)
def test_each_signal_stops_after_a_step(number):
    before = signal.getsignal(number)
    with Preemption() as stop:
        assert not stop.reached(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "dup2", lambda *_: None)  # not what pytest prints
            signal.raise_signal(number)
        assert stop.reached(2) and stop.is_interrupted == (number == signal.SIGINT)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_is_not_waited_for(capsys):
    with pytest.raises(KeyboardInterrupt), Preemption():
        signal.raise_signal(signal.SIGINT)
        assert "Ctrl-C again: at once" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_so():
    """By nohup, and by shells for what runs in the background."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with Preemption() as stop:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.raise_signal(number)
        assert not stop.reached(1)


PRINTS = """
import sys, time
from mt_diffusion.training.preemption import Preemption
with Preemption() as stop:
    print("ready", flush=True)
    while not stop.reached(1):
        time.sleep(0.01)
    print("to nobody", flush=True)
    sys.exit(7)
"""


def test_a_run_whose_terminal_is_gone_can_still_print():
    terminal, inner = os.openpty()
    with subprocess.Popen([sys.executable, "-c", PRINTS], stdout=inner) as run:
        os.close(inner)
        assert os.read(terminal, 5) == b"ready"
        os.close(terminal)
        run.send_signal(signal.SIGHUP)
        try:
            assert run.wait(60) == 7
        finally:
            run.kill()
