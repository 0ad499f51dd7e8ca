"""The study's results as Markdown tables, from the JSON of its runs.

Means over seeds, with the range where there are several.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterable

COLUMNS = {  # heading: (draw, name up to its number of samples, factor)
    "FID": ("joint", "fid_convnet", 1),
    "FID, label given": ("given_label", "fid_convnet", 1),
    "IS": ("joint", "inception_score_convnet", 1),
    "precision": ("joint", "precision_convnet", 1),
    "recall": ("joint", "recall_convnet", 1),
    "coherence, %": ("joint", "coherence_convnet", 100),
    "coherence, label given, %": ("given_label", "coherence_convnet", 100),
    "class shares, total variation": ("joint", "label_total_variation", 1),
    "image is of its cluster, %": ("joint", "cluster_coherence", 100),
    "cluster shares, total variation": ("joint", "cluster_total_variation", 1),
    "image, bits/dim": ("likelihood", "image_bits_per_dim", 1),
}
ENDS = ("floor", "ceiling")
FILLED = {  # of hidden pixels
    "error": "error_share",
    "error of the mean": "error_share_of_mean",
    "spread": "spread",
    "distance": "distance",
}
MEAN = "the training mean"
Facts = dict  # of a run, as its JSON has them
Getter = Callable[[Facts], float | None]


def write(results: pathlib.Path, names: Iterable[str]) -> str:
    """Writes table.md of the runs there are, in the order of names, and returns it."""
    found = {name: load(results, name) for name in names}
    found = {name: runs for name, runs in found.items() if runs}
    parts = figures(found), ends(found), judges(found), restoration(found)
    text = "\n\n".join(part for part in parts if part) + "\n"
    (results / "table.md").write_text(text)
    return text


def load(results: pathlib.Path, name: str) -> list[Facts]:
    """All seeds of a run."""
    paths = sorted(results.glob(f"{name}_[0-9]*.json"))
    return [json.loads(path.read_text()) for path in paths]


def figures(found: dict[str, list[Facts]]) -> str:
    """One row for each run that was drawn from or read."""
    columns = dict.fromkeys(COLUMNS) | {
        "scikit-learn's judge, %": lambda r: judged(r, "joint"),
        "the same, label given, %": lambda r: judged(r, "given_label"),
        "label read right, %": lambda r: first(r.get("read_right", [])),
    }
    columns |= getters(COLUMNS)
    rows = {n: rs for n, rs in found.items() if "metrics" in rs[0] or has_read(rs[0])}
    return rendered(rows, columns)


def has_read(run: Facts) -> bool:
    """Whether it says how many labels were read right."""
    return bool(run.get("read_right"))


def rendered(
    rows: dict[str, list[Facts]], columns: dict[str, Callable[[Facts], float | None]]
) -> str:
    """A Markdown table."""
    lines = ["| run | seeds | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, runs in rows.items():
        seeds = ", ".join(str(run["seed"]) for run in runs)
        cells = [spread([get(run) for run in runs]) for get in columns.values()]
        lines.append("| " + " | ".join([name, seeds, *cells]) + " |")
    return "\n".join(lines)


def ends(found: dict[str, list[Facts]]) -> str:
    """What noise or shuffled labels have, and what test images have."""
    lines, runs = [], [run for runs in found.values() for run in runs]
    for heading, (draw, name, factor) in COLUMNS.items():
        all_found = [m for run in runs if (m := metric(run, draw, name))]
        for end in ENDS:
            marks = [m[end] for m in all_found if m[end]]
            if marks:
                values = sorted(mark["value"] * factor for mark in marks)
                shown = dict.fromkeys(f"{x:.3g}" for x in (values[0], values[-1]))
                lines.append(f"- {heading}, {marks[0]['of']}: {' to '.join(shown)}")
    real = next((r["independent"]["real"] for r in runs if "independent" in r), None)
    if real:
        percent = 100 * real["agreement"]
        lines.append(f"- scikit-learn's judge, %, test images: {percent:.3g}")
    return "\n".join(lines)


def judges(found: dict[str, list[Facts]]) -> str:
    """Which runs have which judge: figures of one do not compare with another's."""
    rows = {}
    for name, runs in found.items():
        for run in runs:
            if "manifest" in run:
                digest = run["manifest"]["features"]["digest"]
                rows.setdefault(digest, []).append(f"{name} {run['seed']}")
    return "\n".join(f"- judge {d}: {', '.join(names)}" for d, names in rows.items())


def restoration(found: dict[str, list[Facts]]) -> str:
    """Errors of hidden pixels and feature distances by the number of hidden patches."""
    rows = restored(found)
    if not rows:
        return ""
    columns = {
        f"{heading}, {num} patches": lambda r, num=num, field=field: fills(r)[num][
            field
        ]
        for heading, field in FILLED.items()
        for num in fills(rows[MEAN][0])
    }
    return rendered(rows, columns)


def restored(found: dict[str, list[Facts]]) -> dict[str, list[Facts]]:
    """Each way in which runs filled images in, and the training mean as one more."""
    rows = {}
    for name, runs in found.items():
        for run in runs:
            for way, patches in run.get("restoration", {}).get("patches", {}).items():
                one = {"seed": run["seed"], "restoration": {"patches": patches}}
                rows.setdefault(f"{name}, {way}", []).append(one)
    return rows | {MEAN: [mean_fill(*rows.values())]} if rows else {}


def mean_fill(runs: list[Facts], *_: list[Facts]) -> Facts:
    """The training mean as if it were a run; it fills every run's images alike."""
    patches = {
        num: {"error_share": 1, "error_share_of_mean": 1, "spread": 0}
        | {"distance": found["distance_mean"]}
        for num, found in fills(runs[0]).items()
    }
    return {"seed": "-", "restoration": {"patches": patches}}


def fills(run: Facts) -> dict[str, dict[str, float]]:
    """{number of patches: figures} of a run's restoration."""
    return run["restoration"]["patches"]


def judged(run: Facts, draw: str) -> float | None:
    """Share of pairs on which the independent judge agrees, in percent."""
    agreement = run.get("independent", {}).get(draw, {}).get("agreement")
    return agreement and 100 * agreement


def first(texts: list[str]) -> float | None:
    """The first as a number."""
    return float(texts[0]) if texts else None


def metric(run: Facts, draw: str, name: str) -> dict | None:
    """The figure of a draw whose name begins so."""
    for m in run.get("metrics", []):
        if m["draw"] == draw and re.fullmatch(rf"{name}_(\d+k?_cfg|of_).*", m["name"]):
            return m
    return None


def getters(columns: dict[str, tuple[str, str, float]]) -> dict[str, Getter]:
    """What reads each column of a run, from (draw, name, factor)."""
    return {
        heading: lambda run, where=where: value(run, *where)
        for heading, where in columns.items()
    }


def value(run: Facts, draw: str, name: str, factor: float) -> float | None:
    """Of that figure."""
    found = metric(run, draw, name)
    return found and found["value"] * factor


def spread(values: list[float | None]) -> str:
    """Mean, and the range where there are several."""
    values = [x for x in values if x is not None]
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3g}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.3g} to {max(values):.3g})"
