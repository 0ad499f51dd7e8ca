"""Being told to stop: SIGTERM, which clusters send before they take a machine away."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Listens while it is entered; a job of several processes stops at one step.

    JAX listens for such a job, and nobody does in a thread of a program, which handles
    its signals itself.
    """

    def __init__(self):
        self._told = False
        in_thread = threading.current_thread() is not threading.main_thread()
        self._listens = jax.process_count() == 1 and not in_thread

    def reached(self, step: int) -> bool:
        """Whether to stop after this step. To be asked once after every step."""
        if jax.process_count() > 1:  # any process may be told; they agree on a step
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

    def __enter__(self) -> "Preemption":
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_: object) -> None:
        self._told = True
