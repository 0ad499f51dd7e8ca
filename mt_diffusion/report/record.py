"""What a run has left in its workdir, read for a report."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.fields import flatten
from mt_diffusion.training import watch

TEST, SHARE = "test_", "grad_share_"
SPEED, NORM, SKIPPED = watch.SPEED, "grad_norm", "skipped"
WAIT = watch.WAIT
BOOKKEEPING = watch.CLOCK | {NORM, SKIPPED, "skipped_in_a_row"}


class Series(NamedTuple):
    """A scalar over training: steps and values, both [N], all finite."""

    steps: np.ndarray
    values: np.ndarray


class Run(NamedTuple):
    """A workdir.

    name: of the folder. step: the last of the metrics. config: {field: value} and
    num_parameters: {part: number}, both empty without a checkpoint. pictures: {kind:
    {step: PNG}}, oldest first. evaluation: the newest metrics.json, and folder: where
    it lies. evaluated: the steps of all. bounds: the newest. Whatever is missing is
    None.
    """

    workdir: pathlib.Path
    name: str
    step: int
    config: dict[str, Any]
    num_parameters: dict[str, int]
    series: dict[str, Series]
    pictures: dict[str, dict[int, pathlib.Path]]
    evaluated: list[int]
    evaluation: dict[str, Any] | None
    folder: pathlib.Path | None
    bounds: dict[str, Any] | None
    reading: dict[str, Any] | None

    @property
    def terms(self) -> list[str]:
        """Names of the losses, the total first, then the image's noise error."""
        names = {n.removeprefix(TEST) for n in self.series if not n.startswith(SHARE)}
        first = {"loss": 0, "eps": 1}
        return sorted(names - BOOKKEEPING, key=lambda n: (first.get(n, 2), n))


def load(workdir: pathlib.Path) -> Run:
    """Reads a workdir. Raises UserError where nothing was trained in it."""
    if not (workdir / watch.METRICS).exists():
        raise UserError(
            f"--workdir={workdir} has no {watch.METRICS}, so there is nothing to "
            "report: name a folder that a training run has written to."
        )
    series = read_series(workdir / watch.METRICS)
    config, num_parameters = read_checkpoint(workdir)
    home = exported.home(workdir)
    evaluations = whole(by_step(home / "evaluation", "*/metrics.json", -2))
    newest = max(evaluations, default=None)
    bounds = whole(by_step(home / "bounds", "*.json", -1))
    reading = whole({0: workdir / "reading.json"})
    return Run(
        workdir=workdir,
        name=workdir.resolve().name,
        step=max((int(s.steps[-1]) for s in series.values()), default=0),
        config=config,
        num_parameters=num_parameters,
        series=series,
        pictures=find_pictures(workdir / watch.SAMPLES),
        evaluated=sorted(evaluations),
        evaluation=None if newest is None else evaluations[newest],
        folder=None if newest is None else home / "evaluation" / str(newest),
        bounds=bounds[max(bounds)] if bounds else None,
        reading=reading.get(0),
    )


def read_series(path: pathlib.Path) -> dict[str, Series]:
    """The scalars of metrics.jsonl by name, without what is not finite."""
    points: dict[str, dict[int, float]] = {}
    for row in watch.read_lines(path):
        step = row.pop("step")
        for name, value in row.items():
            if value is not None and math.isfinite(value):
                points.setdefault(name, {})[step] = value
    return {
        name: Series(
            np.array(sorted(found)), np.array([found[s] for s in sorted(found)])
        )
        for name, found in points.items()
    }


def read_checkpoint(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The flat config and the number of parameters by part, of the newest checkpoint.

    No parameter is read, so that checkpoints of any version have a report.
    """
    if exported.is_one(workdir):
        _, config, params = exported.read(workdir)
        parts = params["params"]
    else:
        config, parts = read_run(workdir)
    numbers = {name: watch.count(part) for name, part in parts.items()}
    return flatten(json.loads(config.to_json())) if parts else {}, numbers


def read_run(workdir: pathlib.Path) -> tuple[ConfigDict, dict[str, Any]]:
    """The config and the shapes of the parameters of the newest checkpoint."""
    checkpoints = Checkpoints(workdir)
    found = checkpoints.newest(
        lambda config: {}, read=lambda step, _: checkpoints.shapes(step, "params")
    )
    if found is None:
        return ConfigDict(), {}
    _, config, parts = found
    return config, parts["params"]


def by_step(folder: pathlib.Path, pattern: str, part: int) -> dict[int, pathlib.Path]:
    """{step: file}, where that part of the file's path is a number."""
    found = {pathlib.PurePath(p.parts[part]).stem: p for p in folder.glob(pattern)}
    return {int(step): path for step, path in found.items() if step.isdecimal()}


def find_pictures(folder: pathlib.Path) -> dict[str, dict[int, pathlib.Path]]:
    """The grids STEP_KIND.png of training by kind and step, all-generated first."""
    found: dict[str, dict[int, pathlib.Path]] = {}
    for path in sorted(folder.glob("*.png")):
        step, _, kind = path.stem.partition("_")
        if kind and step.isdecimal():
            found.setdefault(kind, {})[int(step)] = path
    order = sorted(found, key=lambda kind: (kind.startswith("given_"), kind))
    return {kind: found[kind] for kind in order}


def whole(paths: Mapping[int, pathlib.Path]) -> dict[int, dict[str, Any]]:
    """What files of JSON say, by step; those that are broken are passed over, said."""
    found = {}
    for step, path in paths.items():
        try:
            found[step] = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except ValueError as error:
            print(f"passed over {path}, which is broken ({error}); make it again")
    return found


def duration(series: Mapping[str, Series], batch_size: int) -> float | None:
    """Seconds that the training steps took, by the speed that was logged."""
    if SPEED not in series:
        return None
    steps, speed = series[SPEED]
    return float(np.sum(np.diff(steps, prepend=0) * batch_size / speed))
