"""A figure with what it is to be read against."""

import collections
import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mt_diffusion.errors import UserError

# What `full_name` puts at the end: fid_convnet_10k_cfg1.0.
ADDED = re.compile(r"_\d+k?_cfg[\d.]+(_head[\d.]+)?(_auto[\d.]+)?$")


class Mark(NamedTuple):
    """A value to compare with, and what has it.

    spread: standard deviation of what has it, measured on as many examples as the
    figure is; None where it is exact, or not known.
    """

    value: float
    of: str
    spread: float | None = None

    def as_json(self) -> dict[str, Any] | None:
        """For metrics.json; None where the value is not finite."""
        if finite(self.value) is None:
            return None
        return self._asdict() | {"spread": finite(self.spread)}


class Metric(NamedTuple):
    """A figure of a draw.

    better: 'higher', 'lower', or 'near' the ceiling. floor: a trivial level that any
    model should beat. ceiling: what real data, or the best that can be expected, reach
    with as many examples. standard_error: of the value, over examples drawn anew; None
    where it is not known.
    """

    name: str
    value: float
    better: str
    floor: Mark | None = None
    ceiling: Mark | None = None
    standard_error: float | None = None

    def as_json(self, draw: str) -> dict[str, Any]:
        """For metrics.json. Null where a number is not finite, which JSON can't say."""
        marks = {"floor": self.floor, "ceiling": self.ceiling}
        return {
            "draw": draw,
            "name": self.name,
            "value": finite(self.value),
            "standard_error": finite(self.standard_error),
            "better": self.better,
            **{name: mark and mark.as_json() for name, mark in marks.items()},
            "baseline": None,
        }


def finite(value: float | None) -> float | None:
    """The value, None where it is no number."""
    return value if value is not None and math.isfinite(value) else None


def short(num: int) -> str:
    """10000 -> '10k', 256 -> '256'."""
    return f"{num // 1000}k" if num and num % 1000 == 0 else str(num)


def full_name(
    name: str,
    num: int,
    guidance: float,
    head_guidance: float,
    autoguidance: float = 1.0,
) -> str:
    """With the number of samples and the guidance: fid_convnet_10k_cfg1.0."""
    by_head = f"_head{float(head_guidance)}" if head_guidance else ""
    auto = f"_auto{float(autoguidance)}" if autoguidance != 1 else ""
    return f"{name}_{short(num)}_cfg{float(guidance)}{by_head}{auto}"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """{name: the same without what `full_name` added}, where these differ."""
    found = {}
    for name in dict.fromkeys(names):
        found[name] = ADDED.sub("", name)
    times = collections.Counter(found.values())
    return {name: x if times[x] == 1 else name for name, x in found.items()}


def read_baseline(text: str) -> dict[tuple[str, str], float]:
    """{(draw, name): value} of another run's metrics.json; {} without one."""
    if not text:
        return {}
    try:
        found = json.loads(pathlib.Path(text).expanduser().read_text("utf-8"))[
            "metrics"
        ]
        return {(m["draw"], m["name"]): m["value"] for m in found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--baseline={text} is no metrics.json of an evaluation: {error!r}."
        ) from error


def put_beside(
    found: Sequence[dict], baseline: Mapping[tuple[str, str], float]
) -> None:
    """Puts the baseline's value beside each figure; says so where there is none."""
    for metric in found:
        metric["baseline"] = baseline.get((metric["draw"], metric["name"]))
    if baseline and all(metric["baseline"] is None for metric in found):
        theirs = next(iter(baseline))[1]
        print(
            f"no figure of the baseline has a name of these (such as {theirs}): the "
            "number of samples and the guidance, which are in it, must be the same"
        )


def tell(found: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table."""
    width = max((len(m["name"]) for m in found), default=0)
    draw = None
    for m in found:
        if m["draw"] != draw:
            draw = m["draw"]
            heads = ("value", "floor", "ceiling", "baseline")
            print(f"\n{draw:{width}}  " + "  ".join(f"{h:>19}" for h in heads))
        marks = [m[k] or {} for k in ("floor", "ceiling")]
        cells = [
            with_error(m["value"], m.get("standard_error")),
            *(with_error(x.get("value"), x.get("spread")) for x in marks),
            with_error(m["baseline"], None),
        ]
        print(f"{m['name']:{width}}  " + "  ".join(f"{cell:>19}" for cell in cells))
    print()


def with_error(value: float | None, error: float | None) -> str:
    """'3.25 ± 0.12' with as many digits as a table has room for; '' for no value."""
    if value is None:
        return ""
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
