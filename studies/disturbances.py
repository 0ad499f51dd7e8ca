"""Training by the command, in a process of its own that is disturbed at some moment."""

import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

NUM_STEPS, EVERY = 40, 5
FLAGS = [
    "--config=configs/ddpm.py:smoke",
    "--config.unet.channel_mult=(1,)",
    "--config.unet.attention_resolutions=()",
    "--config.unet.model_channels=8",
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.batch_size=8",
    "--config.watch.log_every=1",
    f"--config.watch.checkpoint_every={EVERY}",
    "--config.watch.sample_every=20",
    "--config.watch.num_pictures=2",
    "--config.sampling.num_steps=2",
]
KINDS = ("SIGKILL", "SIGTERM", "SIGHUP", "second writer", "report", "torn log") + (
    "flipped bit",
    "file size",
    "disk full",
)
PHASES = {"start": 0.15, "compile": 0.2, "step": 0.3, "save": 0.3, "end": 0.05}
BANNER, DONE = "pictures:", "done:"  # what is printed before compiling, after training
PATIENCE = 600  # seconds after which a process counts as hung


@dataclasses.dataclass(frozen=True)
class Injection:
    """What is done to a process, and when.

    step: that must have been reached in the phases step and save, as a share of what
    is left of the run. delay: from the moment that a phase begins, as a share of its
    length. room: bytes that are left, of the disk or for each file.
    """

    kind: str
    phase: str
    step: float
    delay: float
    room: int


def draw(seed: int, i: int, kinds: tuple[str, ...]) -> Injection:
    """The i-th injection."""
    random = np.random.default_rng((seed, i))
    return Injection(
        kind=str(random.choice(kinds)),
        phase=str(random.choice(list(PHASES), p=list(PHASES.values()))),
        step=random.uniform(),
        delay=random.uniform(),
        room=int(random.choice((0, 10 ** random.uniform(2, 5.5)))),
    )


class Process:
    """The command, training in a folder; its output is read by a thread."""

    def __init__(
        self, workdir: pathlib.Path, cache: pathlib.Path, flags: Sequence[str] = FLAGS
    ):
        self.workdir, self.cache = workdir, cache
        self.began, self.lines, self.times = time.monotonic(), [], []
        self.popen = subprocess.Popen(
            [sys.executable, "-u", "-m", "mt_diffusion.main", *flags]
            + [f"--workdir={workdir}"],
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.popen.stdout:
            self.times.append(time.monotonic() - self.began)
            self.lines.append(line)

    def said(self, text: str) -> float | None:
        """Seconds from its start to the first line that has this text."""
        lines = zip(self.lines, self.times, strict=False)
        return next((seconds for line, seconds in lines if text in line), None)

    def hears(self, number: int) -> bool:
        """Whether it has an answer to a signal yet."""
        status = pathlib.Path(f"/proc/{self.popen.pid}/status").read_text()
        masks = re.findall(r"Sig(?:Cgt|Ign):\s*(\w+)", status)
        return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)

    def end(self) -> int | None:
        """Its exit status; None if it had to be killed."""
        try:
            status = self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            status = None
        self._reader.join()
        return status


def phase_begins(
    process: Process, injection: Injection, start: int, workdir: pathlib.Path
) -> bool:
    """Whether the moment has come from which the delay counts."""
    step = start + 1 + int(injection.step * (NUM_STEPS - start))
    if injection.phase == "save":  # the first one from that step on
        drafts = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")
        wanted = min(step, NUM_STEPS - EVERY)
        return process.said("step ") is not None and any(
            int(p.name.partition(".")[0]) >= wanted for p in drafts
        )
    marks = {"compile": BANNER, "step": f"step {step}/", "end": DONE}
    return (
        injection.phase == "start" or process.said(marks[injection.phase]) is not None
    )


def inject(process: Process, injection: Injection, out: pathlib.Path) -> list[str]:
    """Does it; what another process that was started for it did wrong."""
    pid, kind = process.popen.pid, injection.kind
    if kind.startswith("SIG"):
        process.popen.send_signal(signal.Signals[kind])
    elif kind == "file size":
        with contextlib.suppress(ProcessLookupError):  # it has ended
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (injection.room,) * 2)
    elif kind == "disk full":
        fill(out, injection.room)
    elif kind == "second writer":
        other = Process(process.workdir, process.cache)
        return wrong(other, {0: "", 2: "is being written to by process"})
    elif kind == "report":
        other = Process(process.workdir, process.cache, ["--mode=report"])
        return wrong(other, {0: "", 2: "has no metrics.jsonl"})
    else:
        process.popen.kill()
        process.popen.wait()
        damage(process.workdir, injection)
    return []


def wrong(other: Process, allowed: dict[int, str]) -> list[str]:
    """What a process said, unless it ended so, with these words, and without others."""
    status, text = other.end(), "".join(other.lines)
    words = allowed.get(status, "no status at all")
    is_right = words in " ".join(text.split()) and "Traceback" not in text
    is_right &= "all checkpoints" not in text  # are broken, it would say
    return [] if is_right else [f"{status}: {text}"]


def damage(workdir: pathlib.Path, injection: Injection) -> None:
    """What a killed process and an old disk leave: half a line, one bit turned."""
    if injection.kind == "torn log":
        if (workdir / "metrics.jsonl").exists():
            with open(workdir / "metrics.jsonl", "a") as file:
                file.write('{"step": 3, "lo')
        return
    found = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    if len(found) > 1:  # or there would be none to go on from
        newest = max(found, key=lambda p: int(p.name))
        files = sorted(p for p in newest.rglob("*") if p.stat().st_size and p.is_file())
        path = files[int(injection.step * len(files))]
        content = bytearray(path.read_bytes())
        content[int(injection.delay * len(content))] ^= 1 << injection.room % 8
        path.write_bytes(content)


def fill(folder: pathlib.Path, room: int) -> None:
    """Leaves about so many bytes on a disk to which another process writes."""
    with open(folder / "ballast", "wb") as file:
        for margin in (0, 2**14, 2**16, 2**18):
            size = shutil.disk_usage(folder).free - room - margin
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
                return
    raise SystemExit(f"{folder} could not be filled.")
