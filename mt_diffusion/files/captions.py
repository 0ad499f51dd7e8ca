"""Files of captions: tables of pictures' words, and lists of words alone."""

import csv
import io
import json
import pathlib

from mt_diffusion.errors import UserError
from mt_diffusion.files.names import same, shown

FILES = ("file", "file_name", "image")  # what the column of pictures may be called
TEXTS = ("caption", "text")
LIST = ".txt"  # ends the name of a file with a text in each line


def table(path: pathlib.Path) -> dict[str, list[str]]:
    """{path of a picture without its suffix: its captions} of a .csv or a .json.

    A .csv has a heading, with columns file and caption, and a row for each caption; a
    .json is {file: caption, or several}. Empty captions are none. Raises UserError for
    anything else.
    """
    found: dict[str, list[str]] = {}
    for file, caption in _json(path) if path.suffix == ".json" else _csv(path):
        place = pathlib.PurePosixPath(same(file))
        if caption.strip():
            found.setdefault(str(place.with_suffix("")), []).append(caption.strip())
    return found


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{shown(path)} can't be read as text ({shown(str(error))}); give a file "
            "of UTF-8."
        ) from error


def _csv(path: pathlib.Path) -> list[tuple[str, str]]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    columns = [
        next((name for name in names if name in (rows.fieldnames or ())), None)
        for names in (FILES, TEXTS)
    ]
    if None in columns:
        raise UserError(
            f"{shown(path)} has the columns {rows.fieldnames}; of a table of captions "
            "the first line names two, file and caption."
        )
    file, caption = columns
    return [(row[file] or "", row[caption] or "") for row in rows]


def _json(path: pathlib.Path) -> list[tuple[str, str]]:
    try:
        content = json.loads(_text(path))
        both = [
            (file, caption)
            for file, said in content.items()
            for caption in ([said] if isinstance(said, str) else said)
        ]
        if not all(isinstance(caption, str) for _, caption in both):
            raise TypeError("a caption is no text")
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{shown(path)} is no table of captions ({shown(str(error))}): it must be "
            "JSON, {file: caption} or {file: [caption, ...]}."
        ) from error
    return both


def lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file; UserError where there is none, or one is empty."""
    found = [line.strip() for line in _text(path).splitlines()]
    while found and not found[-1]:
        found.pop()
    if not found or not all(found):
        where = f"its line {found.index('') + 1} is empty" if found else "it is empty"
        raise UserError(
            f"{shown(path)} must have a text in each line, but {where}; remove that."
        )
    return found
