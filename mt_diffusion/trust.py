"""Whose code runs: what a file names is imported only where its module is trusted.

A user's own config and flags may name any module. A run's folder and a data set are
things that people hand each other: what they name must lie in this package, be named by
the user's own config as well, or by `--trust` (`trust=` in Python).
"""

from collections.abc import Iterable

from mt_diffusion.errors import UserError

PACKAGE = __name__.partition(".")[0]
_trusted = {PACKAGE}  # of this process, in which what was imported once has run anyway


def add(modules: Iterable[str]) -> None:
    """From here on, modules of these names, and all below them, may be imported."""
    _trusted.update(modules)


def ask(modules: Iterable[str]) -> None:
    """As `add`, of what a user wrote; raises UserError for what is no module's name."""
    for module in [modules] if isinstance(modules, str) else modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError(
                f"--trust={module!r} is no module; give its name as Python's import "
                "has it, such as my_package.depth, or my_package for all in it."
            )
        add([module])


def check(module: str, where: str) -> None:
    """Raises UserError for a module that is not trusted.

    where: what names it, for the message.
    """
    if not any(f"{module}.".startswith(f"{known}.") for known in _trusted):
        raise UserError(
            f"{where} names code of the module {module!r}, which would be run. Nothing "
            f"was. If you know what is in it, add --trust={module}."
        )
