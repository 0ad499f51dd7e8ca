"""Being told to stop: by a cluster (SIGTERM), a closed terminal (SIGHUP), Ctrl-C."""

import os
import signal
import stat
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Listens while it is entered; a job of several processes stops at one step.

    is_interrupted: whether it was by Ctrl-C. A second one is not waited for.
    """

    def __init__(self):
        self.is_interrupted = False
        self._told, self._previous = False, {}

    def reached(self, step: int) -> bool:
        """Whether to stop after this step. To be asked once after every step."""
        if jax.process_count() > 1:  # any process may be told; they agree on a step
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

    def __enter__(self) -> "Preemption":
        is_alone = jax.process_count() == 1
        # Of several processes JAX listens, to SIGTERM; a closed terminal passes it on.
        answers = {signal.SIGHUP: self._hung_up}
        if is_alone:
            answers |= {signal.SIGTERM: self._note, signal.SIGINT: self._interrupted}
        if threading.current_thread() is threading.main_thread():
            for number, answer in answers.items():
                # What nohup, or a shell for its background, says to ignore, is ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, answer)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, answer in self._previous.items():
            signal.signal(number, answer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.is_interrupted:
            raise KeyboardInterrupt
        self._told = self.is_interrupted = True
        print("stopping after this step; Ctrl-C again: at once", file=sys.stderr)

    def _hung_up(self, number: int, frame: FrameType | None) -> None:
        """Nobody reads what is printed; to print to a terminal that is gone fails."""
        self._told = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
        os.close(nowhere)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
