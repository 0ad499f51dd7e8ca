"""What is wrong with `--config.a.b=value`, said so that it can be mended."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags


def explain(message: str, argv: Sequence[str]) -> str:
    """Absl's message, with the type of the config field that it complains of."""
    if "Unknown command line flag 'config." in message:
        return f"{message} (Fields of a config can be set after --config=FILE.)"
    if match := re.match(r"flag --config\.([\w.]+)=", message):
        value = fields(base_config(argv))[match[1]]
        kind = type(value).__name__
        return f"{message}; the field takes a value of type {kind}, such as {value!r}."
    return message


def unknown_fields(argv: Sequence[str]) -> str:
    """Which overrides name no field of the config, and the nearest that exist."""
    known = fields(base_config(argv))
    given = [m[1] for a in argv if (m := re.match(r"--?config\.([\w.]+)", a))]
    texts = []
    for name in given:
        if name not in known:
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
            texts.append(f"there is no config.{name}; the nearest is config.{nearest}.")
    return " ".join(texts)


def base_config(argv: Sequence[str]) -> ConfigDict:
    """The config as its file has it, without overrides."""
    plain = [a for a in argv if not a.startswith(("--config.", "-config."))]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=plain
    )
    values(plain, known_only=True)
    return config.value


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of all fields of a config."""
    found = {}
    for name, value in config.items():
        found[prefix + name] = value
        if isinstance(value, ConfigDict):
            found |= fields(value, f"{prefix}{name}.")
    return found
