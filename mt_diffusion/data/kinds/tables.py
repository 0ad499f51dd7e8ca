"""Hugging Face's data sets on disk: a folder of `save_to_disk`, or Parquet files.

No script of a data set is run and nothing downloaded: pyarrow reads what is there.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data import splits
from mt_diffusion.data.classes import CLASS
from mt_diffusion.data.kinds.listed import LOOSE, Example, Listed, found_classes
from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import same, shown
from mt_diffusion.files.within.tables import PARQUET, Cell, Table

SPLITS, STATE = "dataset_dict.json", "state.json"
IMAGE = "image"


class Tables(Listed):
    """The rows of tables, which are of a part by the names of splits, or of files."""

    def __init__(self, config: ConfigDict, split: str):
        """Reads path, splits, image_column, label_column and other_columns.

        Raises UserError for what is no table, or has no images.
        """
        tables = tables_of(config.path)
        names = splits.by_name(list(tables), config.path, config)
        used = [name for name in tables if name in (*names["train"], *names["test"])]
        is_whole = names["train"] == names["test"]
        listed = {n: list_of(n, tables[n], config, is_whole) for n in used}
        parts = splits.together(names, listed)
        if not all(parts.values()):
            raise UserError(
                f"there is no image in the rows of {shown(config.path)}. A path alone "
                "is not followed: save the data with what is in the files."
            )
        taken = sum(map(len, listed.values()))
        left = sum(tables[name].rows.num_rows for name in used) - taken
        said = f"{taken:,}" + (f"; left: {left:,} without an image" if left else "")
        told = {
            "of": shown(config.path),
            "rows": said,
            "split": splits.told(names, list(tables)),
        }
        described = {tuple(classes_of(tables[n], config)) for n in used}
        # One order, each name once; else that of the names that there are.
        found = list(dict.fromkeys(described.pop())) if len(described) == 1 else []
        super().__init__(config, split, parts, found or found_classes(parts), told)
        self._others = tuple(config.other_columns)

    def others(self, i: int) -> dict[str, Any]:
        """The columns of config.other_columns that it has."""
        cell = self.beside[i]
        found = {n: cell.table.column(n)[cell.row].as_py() for n in self._others}
        return {n: x for n, x in found.items() if x is not None}


def tables_of(path: str) -> dict[str, Table]:
    """{split, or file: table} of what lies there; UserError where that is no table."""
    root = pathlib.Path(path).expanduser()
    if path and root.is_file():
        return {root.name: Table(root.name, [root])}
    if path and (root / SPLITS).is_file():
        names = said(root / SPLITS, "splits", str)
        return {n: Table(n, arrow_files(root / n)) for n in names}
    if path and (root / STATE).is_file():
        return {root.name: Table(root.name, arrow_files(root))}
    files = finding.with_suffix(root, PARQUET) if path and root.is_dir() else {}
    if not files:
        raise UserError(
            f"config.data.path = {shown(repr(path))} is no folder of save_to_disk, no "
            f"{PARQUET} file, and no folder of such."
        )
    return {name: Table(name, [file]) for name, file in files.items()}


def arrow_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a table that save_to_disk wrote."""
    entries = said(folder / STATE, "_data_files", dict)
    names = [str(entry.get("filename", "")) for entry in entries]
    check_plain(folder / STATE, names)
    return [folder / name for name in names]


def said(path: pathlib.Path, field: str, kind: type) -> list[Any]:
    """A list that a file of JSON has; UserError where it has none."""
    try:
        found = json.loads(path.read_text("utf-8"))[field]
        if not found or not all(isinstance(x, kind) for x in found):
            raise ValueError(f"{field} is {found!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{shown(path)} is not as save_to_disk writes it "
            f"({type(error).__name__}: {shown(str(error))[:200]}); save the data anew."
        ) from error
    if kind is str:
        check_plain(path, found)
    return found


def check_plain(path: pathlib.Path, names: Sequence[str]) -> None:
    """Raises UserError for a name that leads out of a folder, named by a file there."""
    for name in names:
        if pathlib.PurePath(name).name != name or name == "..":
            raise UserError(
                f"{shown(path)} names {shown(repr(name))}, which is no file beside it; "
                "save the data anew."
            )


def list_of(
    name: str, table: Table, config: ConfigDict, is_whole: bool
) -> list[Example]:
    """The rows of a table that have an image, each with its class.

    is_whole: whether it is yet to be split: then by the names that images had, or by
    what is in them.
    """
    check_columns(table, config)
    labels = labels_of(table, config)
    found = []
    for cell in table.cells(the_image(table, config.image_column)):
        has_name = pathlib.PurePosixPath(cell.path).name != ""
        below = (cell.path if has_name else digest(cell)) if is_whole else ""
        place = pathlib.PurePosixPath(name, str(cell.row), cell.path.lstrip("/"))
        found.append(Example(cell, labels[cell.row], place, below, cell))
    return found


def check_columns(table: Table, config: ConfigDict) -> None:
    """Raises UserError for a column that is asked for and not there."""
    there = table.rows.schema.names
    asked = {"image_column": config.image_column, "label_column": config.label_column}
    wanted = [(field, name) for field, name in asked.items() if name]
    wanted += [("other_columns", name) for name in config.other_columns]
    for field, name in wanted:
        if name not in there:
            raise UserError(
                f"config.data.{field} names {shown(repr(name))}, which is no column of "
                f"{shown(table.name)}; it has {shown(', '.join(there))}."
            )


def the_image(table: Table, column: str) -> str:
    """The column of images: `column`, else 'image', else the only one there is."""
    found = table.images()
    if column in found or (not column and len(found) == 1):
        return column or found[0]
    if not column and IMAGE in found:
        return IMAGE
    raise UserError(
        f"{shown(table.name)} has the image columns {shown(', '.join(found)) or 'none'}"
        f"{f', and {shown(repr(column))} is none of them' if column else ''}: name one "
        "with --config.data.image_column. Its columns are "
        f"{shown(', '.join(table.rows.schema.names))}."
    )


def the_label(table: Table, config: ConfigDict) -> str:
    """The column of classes: the config's, 'label', or the only one; '' for none."""
    if config.label_column:
        return config.label_column
    if CLASS in table.rows.schema.names:
        return CLASS
    found = [n for n in table.features if class_names(table, n)]
    return found[0] if len(found) == 1 else ""


def class_names(table: Table, column: str) -> list[str]:
    """The classes of a column that `datasets` describes, in the order of numbers."""
    feature = table.features.get(column)
    names = feature.get("names") if isinstance(feature, Mapping) else None
    return [same(str(name)) for name in names] if isinstance(names, list) else []


def classes_of(table: Table, config: ConfigDict) -> list[str]:
    """As `class_names`, of the column of classes."""
    return class_names(table, the_label(table, config))


def labels_of(table: Table, config: ConfigDict) -> list[str]:
    """The name of each row's class, LOOSE for none."""
    column = the_label(table, config)
    if not column:
        return [LOOSE] * table.rows.num_rows
    names, values = class_names(table, column), table.column(column).to_pylist()
    found = []
    for i, value in enumerate(values):
        if value is None or (names and value == -1):
            found.append(LOOSE)
        elif names and isinstance(value, int) and 0 <= value < len(names):
            found.append(names[value])
        elif isinstance(value, int | str) and not names:
            found.append(same(str(value)))
        else:
            raise UserError(
                f"{shown(table.name)}: row {i} has {shown(repr(value))[:80]} as its "
                f"{shown(column)}; a class is a text, or a whole number"
                f"{f' below {len(names)}' if names else ''}. Name another column with "
                "--config.data.label_column."
            )
    return found


def digest(cell: Cell) -> str:
    """What stands for an image that has no name: the same for the same bytes."""
    return hashlib.blake2b(cell.content, digest_size=16).hexdigest()
