"""What a person sees of a run: banner, progress, metrics on disk, pictures."""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import PIL.Image
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.files import writing
from mt_diffusion.files.growing import Growing
from mt_diffusion.parallel.progress import Progress
from mt_diffusion.training import logs
from mt_diffusion.training.logs import LOGS, METRICS, Log

SPEED, WAIT = "images_per_second", "data_wait"
MUCH = 0.05  # of the time waited for data, from which on the terminal says so
CLOCK = {SPEED, WAIT}  # scalars that no second run would have
SAMPLES = "samples"
WALK = "walk"  # the kind of a picture
T = TypeVar("T")


def count(tree: Any) -> int:
    """Number of parameters in a tree of arrays or shapes."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def banner(
    workdir: pathlib.Path,
    mesh: Mesh,
    params: Any,
    facts: Mapping[str, str],
    names: Sequence[str],
) -> None:
    """Prints the machine, the network by part, `facts`, and what is written where.

    names: of logs.
    """
    devices = mesh.devices.ravel()
    parts = params["params"]
    lines = {
        "devices": f"{len(devices)} x {devices[0].device_kind}, "
        f"mesh {dict(mesh.shape)}, {jax.process_count()} process(es)",
        "parameters": f"{count(parts):,}: "
        + ", ".join(f"{name} {count(part):,}" for name, part in parts.items()),
        **facts,
        "checkpoints": workdir / "checkpoints",
        "metrics": f"{workdir / METRICS}{logs.told(workdir, names)}",
        "pictures": workdir / SAMPLES,
    }
    for name, value in lines.items():
        print(f"{name:>12}: {value}")
    sys.stdout.flush()


def build(
    workdir: pathlib.Path,
    start: int,
    config: ConfigDict,
    names: Sequence[str],
    check_lock: Callable[[], None],
) -> "Watch | Silent":
    """What this process writes: all in the first one of a job, nothing in others.

    All else as of `Watch`.
    """
    if jax.process_index():
        return Silent()
    return Watch(workdir, start, config, names, check_lock)


class Watch:
    """Progress on the terminal, scalars in metrics.jsonl and logs, pictures as PNG.

    names: of logs. start: the step that a resumed run continues from; later lines of an
    earlier attempt are dropped, so that no step is logged twice. check_lock: as of
    `Checkpoints`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        start: int,
        config: ConfigDict,
        names: Sequence[str] = (logs.USUAL,),
        check_lock: Callable[[], None] = lambda: None,
    ):
        self._workdir, self._check_lock = workdir, check_lock
        self._num_steps = config.train.num_steps
        self._batch_size = config.train.batch_size
        self._start = start
        self.restart_clock(start)
        writing.make_folder(workdir / SAMPLES, f"--workdir={workdir}", workdir)
        writing.stay_within(workdir / METRICS, workdir)
        self._growing = Growing(workdir)
        with writing.explained(workdir / METRICS):
            keep_lines(workdir / METRICS, start)
            self._metrics = self._growing.take(METRICS)
        self._logs: list[Log] = []
        for name in names:
            kind = LOGS[name]
            with writing.explained(workdir / kind.file):
                for file in kind.resumed:
                    self._growing.take(file)
                self._logs.append(kind(self._growing.here, start, config))
        self._bar = Progress(total=self._num_steps, unit="step", initial=start)

    def waited_for(
        self, batches: Iterable[T], is_idle: Callable[[], bool]
    ) -> Iterator[T]:
        """The batches; counts the time for each that came when the devices were idle.

        It may be too much: they may have been busy for a part of it.
        """
        rest = iter(batches)
        while True:
            start = time.monotonic()
            try:
                batch = next(rest)
            except StopIteration:
                return
            if is_idle():
                self._waited += time.monotonic() - start
            yield batch

    def advance(self, step: int) -> None:
        """Says that so many steps are done."""
        if step == self._start + 1:  # the first one compiled; that is not its speed
            self.restart_clock(step)
        self._bar.update()

    def restart_clock(self, step: int) -> None:
        """Measures the speed from here on, after something that is not training."""
        self._last, self._waited = (step, time.monotonic()), 0.0

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars everywhere, with what the clock says since the last call.

        That is the speed, and the share of the time in which the devices had nothing to
        do but wait for a batch; both are unknown for the first step, which compiled.
        """
        now = time.monotonic()
        last_step, last_time = self._last
        seconds = max(now - last_time, 1e-9)
        speed = (step - last_step) / seconds
        scalars = dict(scalars)
        if speed:
            scalars[SPEED] = speed * self._batch_size
            scalars[WAIT] = self._waited / seconds
        shown = "  ".join(
            f"{n} {scalars[n]:.4g}"
            for n in scalars
            if not n.startswith("skipped") and (n != WAIT or scalars[n] >= MUCH)
        )
        self._bar.set_postfix_str(shown, refresh=False)
        if not self._bar.is_terminal:
            print(f"step {step}/{self._num_steps}  {shown}  {self._left(step, speed)}")
            sys.stdout.flush()
            self._bar.wait()
        self.write(step, scalars)
        self.restart_clock(step)

    def _left(self, step: int, speed: float) -> str:
        """The time left, where the speed is known."""
        if not speed:
            return ""
        return f"{Progress.format_interval((self._num_steps - step) / speed)} left"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars to disk alone."""
        finite = {n: x if math.isfinite(x) else None for n, x in scalars.items()}
        path = self._metrics
        with writing.explained(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for log in self._logs:
            with self._explained(log):
                log.scalars(step, scalars)
        if self._growing.is_due:
            self.send()

    def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
        """Writes a picture as samples/STEP_NAME.png and to logs."""
        path = self._workdir / SAMPLES / f"{step:07d}_{name}.png"
        writing.image(path, image)
        for log in self._logs:
            with self._explained(log):
                log.picture(step, name, image)

    def send(self) -> None:
        """Sees to it that all that was written so far is in a workdir in a bucket."""
        if self._growing.is_apart:
            self._check_lock()
            for log in self._logs:  # whole records: TensorBoard ends at half a one
                with self._explained(log):
                    log.flush()
            with writing.explained(self._workdir / METRICS):
                self._growing.send()

    def _explained(self, log: Log) -> contextlib.AbstractContextManager[None]:
        return writing.explained(self._workdir / log.file)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
        with contextlib.ExitStack() as stack:  # all are closed, whichever fails
            stack.callback(self._close_growing)
            for log in self._logs:
                stack.enter_context(self._explained(log))
                stack.callback(log.close)

    def _close_growing(self) -> None:
        """Sends the last lines, unless the workdir is another process's now."""
        is_ours = True
        try:
            self._check_lock()
        except UserError:
            is_ours = False
        with writing.explained(self._workdir / METRICS):
            self._growing.close(is_ours)


class Silent(contextlib.nullcontext):
    """A `Watch` that writes nothing."""

    def __enter__(self) -> "Silent":
        return self

    def advance(self, *_: Any) -> None:
        """Nothing, as all here."""

    restart_clock = scalars = write = picture = send = advance

    def waited_for(self, batches: Iterable[T], _: Any) -> Iterable[T]:
        """The batches."""
        return batches


def keep_lines(path: pathlib.Path, last_step: int) -> None:
    """Drops what a metrics file says of steps after last_step, and broken lines."""
    if path.exists():
        rows = [row for row in read_lines(path) if row["step"] <= last_step]
        writing.text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; those that are torn or damaged are counted aloud."""
    lines = path.read_bytes().splitlines()
    rows = [row for row in map(read_line, lines) if row]
    if broken := len(lines) - len(rows):
        print(f"{path}: passed over {broken} of {len(lines)} lines, which are broken")
    return rows


def read_line(line: bytes) -> dict[str, Any] | None:
    """A step and scalars, numbers or null; None for anything else."""
    try:
        row = json.loads(line)
        numbers = all(x is None or type(x) in (int, float) for x in row.values())
        return row if numbers and type(row["step"]) is int else None
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
