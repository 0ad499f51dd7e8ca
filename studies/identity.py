"""Does a change leave every array as it was? Smoke runs on two checkouts, compared.

python -m studies.identity BEFORE AFTER --out=runs/identity [--only=image_label,joint]

BEFORE and AFTER are folders of checkouts (`git worktree add ../before COMMIT`). Each
trains all settings, samples from nothing and with a label given, and bounds; then all
arrays of checkpoints, samples and figures are compared bit by bit. Prints how many are
equal, and how far the others are apart; ends with 1 where there are any. What has been
run is not run again.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mt_diffusion.files import digests

# What is given in a second draw.
SETTINGS = {
    "ddpm": "",
    "image_label": "--given=label=3",
    "image_label_10": "--given=label=3",
    "image_cluster": "",
    "masked_image": "",
    "image_representation": "",
    "image_transition": "",
    "joint": "--given=label=3",
}
# Of the clock alone.
LEFT_OUT = {"images_per_second", "data_wait", "seconds"}


def run(checkout: pathlib.Path, setting: str, given: str, out: pathlib.Path) -> None:
    """All modes of one setting on one checkout, into out/setting."""
    workdir = out / setting
    done = workdir / "identity.done"
    if done.exists():
        return
    place = f"--workdir={workdir}"
    config = f"--config=configs/{setting}.py:smoke"
    calls = [[config, place]]
    calls.append(["--mode=sample", place, "--num_samples=4"])
    if given:
        calls.append(["--mode=sample", place, "--num_samples=4", given])
    calls.append(["--mode=bound", place, "--num_examples=8", "--num_times=4"])
    for flags in calls:
        command = [sys.executable, "-m", "mt_diffusion.main", *flags]
        ended = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(
                f"{checkout}: {shlex.join(command)} failed:\n{ended.stderr[-2000:]}"
            )
    done.touch()


def arrays(workdir: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all that a run left."""
    reader = ocp.StandardCheckpointer()
    for step in sorted(workdir.glob("checkpoints/*")):
        for part in sorted(p for p in step.iterdir() if (p / "_METADATA").exists()):
            tree = reader.restore(part.absolute())
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                name = jax.tree_util.keystr(path)
                yield f"checkpoint {step.name} {part.name} {name}", np.asarray(leaf)
    for path in sorted(workdir.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as found:
            for name in found.files:
                yield f"{path.relative_to(workdir)} {name}", found[name]
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        for name, number in numbers(json.loads(line)):
            yield f"metrics {line[:40]} {name}", number
    # The digests of a checkpoint are of files that have random names and times inside.
    for path in sorted({*workdir.rglob("*.json")} - {*workdir.rglob(digests.FILE)}):
        for name, number in numbers(json.loads(path.read_text())):
            yield f"{path.relative_to(workdir)} {name}", number


def numbers(found: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """(name, number) of all numbers in what was JSON, but those of the clock."""
    if isinstance(found, Mapping):
        for key in found.keys() - LEFT_OUT:
            yield from numbers(found[key], f"{name}.{key}")
    elif isinstance(found, list):
        for i, item in enumerate(found):
            yield from numbers(item, f"{name}.{i}")
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield name, np.asarray(found)


def compare(before: pathlib.Path, after: pathlib.Path) -> tuple[int, dict[str, str]]:
    """How many arrays are equal to the bit, and {name: in what way} of the others."""
    old, new = dict(arrays(before)), dict(arrays(after))
    other = dict.fromkeys(old.keys() ^ new.keys(), "in one of them alone")
    for name in old.keys() & new.keys():
        a, b = old[name], new[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            other[name] = f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
        elif a.tobytes() != b.tobytes():
            apart = np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)))
            other[name] = f"{apart:.2g} apart"
    return len(old.keys() | new.keys()) - len(other), other


def main() -> int:
    """Runs, compares, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default="runs/identity")
    parser.add_argument("--only", default=",".join(SETTINGS))
    args = parser.parse_args()
    rows, failed = [], False
    for setting in args.only.split(","):
        places = []
        for side in ("before", "after"):
            out = args.out.absolute() / side
            out.mkdir(parents=True, exist_ok=True)
            run(getattr(args, side), setting, SETTINGS[setting], out)
            places.append(out / setting)
        equal, other = compare(*places)
        rows.append(f"| {setting} | {equal} | {len(other)} |")
        for name, way in sorted(other.items()):
            print(f"{setting}: {name}: {way}")
        failed |= bool(other)
    print(
        "| setting | arrays equal to the bit | others |",
        "|---|---|---|",
        *rows,
        sep="\n",
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
