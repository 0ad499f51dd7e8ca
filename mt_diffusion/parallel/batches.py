"""One batch after the other through a program of one shape, and all that they made."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mt_diffusion.parallel.progress import Progress


def through(
    make: Callable[[np.ndarray], Any],
    rows: range,
    size: int,
    what: str | None = None,
    unit: str = "example",
) -> Any:
    """What `make` gives for `rows`, as a tree of numpy arrays [len(rows), ...].

    make: from rows [size], in order, to a tree of arrays [size, ...] or fewer. The last
    batch is filled up with rows past the end, which `make` has to bear, and what it
    gives for them is dropped: so one program serves all batches. what: before the
    progress; None shows none.
    """
    parts = []
    said: Any = contextlib.nullcontext()
    if what is not None:
        said = Progress(what=what, total=len(rows), unit=unit)
    with said as bar:
        for start in range(rows.start, rows.stop, size):
            parts.append(jax.device_get(make(np.arange(start, start + size))))
            if bar is not None:
                bar.update(min(size, rows.stop - start))
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)
