"""The card of an exported model, from its config, its metrics and its evaluation."""

import json
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.fields import flatten
from mt_diffusion.inference.sampling import RARE
from mt_diffusion.report import record, tables
from mt_diffusion.report.figures import number
from mt_diffusion.report.record import Run
from mt_diffusion.report.report import render
from mt_diffusion.training import watch

FILE = "README.md"
MOST_CLASSES = 100  # that are named
ROWS = 10  # of the curve of training
FLAGS = {"num_steps": "steps"}  # fields of sampling whose flag is called otherwise


class Curve(NamedTuple):
    """Losses at some steps, as text."""

    columns: list[str]
    rows: list[list[str]]


def write(
    folder: pathlib.Path,
    name: str,
    config: ConfigDict,
    experiment: Experiment,
    params: dict[str, Any],
    evaluation: dict[str, Any] | None,
    license: str,
) -> None:
    """Writes the card of the exported model in a folder.

    config, params: as exported. evaluation: a metrics.json; None for none.
    """
    facts = exported.facts(folder)
    run = as_run(folder, int(facts["step"]), config, params, evaluation)
    shown = [fact for fact in tables.facts(run) if fact[0] != "Models"]
    held = f"step {run.step:,}, averaged (EMA), {facts['dtype']}, {facts['digest']}"
    names = {m.name: getattr(m, "class_names", ()) for m in experiment.modalities}
    text = render(
        "card.md.j2",
        name=name,
        license=license,
        variables=", ".join(experiment.variables),
        facts=[*shown, ("Parameters held", held)],
        names={of: list(classes) for of, classes in names.items() if classes},
        most=MOST_CLASSES,
        evaluation=evaluation,
        command=evaluation and command(evaluation, config, name),
        manifest=evaluation and tables.manifest(evaluation),
        metrics=evaluation and tables.metrics(evaluation),
        curve=curve(run),
        limits=limits(facts, config, evaluation),
    )
    (folder / FILE).write_text(text, encoding="utf8")


def as_run(
    folder: pathlib.Path,
    step: int,
    config: ConfigDict,
    params: dict[str, Any],
    evaluation: dict[str, Any] | None,
) -> Run:
    """What tables of runs read, of an exported model; its metrics may be missing."""
    metrics = folder / watch.METRICS
    parts = params["params"]
    return Run(
        workdir=folder,
        name=folder.name,
        step=step,
        config=flatten(json.loads(config.to_json())),
        num_parameters={name: watch.count(part) for name, part in parts.items()},
        series=record.read_series(metrics) if metrics.exists() else {},
        pictures={},
        evaluated=[],
        evaluation=evaluation,
        folder=None,
        bounds=None,
        reading=None,
    )


def command(evaluation: dict[str, Any], config: ConfigDict, name: str) -> str:
    """The command that gives the figures again; name: of the folder of the model."""
    made = evaluation["manifest"]
    usual = flatten(json.loads(config.sampling.to_json()))
    changed = {
        name: value
        for name, value in flatten(made["sampling"]).items()
        if name in usual and usual[name] != value
    }
    flags = {"num_samples": made["num_samples"], "seed": made["seed"]}
    flags |= {FLAGS.get(name, name): value for name, value in changed.items()}
    flags |= {"num_examples": made["bound_examples"], "draws": ",".join(made["draws"])}
    said = [f"--{name}={as_flag(value)}" for name, value in flags.items()]
    line = ["python", "-m", "mt_diffusion.main", "--mode=evaluate"]
    return shlex.join([*line, f"--workdir={name}", *said])


def as_flag(value: Any) -> str:
    """A value as a flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def curve(run: Run) -> Curve | None:
    """Losses of training's moving average and of tests, at a few steps evenly."""
    names = [n for n in ("loss", f"{record.TEST}loss") if n in run.series]
    if not names:
        return None
    steps = run.series[names[0]].steps
    steps = steps[steps <= run.step]
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, ROWS).round().astype(int))]
    columns = {n: tables.smooth(run, n, is_noisy=n == "loss") for n in names}
    rows = [
        [f"{step:,}", *(number(columns[n].get(int(step))) for n in names)]
        for step in chosen
    ]
    return Curve([n.replace("_", " ") for n in names], rows)


def limits(
    facts: dict[str, str], config: ConfigDict, evaluation: dict[str, Any] | None
) -> list[str]:
    """What is to be known before it is used, in sentences."""
    side, channels = config.data.image_size, config.data.channels
    found = [
        f"It draws and reads images of {side} × {side} × {channels} like those it was "
        "trained on, and nothing else; what it draws may resemble single ones of them.",
    ]
    rare = [
        state
        for state, fields in config.presence.items()
        if fields.get("share", 1) < RARE
    ]
    if rare:
        found.append(
            f"In the states {', '.join(rare)} of config.presence it was hardly trained."
        )
    if evaluation is None:
        return [*found, "How good it is has not been measured."]
    made = evaluation["manifest"]
    found.append(
        "Figures of features, as FID, compare with those of the same features and "
        "number of samples alone; differences within their errors say nothing."
    )
    if made["parameters_digest"] != facts["digest"]:
        found.append(
            f"The figures are of the parameters {made['parameters_digest']}, which "
            f"these are but for rounding to {facts['dtype']}, or another selection."
        )
    return found
