"""Curves as small SVG pictures, which follow the reader's light or dark scheme."""

import base64
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from mt_diffusion.report.record import Series

# Mid-tones, which a white and a black page both set off.
COLORS = (
    "#2f7ed8",
    "#d9730d",
    "#2a9d6f",
    "#a05fc4",
    "#c94f6d",
    "#8a8d1f",
    "#1fa3b3",
    "#8b6b55",
)
DASHES = ("solid", "dashed", "dotted")  # once all colours are taken
SIZE = (3.5, 2.2)  # inches of 96 CSS pixels
MOST_POINTS = 300  # of a curve; means over equal parts beyond that
LOG_RANGE = 10  # from which ratio of its largest to its smallest value an axis is log
INK, GRID = "#5d646b", "#c8cdd2"
SCHEME = f"""<style>
text {{ font-family: system-ui, sans-serif !important; }}
@media (prefers-color-scheme: dark) {{
[style*="{INK}"] {{ fill: #9aa2aa !important; }}
[style*="stroke: {GRID}"] {{ stroke: #363c42 !important; }}
}}
</style>"""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "report",  # the same page from the same run
    "text.parse_math": False,
    "font.size": 8,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.color": GRID,
    "ytick.left": False,
    "ytick.minor.left": False,
    "lines.solid_capstyle": "round",
}


class Line(NamedTuple):
    """One curve. order: among all of the page, which gives it its colour and dashes.

    is_noisy: shown as its moving average, with itself faintly behind it.
    """

    series: Series
    order: int
    is_noisy: bool


def appearance(order: int) -> tuple[str, str]:
    """The colour and the dashes of a curve."""
    num = len(COLORS)
    return COLORS[order % num], DASHES[order // num % len(DASHES)]


def panel(lines: Sequence[Line], limits: tuple[float, float] | None = None) -> str:
    """An SVG of curves over steps, as a data URI.

    limits: of the y axis; where None it fits the curves, logarithmic where these are
    positive and span a wide range.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            draw(axes, line)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        values = np.concatenate([trend(line).values for line in lines])
        if limits is not None:
            axes.set_ylim(*limits)
        elif is_wide(values):
            log_axis(axes, values)
        else:
            axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        drawing = io.StringIO()
        metadata = {"Date": None, "Creator": None}
        figure.savefig(drawing, format="svg", transparent=True, metadata=metadata)
    return as_uri(drawing.getvalue())


def draw(axes: matplotlib.axes.Axes, line: Line) -> None:
    """Draws one curve; a few points are marked."""
    color, dashes = appearance(line.order)
    points = binned(line.series)
    marker = "o" if len(points.steps) <= 12 else None
    if line.is_noisy:
        axes.plot(*points, color=color, linewidth=0.6, alpha=0.35)
        marker = "o" if len(points.steps) == 1 else None
    axes.plot(
        *trend(line),
        color=color,
        linestyle=dashes,
        linewidth=1.4,
        marker=marker,
        markersize=3,
    )


def trend(line: Line) -> Series:
    """What is drawn of a curve, its moving average over a fifteenth if it is noisy."""
    steps, values = binned(line.series)
    if not line.is_noisy:
        return Series(steps, values)
    half = len(values) // 30
    places = np.arange(len(values))
    first, last = (
        np.maximum(places - half, 0),
        np.minimum(places + half + 1, len(values)),
    )
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return Series(steps, (sums[last] - sums[first]) / (last - first))


def binned(series: Series) -> Series:
    """At most MOST_POINTS points, means over equal parts of the series."""
    if len(series.steps) <= MOST_POINTS:
        return series
    return Series(
        *(
            np.array([part.mean() for part in np.array_split(x, MOST_POINTS)])
            for x in series
        )
    )


def is_wide(values: np.ndarray) -> bool:
    """Whether values [N] are better seen on a logarithmic axis."""
    return bool(values.min() > 0 and values.max() > LOG_RANGE * values.min())


def log_axis(axes: matplotlib.axes.Axes, values: np.ndarray) -> None:
    """A logarithmic y axis around values [N], labelled 1, 2, 5 where it is short."""
    axes.set_yscale("log")
    axes.set_ylim(values.min() / 1.5, values.max() * 1.5)
    is_short = values.max() < 100 * values.min()
    axes.yaxis.set_major_locator(
        ticker.LogLocator(subs=(1, 2, 5) if is_short else (1,))
    )
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def as_uri(svg: str) -> str:
    """An SVG with both schemes, in the reader's font, as a data URI."""
    head, _, rest = svg[svg.index("<svg") :].partition(">")
    data = base64.b64encode(f"{head}>{SCHEME}{rest}".encode()).decode()
    return f"data:image/svg+xml;base64,{data}"
