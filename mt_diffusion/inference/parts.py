"""Examples that are drawn part by part, each kept on disk, so that this can go on."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from mt_diffusion.files import weights, writing
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress

FOLDER = "parts"
Arrays = dict[str, np.ndarray]


def mark(
    params: str, given: Mapping[str, np.ndarray], settings: str, num: int, seed: int
) -> str:
    """16 hexadecimal digits for what decides a sampling, but for a guide's parameters.

    To name the folder of its parts, so that those of no other one are taken. params:
    their digest. settings: config.sampling as JSON.
    """
    facts = [params, weights.digest(given), settings, num, seed]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def carry_out(
    folder: pathlib.Path | None,
    num: int,
    size: int,
    make: Callable[[range], Arrays],
    what: str,
) -> Arrays:
    """Rows 0 to `num` of all arrays; `size` at a time are made, unless they are there.

    folder: of the parts, for whoever has saved the result to remove. make: from numbers
    of rows to arrays of that many, in every process of a job. Of these the first one
    alone has files, and is given the result; to others the folder is None.
    """
    found: list[Arrays] = []
    with Progress(what=what, total=num, unit="example") as bar:
        for start in range(0, num, size):
            # Other sizes, as of other devices before an interruption, don't mix.
            name = f"{start:08d}_{size}.npz"
            part = {} if folder is None else weights.kept(folder / name)
            if sharding.anywhere(part is None) or part is None:
                # The last one whole as well, so that one program draws them all.
                part = make(range(start, start + size))
                if folder is not None:
                    writing.arrays(folder / name, part)
            found.append(part)
            bar.update(min(size, num - start))
    if folder is None:
        return {}
    return {n: np.concatenate([part[n] for part in found])[:num] for n in found[0]}
