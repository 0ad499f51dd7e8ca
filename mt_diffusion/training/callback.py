"""What a program is told of its run, and how it asks to end it."""

from collections.abc import Callable

import numpy as np

# Called as (step, scalars by name); True in return asks to stop.
Callback = Callable[[int, dict[str, float]], object]


def is_wish(said: object) -> bool:
    """Whether a callback said True, and not what a write or an append returns."""
    return isinstance(said, bool | np.bool_) and bool(said)
