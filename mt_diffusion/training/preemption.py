"""Being told to stop: by a callback, or by a cluster that takes the machine away."""

import signal
import threading
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

# Called as (step, scalars by name); True in return asks to stop.
Callback = Callable[[int, dict[str, float]], object]


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


def is_wish(said: object) -> bool:
    """Whether a callback said True, and not what a write or an append returns."""
    return isinstance(said, bool | np.bool_) and bool(said)
