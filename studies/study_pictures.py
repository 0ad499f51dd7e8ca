"""The study's pictures: samples of each run, image quality, restoration.

python -m studies.study_pictures --out=assets [--runs=runs/study]

Reads results/study/*.json and, for the samples, what the study left in its workdirs.
"""

import argparse
import pathlib

import numpy as np
from matplotlib.figure import Figure

from studies import study_table
from studies.study import RESULTS, RUNS

COLUMNS, DPI = 14, 130
DRAWS = ("joint", "given_label")  # the first that a run has


def drawn(runs: pathlib.Path) -> dict[str, np.ndarray]:
    """{run: its first samples, uint8 [COLUMNS, H, W]} of seed 0."""
    found = {}
    for name in RUNS:
        for draw in DRAWS:
            path = next(runs.glob(f"{name}_0/evaluation/*/{draw}/samples.npz"), None)
            if path and name not in found:
                found[name] = np.load(path)["image"][:COLUMNS, ..., 0]
    return found


def samples(found: dict[str, np.ndarray]) -> Figure:
    """A row of samples for each run."""
    figure = Figure(figsize=(8, 0.52 * len(found)), layout="constrained")
    column = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(column, found.items(), strict=True):
        axes.imshow(np.concatenate(list(images), axis=1), cmap="gray")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def quality(results: dict[str, list[dict]]) -> Figure:
    """FID of each run, from nothing and with labels given."""
    figure = Figure(figsize=(7, 0.32 * len(results) + 0.9), layout="constrained")
    axes = figure.subplots()
    for column, marker in (("FID", "o"), ("FID, label given", "D")):
        where = study_table.COLUMNS[column]
        for row, runs in enumerate(results.values()):
            values = [study_table.value(run, *where) for run in runs]
            values = [x for x in values if x is not None]
            color = "#2f7ed8" if marker == "o" else "#d9730d"
            label = column if row == 0 else None
            axes.plot(values, [row] * len(values), marker, color=color, label=label)
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set(xlabel="Fréchet distance to the training images", xlim=(0, None))
    axes.grid(axis="x", alpha=0.4)
    axes.legend()
    return figure


def restoration(results: dict[str, list[dict]]) -> Figure:
    """Errors, spread and feature distance by the number of hidden patches."""
    rows, columns = study_table.restored(results), study_table.FILLED
    figure = Figure(figsize=(4 * len(columns), 3), layout="constrained")
    for axes, (heading, field) in zip(
        figure.subplots(1, len(columns)), columns.items(), strict=True
    ):
        for name, runs in rows.items():
            patches = study_table.fills(runs[0])
            means = [
                np.mean([study_table.fills(run)[num][field] for run in runs])
                for num in patches
            ]
            style = ":" if name == study_table.MEAN else "-"
            axes.plot([int(num) for num in patches], means, f"o{style}", label=name)
        axes.set(xlabel="hidden patches", ylabel=heading, ylim=(0, None))
        axes.grid(alpha=0.4)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=pathlib.Path, default="runs/study")
    parser.add_argument("--out", type=pathlib.Path, default="assets")
    args = parser.parse_args()
    results = {name: study_table.load(RESULTS, name) for name in RUNS}
    results = {name: runs for name, runs in results.items() if runs}
    kept = drawn(args.runs)
    if not (kept and results):
        parser.error(
            f"{args.runs if results else RESULTS} has nothing of the study: run "
            "launch/study.sh, or set --runs to where its workdirs are"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    evaluated = {n: runs for n, runs in results.items() if "metrics" in runs[0]}
    figures = {
        "study_quality": quality(evaluated),
        "study_restoration": restoration(results),
        "study_samples": samples(kept),
    }
    for name, figure in figures.items():
        figure.savefig(args.out / f"{name}.png", dpi=DPI, bbox_inches="tight")


if __name__ == "__main__":
    main()
