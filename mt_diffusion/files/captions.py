"""Files of captions: tables of pictures' words, and lists of words alone."""

import csv
import io
import json
import pathlib
from collections.abc import Iterator

from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import same, shown

FILES = ("file", "file_name", "image")  # what the column of pictures may be called
TEXTS = ("caption", "text")
LIST = ".txt"  # ends the name of a file with a text in each line
TABLE = "a .csv with the columns file and caption, or a .json of {file: caption}"
LINES = f"a {LIST} with a text in each line"
OTHERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz")  # that are no words


def table(path: pathlib.Path) -> dict[str, list[str]]:
    """{path of a picture without its suffix: its captions} of a .csv or a .json.

    A .csv has a heading, with columns file and caption, and a row for each caption; a
    .json is {file: caption, or several}. Empty captions are none. Raises UserError for
    anything else.
    """
    found: dict[str, list[str]] = {}
    for file, caption in _json(path) if path.suffix == ".json" else _csv(path):
        name = without_suffix(pathlib.PurePosixPath(same(file)))
        if not name:
            raise UserError(
                f"{shown(path)} has the caption {shown(caption[:60])!r} of the file "
                f"{shown(file)!r}, which is none; name one there, or remove that."
            )
        if caption.strip():
            found.setdefault(name, []).append(caption.strip())
    return found


def without_suffix(path: pathlib.PurePath) -> str:
    """A picture's path without its suffix, if that is one of images; '' for no file."""
    if not path.name or path.name == "..":
        return ""
    is_image = path.suffix.lower() in finding.SUFFIXES
    return (path.with_suffix("") if is_image else path).as_posix()


def _text(path: pathlib.Path, what: str) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"{shown(path)} does not exist; give the path of {what}."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{shown(path)} can't be read as text ({shown(str(error))}); give a file "
            "of UTF-8."
        ) from error


def _csv(path: pathlib.Path) -> list[tuple[str, str]]:
    try:
        rows = csv.DictReader(io.StringIO(_text(path, TABLE), newline=""), strict=True)
        return list(_rows(rows, path))
    except csv.Error as error:
        raise UserError(
            f"{shown(path)} can't be read as a table ({error}); a caption with commas, "
            'quotes or several lines stands in quotes, "so", and a quote in it twice.'
        ) from error


def _rows(rows: csv.DictReader, path: pathlib.Path) -> Iterator[tuple[str, str]]:
    columns = [
        next((name for name in names if name in (rows.fieldnames or ())), None)
        for names in (FILES, TEXTS)
    ]
    if None in columns:
        raise UserError(
            f"{shown(path)} has the columns {', '.join(rows.fieldnames or ['none'])}; "
            "of a table of captions the first line names two, file and caption."
        )
    file, caption = columns
    for row in rows:
        yield row[file] or "", row[caption] or ""


def _json(path: pathlib.Path) -> list[tuple[str, str]]:
    try:
        content = json.loads(_text(path, TABLE))
        both = [
            (file, caption)
            for file, said in content.items()
            for caption in ([said] if isinstance(said, str) else list_of(said))
        ]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"{shown(path)} is no table of captions ({shown(str(error))}): it must be "
            "JSON, {file: caption} or {file: [caption, ...]}."
        ) from error
    return both


def list_of(said: object) -> list[str]:
    """A list of texts; TypeError for anything else."""
    if not isinstance(said, list) or not all(isinstance(x, str) for x in said):
        raise TypeError(f"{str(said)[:60]} is neither a text nor a list of texts")
    return said


def is_list(path: pathlib.Path) -> bool:
    """Whether its name is that of a file with a text in each line."""
    return path.suffix.lower() == LIST


def is_other(text: str) -> bool:
    """Whether a text is called as another file is, or is the path of one.

    One word without a suffix may be both a word and a file: it is a word.
    """
    path = pathlib.Path(text).expanduser()
    is_path = "/" in text or path.suffix != ""
    is_named = path.suffix.lower() in OTHERS and not any(map(str.isspace, path.name))
    return not is_list(path) and (is_named or is_path and path.is_file())


def lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file; UserError where there is none, or one is empty."""
    found = [line.strip() for line in _text(path, LINES).splitlines()]
    while found and not found[-1]:
        found.pop()
    if not found or not all(found):
        where = f"its line {found.index('') + 1} is empty" if found else "it is empty"
        raise UserError(
            f"{shown(path)} must have a text in each line, but {where}; remove that."
        )
    return found
