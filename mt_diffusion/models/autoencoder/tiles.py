"""Large images in tiles that overlap, so that memory does not grow with the image.

As diffusers has it: tiles of the size that the autoencoder was trained at, 3/4 of one
apart, and where two overlap one fades into the other. Each tile has its own norms and
its own attention, so the whole is not what it would be at once.
"""

from collections.abc import Callable

import numpy as np

APART = 0.75  # of a tile, from one to the next


def through(
    convert: Callable[[np.ndarray], np.ndarray], x: np.ndarray, size: int, out: int
) -> np.ndarray:
    """What `convert` makes of [N, H, W, C], in tiles where a side is above `size`.

    size, out: of a tile, and of what is made of it.
    """
    if max(x.shape[1:3]) <= size:
        return convert(x)
    step, fade = int(size * APART), int(out * (1 - APART))
    kept = out - fade
    above: list[np.ndarray] = []
    rows = []
    for i in range(0, x.shape[1], step):
        row: list[np.ndarray] = []
        for j in range(0, x.shape[2], step):
            tile = np.array(convert(x[:, i : i + size, j : j + size]))
            if above:
                blend(above[len(row)], tile, fade, axis=1)
            if row:
                blend(row[-1], tile, fade, axis=2)
            row.append(tile)
        rows.append(np.concatenate([t[:, :kept, :kept] for t in row], axis=2))
        above = row
    return np.concatenate(rows, axis=1)


def blend(before: np.ndarray, tile: np.ndarray, fade: int, axis: int) -> None:
    """Lets the end of a tile fade into the beginning of the next one, in its place."""
    fade = min(before.shape[axis], tile.shape[axis], fade)
    share = (np.arange(fade, dtype=tile.dtype) / max(fade, 1)).reshape(
        [-1 if k == axis else 1 for k in range(tile.ndim)]
    )
    end = [slice(None)] * tile.ndim
    begin = list(end)
    begin[axis] = slice(0, fade)
    end[axis] = slice(before.shape[axis] - fade, None)
    old, new = before[tuple(end)], tile[tuple(begin)]
    tile[tuple(begin)] = old * (1 - share) + new * share
