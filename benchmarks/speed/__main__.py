"""Training and sampling against Hugging Face diffusers' `UNet2DModel` in PyTorch.

bash launch/speed.sh [--out=results/speed] [--rounds=20] [--starts=5] [--torch=PYTHON]

Both sides have the same U-Net, batch, threads and malloc, each a process of its own. In
every round each does one training step, or draws one batch in 20 DDIM steps, in turn;
the others wait. So a ratio compares neighbours in time, and whatever else the machine
does falls on both. It is of PyTorch's time to ours: above 1 ours is faster. The rounds
are shared out among several starts of all sides, for a process can be slower than
another of the same program as long as it lives.

Seconds to the first step are from the command to the end of the first step or batch:
with empty caches of compiled programs, and again with those just filled. OUT gets
table.md, and times.json with every measurement.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.speed.shapes import SHAPES
from mt_diffusion.files import writing

OURS = "ours"
VARIANTS = {
    "PyTorch eager": "",
    "PyTorch, channels_last": "channels_last",
    "PyTorch, compile": "compile",
    "PyTorch, channels_last, compile": "channels_last+compile",
}
JOBS = ("train", "sample")
CLOSE = 0.05  # of FLOPs: XLA counts sums as well, but no products with padding


class Side:
    """A running process that does a job when it is asked to.

    first_seconds: from its start to the end of its first job. facts: what it said then.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str]):
        start = time.perf_counter()
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.facts = self._answer()
        self.first_seconds = time.perf_counter() - start

    def time(self, num: int) -> dict:
        """Seconds of `num` jobs, and the most memory that the process has had."""
        self._process.stdin.write(f"{num}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict:
        try:
            line = self._process.stdout.readline()
        except BaseException:  # told to end, and this one may be compiling for minutes
            self._process.kill()
            raise
        if not line:
            self._errors.seek(0)
            said = self._errors.read()
            self.close()
            raise SystemExit(f"{self._process.args} ended:\n{said}")
        return json.loads(line)


def environment(caches: str, platform: str = "cpu") -> dict[str, str]:
    """What all sides get: one thread per CPU that they may use, and empty caches.

    platform: of JAX; '' for what there is.
    """
    threads = str(len(os.sched_getaffinity(0)))
    return os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "JAX_PLATFORMS": platform,
        "JAX_COMPILATION_CACHE_DIR": f"{caches}/xla",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
    }


def command(name: str, shape: str, job: str, torch: str) -> list[str]:
    """How that side is started."""
    order = {"shape": shape, "job": job, "variant": VARIANTS.get(name, "")}
    side = (
        [sys.executable, "-m", "benchmarks.speed.ours"]
        if name == OURS
        else [torch, "-m", "benchmarks.speed.pytorch"]
    )
    return [*side, json.dumps(order)]


def measure(shape: str, job: str, options: argparse.Namespace) -> dict[str, dict]:
    """{side: seconds [rounds], first seconds cold and [starts] warm, memory, facts}."""
    with tempfile.TemporaryDirectory() as caches:

        def start(name: str) -> Side:
            order = command(name, shape, job, options.torch)
            return Side(order, environment(caches))

        found = {}
        for name in (OURS, *VARIANTS):
            print(f"{shape} {job}: first start of {name}", flush=True)
            side = start(name)
            side.close()
            found[name] = side.facts | {"cold": side.first_seconds}
            found[name] |= {"warm": [], "seconds": [], "peak_bytes": 0}
        check(shape, found)
        for i in range(options.starts):
            print(f"{shape} {job}: start {i + 1} of {options.starts}", flush=True)
            sides = {name: start(name) for name in found}
            take_turns(sides, found, options.rounds // options.starts)
            for name, side in sides.items():
                side.close()
                found[name]["warm"].append(side.first_seconds)
    return found


def take_turns(sides: dict[str, Side], found: dict[str, dict], rounds: int) -> None:
    """Adds to what was found the seconds and the memory of some rounds."""
    for side in sides.values():
        side.time(1)  # what comes once, as lazy set-up, is over
    for i in range(rounds):
        # There and back, so that nobody is always the one after the slowest.
        for name in list(sides)[:: 1 if i % 2 == 0 else -1]:
            answer, known = sides[name].time(1), found[name]
            known["seconds"].append(answer["seconds"])
            known["peak_bytes"] = max(known["peak_bytes"], answer["peak_bytes"])


def check(shape: str, found: dict[str, dict]) -> None:
    """Asserts that all sides run the same network: parameters, and FLOPs nearly."""
    ours = found[OURS]
    for name, side in found.items():
        assert side["parameters"] == ours["parameters"], (shape, name, side, ours)
        ratio = side["flops_per_image"] / ours["flops_per_image"]
        assert abs(ratio - 1) < CLOSE, (shape, name, ratio)


def ratios(ours: dict, other: dict) -> np.ndarray:
    """Quartiles of the other's seconds over ours, round by round."""
    per_round = np.divide(other["seconds"], ours["seconds"])
    return np.quantile(per_round, [0.25, 0.5, 0.75])


def rows(shape: str, job: str, found: dict[str, dict]) -> list[str]:
    """The table's rows of one job, the fastest of PyTorch in bold."""
    images = SHAPES[shape].batch_size if job == "train" else SHAPES[shape].num_sampled
    best = min(VARIANTS, key=lambda name: ratios(found[OURS], found[name])[1])
    lines = []
    for name, side in found.items():
        rate = images / np.median(side["seconds"])
        low, middle, high = ratios(found[OURS], side)
        ratio = "" if name == OURS else f"{middle:.2f} ({low:.2f} to {high:.2f})"
        label = f"**{name}**" if name == best else name
        cells = [shape, job, label, f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"]
        cells += [f"**{ratio}**" if name == best else ratio]
        cells += [f"{side['peak_bytes'] / 2**30:.2f}"]
        cells += [f"{side['cold']:.0f}", f"{np.median(side['warm']):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def table(found: dict[str, dict[str, dict]], options: argparse.Namespace) -> str:
    """All of it in Markdown."""
    threads = len(os.sched_getaffinity(0))
    lines = [
        f"{options.rounds} rounds in {options.starts} starts on {threads} CPU cores "
        f"({platform.machine()}). "
        "Ratio: ours / PyTorch in images per second, median and quartiles over the "
        "rounds; in bold PyTorch's fastest.",
        "",
        *(
            f"- {name}: {found[f'{name} train'][OURS]['parameters']:,} parameters, "
            f"batches of {shape.batch_size} in training and {shape.num_sampled} in "
            "sampling"
            for name, shape in SHAPES.items()
            if f"{name} train" in found
        ),
        "",
        "| images | job | side | images/s | ours / it | peak GiB | first, cold s "
        "| first, warm s |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for key, sides in found.items():
        shape, job = key.split()
        lines += rows(shape, job, sides)
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out = pathlib.Path("results/speed")
    parser.add_argument("--out", type=pathlib.Path, default=out, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--starts", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--torch", default=sys.executable, help="Python with diffusers")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    options = parser.parse_args()
    if options.starts < 1 or options.rounds % options.starts:
        parser.error(f"--starts={options.starts} must divide --rounds={options.rounds}")
    if problem := lacks(options.torch):
        parser.error(f"--torch={options.torch}: {problem}; see launch/speed.sh --help")
    return options


def lacks(torch: str) -> str:
    """Why that Python can't be PyTorch's side; nothing where it can."""
    look = [torch, "-c", "import diffusers, torch"]
    try:
        done = subprocess.run(look, capture_output=True, text=True)
    except OSError as error:
        return error.strerror
    said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return said[-1] if done.returncode else ""


def main() -> None:
    """Measures, and writes after every job what there is."""
    options, found = parse(), {}
    writing.make_folder(options.out, f"--out={options.out}")
    for shape in options.shapes:
        for job in options.jobs:
            found[f"{shape} {job}"] = measure(shape, job, options)
            shown = {k: dataclasses.asdict(SHAPES[k]) for k in options.shapes}
            content = {"shapes": shown, "found": found}
            writing.as_json(options.out / "times.json", content)
            writing.text(options.out / "table.md", table(found, options))
    print(table(found, options))


if __name__ == "__main__":
    main()
