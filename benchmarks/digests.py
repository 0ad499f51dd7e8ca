"""What do the digests of a checkpoint cost, as a share of a save and of a restore?

    . launch/setup.sh
    python -m benchmarks.digests [--gib=1] [--runs=5] [--out=runs/digests]

Each save is waited for until it is on disk, and ends with a sync. What a restore reads
comes from memory, as that which was just written.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from ml_collections import ConfigDict

from mt_diffusion.experiment import checkpoint
from mt_diffusion.files import digests

ARRAYS = 64


@contextlib.contextmanager
def clock(name: str) -> Iterator[list[float]]:
    """Counts the seconds that are spent in a function of `digests`."""
    spent, inner = [0.0], getattr(digests, name)

    def timed(*args: Any) -> Any:
        begun = time.monotonic()
        try:
            return inner(*args)
        finally:
            spent[0] += time.monotonic() - begun

    with mock.patch.object(digests, name, timed):
        yield spent


def shares(folder: pathlib.Path, state: dict) -> tuple[float, float]:
    """Of the rest of a save into an empty folder, and of a restore; prints seconds."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    found = []
    for name, action in (("write", save), ("check", restore)):
        with clock(name) as spent:
            begun = time.monotonic()
            action(folder, state)
            whole = time.monotonic() - begun
        found.append(spent[0] / (whole - spent[0]))
        print(f"{action.__name__} {whole:.2f} s, of it digests {spent[0]:.3f} s")
    return found[0], found[1]


def save(folder: pathlib.Path, state: dict) -> None:
    """Until it is on disk."""
    kept = checkpoint.Checkpoints(folder, keep=1)
    kept.save(1, state, ConfigDict({"steps": 1}))
    kept.close()
    os.sync()


def restore(folder: pathlib.Path, state: dict) -> None:
    """What was saved."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    jax.block_until_ready(checkpoint.Checkpoints(folder).restore(1, abstract))


def main() -> None:
    """Prints the seconds of each run, and the medians of the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=1, help="of state (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="(%(default)s)")
    out = pathlib.Path("runs/digests")
    parser.add_argument("--out", type=pathlib.Path, default=out, help="(%(default)s)")
    args = parser.parse_args()
    size = int(args.gib * 2**30 / 4 / ARRAYS)
    keys = jax.random.split(jax.random.key(0), ARRAYS)
    state = {"params": {f"{i}": jax.random.normal(k, size) for i, k in enumerate(keys)}}
    rows = [shares(args.out, state) for _ in range(args.runs + 1)][1:]
    for name, found in zip(("save", "restore"), zip(*rows, strict=True), strict=True):
        low, middle, high = min(found), statistics.median(found), max(found)
        print(f"digests add {middle:.1%} to a {name} ({low:.1%} to {high:.1%})")
    shutil.rmtree(args.out)


if __name__ == "__main__":
    main()
