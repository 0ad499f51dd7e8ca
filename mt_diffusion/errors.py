"""How a run ends early: by a mistake that the user can mend, or by being told to."""

import contextlib
import re
from collections.abc import Iterator


class UserError(Exception):
    """A mistake in a config, a flag or a file; its text names the value and the remedy.

    `main` prints the text as one paragraph, without a traceback, and exits non-zero.
    """


class Stopped(Exception):
    """The run was told to stop and has saved itself; its text says how to go on.

    `main` exits with a status that launchers take as "start the same command again".
    """


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports of packages that only an extra of this project installs.

    extra: its name in pyproject.toml. what: the thing that can't be had without it.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{what} needs a package that is not installed here ({error}). Install it "
            f"by: pip install 'mt-diffusion[{extra}]' (in a copy of the project: pip "
            f"install '.[{extra}]')."
        ) from error


def as_arguments(text: str) -> str:
    """A message about --flags as one about arguments; whole commands stay as they are.

    So does --mode=..., which is what no function here does.
    """
    pattern = r"(mt_diffusion\.main(?: --\S+)*)|(?<![\w-])--(?!mode=)(?=[a-z])"
    return re.sub(pattern, lambda found: found[1] or "", text)


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Makes a ValueError of a UserError, for programs: `as_arguments`."""
    try:
        yield
    except UserError as error:
        raise ValueError(as_arguments(str(error))) from None
