"""What keeps a config file from being loaded, said so that it can be mended."""

import importlib.util
import pathlib
import traceback
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import shipped

MODULE = "config_of_the_user"  # the name under which it is loaded to see what is wrong


def problem(text: str) -> str:
    """Why FILE.py or FILE.py:PRESET gives no config; "" where it does.

    Raises UserError where the file itself does.
    """
    reason = look(text)
    return f"--config={text} can't be loaded: {reason}" if reason else ""


def look(text: str) -> str:
    """Loads the file, to see what is wrong; "" for nothing."""
    name, colon, preset = text.partition(":")
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        return (
            f"there is no file {name}. The shipped configs are "
            f"{', '.join(shipped.names())}; the nearest is {shipped.nearest(text)}."
        )
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        return "a config is a file of Python, and ends in .py."
    module = importlib.util.module_from_spec(spec)
    try:
        with shipped.importable():
            spec.loader.exec_module(module)
            if not callable(getattr(module, "get_config", None)):
                return (
                    f"{name} has no function get_config, which "
                    "returns the config (configs/image_label.py is an example)."
                )
            return unlike(module.get_config(*([preset] if colon else [])))
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with code that a user wrote
        return f"{place(error, path)}."


def unlike(made: Any) -> str:
    """What is wrong with what get_config returned; "" for a ConfigDict."""
    if isinstance(made, ConfigDict):
        return ""
    returned = "nothing" if made is None else f"a {type(made).__name__}"
    return (
        f"its get_config returned {returned}; it must return a "
        "ConfigDict, as common.get_config(preset) makes one (configs/common.py)."
    )


def place(error: Exception, path: pathlib.Path) -> str:
    """An error, with the last line of the file that it came from."""
    said = str(error) or type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename) == path.absolute()
    ]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{where} imports {error.name!r}, which is not there. Install it, or run "
            "from the folder that has it"
        )
    return f"{where}: {type(error).__name__}: {said.splitlines()[0].rstrip('.')}"
