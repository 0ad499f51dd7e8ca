"""Processes that read examples for another one, and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from typing import TypeVar

import jax
from absl import flags

from mt_diffusion.errors import UserError

T = TypeVar("T")
DIED = "Worker process was terminated unexpectedly"  # as Grain says it


def begin(index: int, num_workers: int) -> None:
    """What a process does before it reads: it leaves accelerators and signals alone.

    A signal to all of a job is answered by the process that trains, which then needs
    batches for its last step. However that one ends, this one does too: Grain asks it
    to, but not where the other is killed.
    """
    jax.config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def let_grain_read_its_flags() -> None:
    """Lets Grain have the defaults of its flags in programs that parse none.

    It reads them where it begins processes, and absl refuses that before a parsing.
    """
    for name in flags.FLAGS:
        if name.startswith("grain_"):
            flags.FLAGS[name].present = max(flags.FLAGS[name].present, 1)


def end_with_parent() -> None:
    """Ends this process once the one that began it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(0)


def lasting(batches: Iterable[T]) -> Iterator[T]:
    """What processes give; UserError where one of them has ended before its time."""
    try:
        yield from batches
    except RuntimeError as error:
        if DIED not in str(error):
            raise
        raise UserError(
            f"a process of config.data.num_workers has ended ({str(error)[:120]}). "
            "It may have had too little memory: try fewer of them, or 0. In a program "
            "of your own, what trains must stand below if __name__ == '__main__'."
        ) from error
