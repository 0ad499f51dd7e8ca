"""Files that are written whole or not at all, and folders that can be written to."""

import contextlib
import json
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from mt_diffusion.errors import UserError

LONGEST = 200  # letters of a library's error that are shown


def make_folder(
    folder: pathlib.Path, what: str, within: pathlib.Path | None = None
) -> None:
    """Makes a folder. Raises UserError, naming `what` the user said, if it can't be.

    within: the folder below which it must lie, where links lead elsewhere.
    """
    if within is not None:
        stay_within(folder, within)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{what} can't be written to: {error}.") from error


def stay_within(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Raises UserError where a link leads what is to be written out of a folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} would be written to {path.resolve()}, for there is a link in "
            f"{folder}: nothing is written through links that lead out of a run's "
            "folder. Remove it, or move the whole folder there and link that."
        )


def user_cache(part: str) -> pathlib.Path:
    """mt_diffusion/PART below the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(root) / "mt_diffusion" / part


def claim_file(path: pathlib.Path) -> None:
    """Makes the folder of a new file. Raises UserError where the file exists."""
    if path.exists():
        raise UserError(
            f"--out={path} exists already; name another file, or remove that one."
        )
    make_folder(path.parent, f"--out={path}")


@contextlib.contextmanager
def explained(path: pathlib.Path, refusal: type[Exception] = OSError) -> Iterator[None]:
    """Makes of a write that the system refuses a UserError that names the file."""
    try:
        yield
    except refusal as error:
        raise UserError(
            f"{path} could not be written ({reason(error)}). Make room, or mend what "
            "is wrong; the same command then continues."
        ) from error


def reason(error: Exception) -> str:
    """What the system said, in a line: libraries put it at the end of theirs."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r" \[(os_error_code|source locations)=.*", "", line)
    return line if len(line) <= LONGEST else f"... {line[-LONGEST:]}"


@contextlib.contextmanager
def draft_of(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """What to write instead of a file; it takes the file's place once it is whole.

    Its name can't be foretold and is new, so that nobody has a link there; a link in
    the place of the file itself is replaced, not followed.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    with explained(path):
        try:
            draft.touch(exist_ok=False)
            yield draft
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def text(path: pathlib.Path, content: str) -> None:
    """A text file."""
    with draft_of(path) as draft:
        draft.write_text(content, "utf-8")


def as_json(path: pathlib.Path, content: Any) -> None:
    """A file of JSON, for people to read as well."""
    text(path, json.dumps(content, indent=2) + "\n")


def arrays(path: pathlib.Path, content: Mapping[str, np.ndarray]) -> None:
    """A compressed .npz."""
    named: Mapping[str, Any] = content  # NumPy's types take a name for an option's
    with draft_of(path) as draft, open(draft, "wb") as file:
        np.savez_compressed(file, **named)


def animation(
    path: pathlib.Path, frames: Sequence[PIL.Image.Image], last: float = 2.0
) -> None:
    """A GIF of all frames in 5 seconds, the last one `last` seconds more; for ever."""
    milliseconds = [max(5000 // len(frames), 40)] * len(frames)
    milliseconds[-1] += round(1000 * last)
    first, *rest = frames
    how = dict(save_all=True, append_images=rest, duration=milliseconds, loop=0)
    with draft_of(path) as draft:
        first.save(draft, "GIF", optimize=False, **how)


def image(path: pathlib.Path, content: PIL.Image.Image) -> None:
    """A PNG."""
    with draft_of(path) as draft:
        content.save(draft, "PNG")
