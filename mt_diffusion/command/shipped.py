"""The configs that come with the project, found by name from any folder.

In a checkout they are the folder configs/ beside the package, in an installation
mt_diffusion/configs. Either way they, and configs of one's own, say
`from configs import common`.
"""

import importlib.util
import pathlib
import re
import sys
import types
from collections.abc import Sequence

PACKAGE = pathlib.Path(__file__).parents[1]
FOLDERS = (PACKAGE.parent / "configs", PACKAGE / "configs")


def folder() -> pathlib.Path:
    """Where they are."""
    return next(f for f in FOLDERS if (f / "common.py").exists())


def make_importable() -> None:
    """Makes `configs` the shipped ones, unless such are on the path already."""
    if "configs" in sys.modules:
        return
    found = importlib.util.find_spec("configs")
    where = found.submodule_search_locations if found else None
    places = [pathlib.Path(place) for place in where or ()]
    if not any((p / "common.py").exists() for p in places):
        module = types.ModuleType("configs")
        module.__path__ = [str(folder())]
        sys.modules["configs"] = module


def path_of(text: str) -> str:
    """FILE.py[:PRESET] of a config that is named: image_label:smoke, or as it is.

    configs/NAME.py is the shipped one where there is no such file.
    """
    name, colon, preset = text.partition(":")
    match = re.fullmatch(r"(?:configs/)?(\w+)(?:\.py)?", name)
    if match and not pathlib.Path(name).exists():
        shipped = folder() / f"{match[1]}.py"
        if shipped.exists():
            return f"{shipped}{colon}{preset}"
    return text


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
