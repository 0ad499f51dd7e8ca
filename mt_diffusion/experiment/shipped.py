"""The configs that come with the project, found by name from any folder.

In a checkout they are the folder configs/ beside the package, in an installation
mt_diffusion/configs. Either way they, and configs of one's own, say
`from configs import common`.
"""

import contextlib
import difflib
import importlib.machinery
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Sequence

PACKAGE = pathlib.Path(__file__).parents[1]
FOLDERS = (PACKAGE.parent / "configs", PACKAGE / "configs")
NAME = "configs"


def folder() -> pathlib.Path:
    """Where they are."""
    return next(f for f in FOLDERS if (f / "common.py").exists())


def names() -> list[str]:
    """Of all that are settings."""
    found = {p.stem for p in folder().glob("*.py")} - {"__init__", "common"}
    return sorted(found)


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Makes `configs` the shipped ones, and after these a package of that name.

    The package of somebody who calls his own so, and has imported it, is as before
    afterwards.
    """
    theirs = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == NAME}
    ours = str(folder())
    if list(getattr(theirs.get(NAME), "__path__", ()))[:1] == [ours]:
        yield
        return
    found = importlib.machinery.PathFinder.find_spec(NAME)
    others = found.submodule_search_locations if found else None
    module = types.ModuleType(NAME)
    module.__path__ = [ours, *(other for other in others or () if other != ours)]
    for name in theirs:
        del sys.modules[name]
    sys.modules[NAME] = module
    try:
        yield
    finally:
        if theirs:
            for name in [n for n in sys.modules if n.partition(".")[0] == NAME]:
                del sys.modules[name]
            sys.modules.update(theirs)


def path_of(text: str) -> str:
    """FILE.py[:PRESET] of a config that is named: image_label:smoke, or as it is.

    configs/NAME.py is the shipped one where there is no such file.
    """
    name, colon, preset = text.partition(":")
    match = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", name)
    if match and not pathlib.Path(name).is_file():
        shipped = folder() / f"{match[1]}.py"
        if shipped.exists():
            return f"{shipped}{colon}{preset}"
    return text


def nearest(text: str) -> str:
    """The name of a shipped one that is most like the text."""
    stem = pathlib.Path(text.partition(":")[0]).stem
    return difflib.get_close_matches(stem, names(), n=1, cutoff=0)[0]


def with_paths(argv: Sequence[str]) -> list[str]:
    """Arguments, with the path of the config where --config names it."""
    found, flag = [], "--config"
    for i, argument in enumerate(argv):
        if argument.startswith(f"{flag}="):
            argument = f"{flag}={path_of(argument.removeprefix(f'{flag}='))}"
        elif i and argv[i - 1] == flag:
            argument = path_of(argument)
        found.append(argument)
    return found
