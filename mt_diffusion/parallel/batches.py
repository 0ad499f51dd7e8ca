"""One batch after the other through a program of one shape, and all that they made."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm


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
    hidden = True if what is None else None
    with tqdm.tqdm(total=len(rows), desc=what, unit=unit, disable=hidden) as bar:
        for start in range(rows.start, rows.stop, size):
            parts.append(jax.device_get(make(np.arange(start, start + size))))
            bar.update(min(size, rows.stop - start))
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *parts)
