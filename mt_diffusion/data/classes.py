"""Classes go by their names: which label means which, in one order for all uses."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.files.names import same, shown, some

CLASS = "label"  # the feature that is an example's class, -1 or absent for none
MOST = 12  # classes that are written out


def in_order(found: Sequence[str], config: ConfigDict) -> list[str]:
    """The classes of a data set in the order that its labels have.

    found: as the data has them. config: of the data, whose `found.class_names` is the
    order of the run, else `class_names` that of the user. Raises UserError for classes
    that are not among these.
    """
    wanted = config.found.get("class_names") or config.class_names
    if not wanted:
        return list(found)
    wanted = [same(str(name)) for name in wanted]
    if len(set(wanted)) < len(wanted):
        raise UserError("config.data.class_names names a class twice; name each once.")
    if unknown := [name for name in found if name not in wanted]:
        missing = [name for name in wanted if name not in found]
        renamed = f", and lacks {some(missing)}" if missing else ""
        raise UserError(
            f"the data has the classes {some(unknown)}, which are none of those that "
            f"are known here ({some(wanted)}){renamed}. Give a renamed class its name "
            "back, or name all classes in config.data.class_names of a new run."
        )
    return wanted


def table(found: Sequence[str], names: Sequence[str]) -> list[int]:
    """The label of each class of the data, by the order of `in_order`."""
    if not found:
        return list(range(len(names)))
    return [names.index(name) for name in found]


def told(names: Sequence[str], counts: Sequence[int]) -> str:
    """Label, name and number of examples of each class, as a person reads it."""
    parts = [
        f"{i} {shown(name)} ({count:,})"
        for i, (name, count) in enumerate(zip(names, counts, strict=True))
    ]
    more = f", ... {len(parts):,} in all" if len(parts) > MOST else ""
    return ", ".join(parts[:MOST]) + more + without(names, counts)


def without(names: Sequence[str], counts: Sequence[int]) -> str:
    """Which classes have no example, if any."""
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    return f"; no example of {some(empty)}" if empty else ""
