"""Does a run survive what a cluster does to it? Random injections into real training.

python -m studies.injections --out=runs/injections [--num=200] [--seed=0] \
    [--kinds=SIGHUP] [--summary=OUT/summary.json]

Trains a small network on digits by the command itself. Each call of it is disturbed
once: by kill -9, also with half a line left in the log or one bit turned in the newest
checkpoint, by SIGTERM or SIGHUP, by a second call of it at the same time, by a report
meanwhile, by files that may not grow (RLIMIT_FSIZE) and, where OUT lies on a small file
system of its own, by no space left on it:

    mount -t tmpfs -o size=64m tmpfs runs/injections

The moment is drawn from the whole life of the process: its start, compiling, a step,
the middle of a save, the report at its end. The same command is then called again, with
another injection, until the run is done. Then it must have the parameters, the state of
the optimizer, the metrics and the pictures of an undisturbed run, bit for bit, and the
next run begins.

What is drawn depends on the seed alone, what is hit also on the machine. A benchmark
that was stopped goes on where it was: OUT/attempts.jsonl has every call so far.
SUMMARY and the table that is printed sum them up; results/injections.json is one.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp

from mt_diffusion.files import writing
from mt_diffusion.training import watch
from studies.disturbances import (
    BANNER,
    DONE,
    KINDS,
    Injection,
    Process,
    draw,
    inject,
    phase_begins,
)

ALLOWED = {  # exit statuses; an injection may also come too late to matter
    "SIGKILL": (-signal.SIGKILL, 0),
    "SIGTERM": (75, 0),
    "SIGHUP": (75, 0),
    "second writer": (2, 0),  # whichever comes first has the folder
    "report": (0,),
    "torn log": (-signal.SIGKILL, 0),
    "flipped bit": (-signal.SIGKILL, 0),
    "file size": (2, 0),
    "disk full": (2, 0),
}
SMALL = 2**30  # bytes of a file system that may be filled


def attempt(
    injection: Injection, lengths: dict[str, float], workdir: pathlib.Path
) -> dict:
    """Calls the command, disturbs it, and says what came of it."""
    out, start = workdir.parent, newest(workdir)
    process = Process(workdir, out / "cache")
    injected, heard, complaints = None, True, []
    number = signal.Signals.__members__.get(injection.kind, signal.SIGKILL)
    try:
        while process.popen.poll() is None:
            if phase_begins(process, injection, start, workdir):
                time.sleep(injection.delay * lengths[injection.phase])
                if process.popen.poll() is None:
                    injected = time.monotonic() - process.began
                    heard = process.hears(number)
                    complaints = inject(process, injection, out)
                break
            time.sleep(0.002)
        status = process.end()
    finally:
        process.popen.kill()
        (out / "ballast").unlink(missing_ok=True)
    allowed = ALLOWED[injection.kind] if injected is not None else (0,)
    if injection.kind.startswith("SIG") and not heard:  # yet, and so it ended it
        allowed += (-number,)
    text = "".join([*process.lines, *complaints])
    sound = status in allowed and "Traceback" not in text and consecutive(workdir)
    sound = sound and not complaints
    return dataclasses.asdict(injection) | {
        "injected": injected,
        "from_step": start,
        "to_step": newest(workdir),
        "seconds": time.monotonic() - process.began,
        "status": status,
        "sound": sound,
        "output": "" if sound else text[-5000:],
    }


def newest(workdir: pathlib.Path) -> int:
    """The step of the last checkpoint, 0 for none."""
    names = [p.name for p in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def metrics(workdir: pathlib.Path) -> list[dict]:
    """All whole lines of metrics.jsonl, but for what a clock says."""
    path, found = workdir / "metrics.jsonl", []
    for line in path.read_text().split("\n")[:-1] if path.exists() else []:
        scalars = json.loads(line)
        found.append({n: x for n, x in scalars.items() if n not in watch.CLOCK})
    return found


def consecutive(workdir: pathlib.Path) -> bool:
    """Whether the log has every step from 1 on, once."""
    steps = [line["step"] for line in metrics(workdir) if "loss" in line]
    return steps == list(range(1, len(steps) + 1))


def same(workdir: pathlib.Path, whole: pathlib.Path) -> list[str]:
    """In what a run differs from the undisturbed one, which should be nothing."""
    one, other = (dict(contents(folder)) for folder in (workdir, whole))
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not equal(one[name], other[name])
    ]


def contents(workdir: pathlib.Path) -> Iterator[tuple[str, object]]:
    """Parameters and the rest of the last state, metrics, pictures."""
    last = workdir / "checkpoints" / str(newest(workdir))
    with ocp.StandardCheckpointer() as reader:
        for part in ("params", "ema_params", "opt_state", "step"):
            yield f"{last.name} {part}", reader.restore(last / part)
    yield "metrics", metrics(workdir)
    for path in sorted((workdir / "samples").iterdir()):
        yield path.name, path.read_bytes()


def equal(one: object, other: object) -> bool:
    """Bit for bit, and of the same structure."""
    leaves, structures = zip(*map(jax.tree.flatten, (one, other)), strict=True)
    return structures[0] == structures[1] and all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(*leaves, strict=True)
    )


def undisturbed(out: pathlib.Path) -> dict[str, float]:
    """Seconds that the phases of an undisturbed run take; leaves it in OUT/whole."""
    path = out / "lengths.json"
    if not path.exists():
        for folder in (
            out / "compiled",
            out / "whole",
        ):  # the first one fills the cache
            shutil.rmtree(folder, ignore_errors=True)
            process = Process(folder, out / "cache")
            if process.end() != 0:
                sys.exit("".join(process.lines))
        banner, first = process.said(BANNER), process.said("step 1/")
        end = process.times[-1] - process.said(DONE)
        lengths = {"start": banner, "compile": first - banner, "end": end}
        writing.as_json(path, lengths | {"step": 0.1, "save": 0.6})
    return json.loads(path.read_text())


def summary(attempts: list[dict], runs: list[dict], seed: int) -> dict:
    """All that was found, as numbers."""
    injected = [a for a in attempts if a["injected"] is not None]
    rows = collections.defaultdict(collections.Counter)
    for a in injected:
        rows[f"{a['kind']}, {a['phase']}"][f"status {a['status']}"] += 1
    return {
        "seed": seed,
        "injections": len(injected),
        "calls": len(attempts),
        "unsound": [a for a in attempts if not a["sound"]],
        "runs": len(runs),
        "runs_that_differ": [r for r in runs if r["differs"]],
        "seconds_of_a_call": float(np.mean([a["seconds"] for a in attempts])),
        "by_kind_and_phase": {name: dict(rows[name]) for name in sorted(rows)},
    }


def table(found: dict) -> str:
    """As Markdown."""
    lines = ["| injection | while | calls | exit statuses |", "|---|---|---|---|"]
    for name, statuses in found["by_kind_and_phase"].items():
        kind, phase = name.split(", ")
        ends = ", ".join(
            f"{status.split()[1]}: {num}" for status, num in sorted(statuses.items())
        )
        lines.append(f"| {kind} | {phase} | {sum(statuses.values())} | {ends} |")
    lines.append(
        f"\n{found['injections']} injections, {len(found['unsound'])} of them not "
        f"survived; {found['runs']} runs came to their end, "
        f"{len(found['runs_that_differ'])} of them with another result than the "
        "undisturbed one."
    )
    return "\n".join(lines)


def read(path: pathlib.Path) -> list[dict]:
    """All lines of a file of JSON."""
    return (
        [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    )


def append(path: pathlib.Path, facts: dict) -> None:
    """One more line."""
    with open(path, "a") as file:
        file.write(json.dumps(facts) + "\n")


def main() -> None:
    """Goes on until so many were made, and the last run has come to its end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = pathlib.Path("runs/injections")
    parser.add_argument("--out", type=pathlib.Path, default=out, help="(%(default)s)")
    parser.add_argument("--num", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="(%(default)s)")
    parser.add_argument("--summary", type=pathlib.Path, help="(OUT/summary.json)")
    args = parser.parse_args()
    if args.num < 1:
        parser.error(f"--num={args.num}: at least one.")
    kinds = tuple(args.kinds.split(","))
    if not set(kinds) <= set(KINDS):
        parser.error(f"--kinds={args.kinds}: choose from {', '.join(KINDS)}.")
    # A handler is of this process alone; what nohup has it ignore, its calls would too.
    signal.signal(signal.SIGHUP, lambda *_: None)
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out).total >= SMALL:
        kinds = tuple(kind for kind in kinds if kind != KINDS[-1])
    lengths = undisturbed(out)
    while True:
        attempts, runs = read(out / "attempts.jsonl"), read(out / "runs.jsonl")
        found = summary(attempts, runs, args.seed) if attempts else {"injections": 0}
        workdir = out / f"run_{len(runs)}"
        if found["injections"] >= args.num and not workdir.exists():
            break
        injection = draw(args.seed, len(attempts), kinds)
        done = attempt(injection, lengths, workdir)
        append(out / "attempts.jsonl", done)
        print(json.dumps(done)[:300], flush=True)
        if done["status"] == 0:
            differs = same(workdir, out / "whole")
            append(out / "runs.jsonl", {"calls": len(attempts) + 1, "differs": differs})
            shutil.rmtree(workdir)
    writing.as_json(args.summary or out / "summary.json", found)
    print(table(found))


if __name__ == "__main__":
    main()
