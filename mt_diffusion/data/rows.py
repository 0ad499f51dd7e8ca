"""Which rows of many are looked at, where not all of them need be."""

import numpy as np


def spread(num: int, most: int) -> list[int]:
    """At most so many indices, evenly over all `num`, first and last included."""
    return np.linspace(0, num - 1, min(num, most)).astype(int).tolist()
