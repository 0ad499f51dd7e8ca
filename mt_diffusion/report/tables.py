"""Rows of the tables in a report: facts, settings, metrics, runs beside each other."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mt_diffusion.evaluation.figures import short_names
from mt_diffusion.report import plots, record
from mt_diffusion.report.figures import number
from mt_diffusion.report.plots import Line
from mt_diffusion.report.record import Run
from mt_diffusion.training.resume import brief, same

PACKAGES = ("jax", "flax", "optax", "numpy")
Facts = list[tuple[str, str]]


class Setting(NamedTuple):
    """A field of a config, and what it is where nothing is said."""

    field: str
    value: str
    default: str


class Row(NamedTuple):
    """A metric. place: of its value from floor (0) to ceiling (1), None without both.

    long: its whole name. value, floor, ceiling: with their standard errors and spreads.
    of_floor, of_ceiling: what has these values.
    """

    name: str
    long: str
    value: str
    better: str
    floor: str
    of_floor: str
    ceiling: str
    of_ceiling: str
    baseline: str
    place: float | None


class Cell(NamedTuple):
    """A value in a table of several runs."""

    text: str
    is_best: bool


class Across(NamedTuple):
    """A row of such a table; note: what is to be known of its cells.

    long: its whole name, where that is another.
    """

    name: str
    note: str
    cells: list[Cell]
    long: str = ""


def facts(run: Run) -> Facts:
    """What was trained, in a few lines."""
    config, found = run.config, []
    if config:
        batch_size = config["train.batch_size"]
        found += [("Models", models(config)), ("Data", data(config))]
        total = sum(run.num_parameters.values())
        largest = sorted(run.num_parameters.items(), key=lambda part: -part[1])
        parts = ", ".join(f"{name} {number(n)}" for name, n in largest)
        found.append(("Parameters", f"{total:,}: {parts}"))
        images = run.step * batch_size
        trained = f"{run.step:,} steps of {batch_size} images, {images:,} in all"
        seconds = record.duration(run.series, batch_size)
        took = f", in {time(seconds)}" if seconds else ""
        found.append(("Trained", trained + took))
    else:
        found.append(("Trained", f"{run.step:,} steps"))
    if skipped := last(run, record.SKIPPED):
        found.append(("Skipped", f"{skipped:g} steps whose gradient was not finite"))
    versions = (run.evaluation or {}).get("manifest", {}).get("versions")
    when = "of the evaluation" if versions else "when this page was made"
    versions = versions or {p: importlib.metadata.version(p) for p in PACKAGES}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [*found, ("Libraries", f"{listed} ({when})")]


def models(config: Mapping[str, Any]) -> str:
    """The variables of a config."""
    names = {n.split(".")[1] for n in config if n.startswith("modalities.")}
    return "image alone" if not names else f"image, {', '.join(sorted(names))}"


def data(config: Mapping[str, Any]) -> str:
    """The data of a config, whose fields an older version may not have."""
    place = [config.get(f"data.{n}") for n in ("source", "name", "path")]
    side, channels = config.get("data.image_size"), config.get("data.channels")
    return f"{' '.join(p for p in place if p)}, {side} × {side} × {channels}"


def time(seconds: float) -> str:
    """Seconds for people."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def last(run: Run, name: str) -> float | None:
    """The last value of a scalar."""
    return float(run.series[name].values[-1]) if name in run.series else None


def settings(
    config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[list[Setting], list[Setting]]:
    """Fields that are not at their default, and the others."""
    rows: dict[bool, list[Setting]] = {True: [], False: []}
    for field, value in config.items():
        is_default = field in defaults and same(value, defaults[field])
        default = brief(defaults[field]) if field in defaults else "–"
        rows[is_default].append(Setting(field, brief(value), default))
    return rows[False], rows[True]


def place(metric: Mapping[str, Any]) -> float | None:
    """Where a metric's value lies from its floor (0) to its ceiling (1), clipped.

    Of one that should be near its ceiling, what is as far beyond it is as bad.
    """
    floor, ceiling, value = metric["floor"], metric["ceiling"], metric["value"]
    if None in (floor, ceiling, value) or floor["value"] == ceiling["value"]:
        return None
    share = (value - floor["value"]) / (ceiling["value"] - floor["value"])
    if metric["better"] == "near":
        share = 1 - abs(1 - share)
    return float(np.clip(share, 0, 1))


def metrics(evaluation: Mapping[str, Any]) -> dict[str, list[Row]]:
    """{draw: its metrics}."""
    found: dict[str, list[Row]] = {}
    names = short_names(m["name"] for m in evaluation["metrics"])
    for m in evaluation["metrics"]:
        floor, ceiling = m["floor"] or {}, m["ceiling"] or {}
        row = Row(
            name=names[m["name"]],
            long=m["name"],
            value=with_error(m["value"], m.get("standard_error")),
            better=m["better"],
            floor=with_error(floor.get("value"), floor.get("spread")),
            of_floor=floor.get("of", ""),
            ceiling=with_error(ceiling.get("value"), ceiling.get("spread")),
            of_ceiling=ceiling.get("of", ""),
            baseline=number(m.get("baseline")),
            place=place(m),
        )
        found.setdefault(m["draw"], []).append(row)
    return found


def with_error(value: float | None, error: float | None) -> str:
    """'3.25 ± 0.12'; without the second where it is not known."""
    text = number(value)
    return text if None in (value, error) else f"{text} ± {error:.2g}"


def manifest(evaluation: Mapping[str, Any]) -> Facts:
    """How an evaluation was made."""
    made, sampling = evaluation["manifest"], evaluation["manifest"].get("sampling", {})
    features, reference = made.get("features", {}), made.get("reference", {})
    names = ("sampler", "num_steps", "guess", "guidance", "head_guidance")
    how = [f"{n} {sampling[n]}" for n in names if n in sampling]
    return [
        (
            "Checkpoint",
            f"step {made['step']:,}, {made.get('parameters', '')} parameters",
        ),
        ("Samples", f"{made['num_samples']:,} of each draw, seed {made['seed']}"),
        ("Sampling", ", ".join(how)),
        ("Features", f"{features.get('name')} ({features.get('digest')})"),
        (
            "Reference",
            f"{number(reference.get('num_images'))} images ({reference.get('digest')})",
        ),
    ]


def bounds(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(term, mean, standard error, examples) of --mode=bound."""
    return [
        (
            name,
            number(row["mean"]),
            number(row["standard_error"]),
            f"{row['num_examples']:,}",
        )
        for name, row in found["terms"].items()
    ]


def levels(reading: Mapping[str, Any]) -> Facts:
    """The noise levels at which each head reads best."""
    found = reading.get("levels", {}).items()
    return [(name, ", ".join(map(str, times))) for name, times in found]


def differing(runs: Mapping[str, Run]) -> list[Across]:
    """Config fields in which runs differ."""
    configs = [run.config for run in runs.values()]
    fields = dict.fromkeys(field for config in configs for field in config)
    missing = object()
    rows = []
    for field in fields:
        values = [config.get(field, missing) for config in configs]
        if not all(same(value, values[0]) for value in values):
            texts = ["–" if value is missing else brief(value) for value in values]
            rows.append(Across(field, "", [Cell(text, False) for text in texts]))
    return rows


def final_losses(runs: Mapping[str, Run]) -> dict[str, list[Across]]:
    """The last test value of each term, and the last of training's moving average."""
    terms = dict.fromkeys(term for run in runs.values() for term in run.terms)
    rows: dict[str, list[Across]] = {}
    for part, prefix, is_noisy in (("test", record.TEST, False), ("train", "", True)):
        for term in terms:
            values = [final(run, prefix + term, is_noisy) for run in runs.values()]
            cells = [Cell(number(value), False) for value in values]
            if any(value is not None for value in values):
                rows.setdefault(part, []).append(Across(term, "", cells))
    return rows


def final(run: Run, name: str, is_noisy: bool) -> float | None:
    """The last value of a scalar, of its moving average where it is noisy."""
    found = smooth(run, name, is_noisy)
    return found[max(found)] if found else None


def smooth(run: Run, name: str, is_noisy: bool) -> dict[int, float]:
    """{step: a scalar}, of its moving average where it is noisy."""
    if name not in run.series:
        return {}
    series = plots.trend(Line(run.series[name], 0, is_noisy))
    return dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def compared(runs: Mapping[str, Run]) -> dict[str, list[Across]]:
    """By draw, the metrics of each run's newest evaluation, the best of each marked."""
    evaluations = [run.evaluation or {"metrics": []} for run in runs.values()]
    tables = [{(m["draw"], m["name"]): m for m in e["metrics"]} for e in evaluations]
    rows: dict[str, list[Across]] = {}
    names = short_names(name for table in tables for _, name in table)
    for draw, name in dict.fromkeys(key for table in tables for key in table):
        found = [table.get((draw, name), {}) for table in tables]
        known = next(m for m in found if m)
        goal = (known["ceiling"] or {}).get("value")
        cells = mark_best([m.get("value") for m in found], known["better"], goal)
        rows.setdefault(draw, []).append(
            Across(names[name], known["better"], cells, name)
        )
    return rows


def mark_best(
    values: Sequence[float | None], better: str, goal: float | None = None
) -> list[Cell]:
    """Cells with the best marked, all that share it, where there is a choice.

    goal: what to be near, where that is better; without it none is best.
    """
    signs = {"lower": 1, "higher": -1}
    if better in signs:
        costs = [None if x is None else signs[better] * x for x in values]
    else:
        costs = [None if x is None or goal is None else abs(x - goal) for x in values]
    there = [x for x in costs if x is not None]
    best = min(there) if len(there) > 1 else None
    return [
        Cell(number(v), x is not None and x == best)
        for v, x in zip(values, costs, strict=True)
    ]
