"""Examples that are drawn part by part, each kept on disk, so that this can go on."""

import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping

import numpy as np

from mt_diffusion.files import paths, weights, writing
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
    alone has files, and is given the result; to others the folder is None. The result
    lies in files without a name, so that memory holds no more than a part of it.
    """
    found: Arrays = {}
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
            if folder is not None:
                found = found or on_disk(folder, part, num)
                for n, rows in part.items():
                    found[n][start : start + size] = rows[: num - start]
            bar.update(min(size, num - start))
    return found


def on_disk(folder: pathlib.Path, part: Arrays, num: int) -> Arrays:
    """Arrays of `num` rows, of a part's kinds, in files there that have no name.

    Of a folder in a bucket, in this machine's own for temporary files.
    """
    found: Arrays = {}
    here = None if paths.is_remote(folder) else folder
    for name, rows in part.items():
        with tempfile.TemporaryFile(dir=here) as file:
            shape = (num, *rows.shape[1:])
            found[name] = np.memmap(file, rows.dtype, "w+", shape=shape)
    return found
