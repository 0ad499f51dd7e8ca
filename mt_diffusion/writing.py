"""Files that are written whole or not at all, and folders that can be written to."""

import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from mt_diffusion.errors import UserError


def make_folder(folder: pathlib.Path, what: str) -> None:
    """Makes a folder. Raises UserError, naming `what` the user said, if it can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{what} can't be written to: {error}.") from error


def claim_file(path: pathlib.Path) -> None:
    """Makes the folder of a new file. Raises UserError where the file exists."""
    if path.exists():
        raise UserError(
            f"--out={path} exists already; name another file, or remove that one."
        )
    make_folder(path.parent, f"--out={path}")


def text(path: pathlib.Path, content: str) -> None:
    """A text file."""
    draft = path.with_suffix(".draft")
    draft.write_text(content)
    draft.replace(path)


def as_json(path: pathlib.Path, content: Any) -> None:
    """A file of JSON, for people to read as well."""
    text(path, json.dumps(content, indent=2) + "\n")


def arrays(path: pathlib.Path, content: Mapping[str, np.ndarray]) -> None:
    """A compressed .npz."""
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        np.savez_compressed(file, **content)
    draft.replace(path)
