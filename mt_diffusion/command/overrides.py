"""What is wrong with `--config.a.b=value`, said so that it can be mended."""

import ast
import contextlib
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mt_diffusion.command import config_file
from mt_diffusion.errors import UserError

KNOWN = (flags.Error, TypeError, ValueError, AttributeError, KeyError)
GENERATED_DRIFT = "is now a guess: NAME=absent for 0, NAME=mean for 1"


WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}
SHOWN = 60  # letters of a field's value


def mistake(error: Exception, argv: Sequence[str]) -> str:
    """What is wrong where parsing these arguments raised this; "" for nothing known."""
    if text := config_text(argv):
        if said := config_file.problem(text):
            return said
        if said := unknown_fields(argv):
            return said
    return explain(str(error), argv) if isinstance(error, KNOWN) else ""


def check_loaded(config: Any, argv: Sequence[str]) -> None:
    """Raises UserError for what a config file gave and that is no config."""
    if not isinstance(config, ConfigDict):
        raise UserError(config_file.problem(config_text(argv)))


def config_text(argv: Sequence[str]) -> str:
    """What --config says; "" for nothing."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", "", "", flag_values=values)
    with contextlib.suppress(flags.Error):  # no value follows
        values(argv, known_only=True)
    return values["config"].value or ""


def explain(message: str, argv: Sequence[str]) -> str:
    """Absl's message, in our words where it is of a value of another type."""
    if "Unknown command line flag 'generated_drift'" in message:
        return f"{message} (What was --generated_drift {GENERATED_DRIFT}, in --guess.)"
    if "Unknown command line flag 'config." in message:
        return f"{message} (Fields of a config can be set after --config=FILE.)"
    if match := re.match(r"flag --config\.([\w.]+)=", message):
        value = fields(base_config(argv))[match[1]]
        if isinstance(value, ConfigDict):
            one = f"config.{match[1]}.{next(iter(value), 'NAME')}"
            return f"config.{match[1]} is a section: set its fields, as --{one}=VALUE."
        kind, shown = type(value).__name__, repr(value)
        shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
        return f"{message}; the field takes a value of type {kind}, such as {shown}."
    if match := re.match(r"flag --(\w+)=(.*?): (.*)", message, re.DOTALL):
        return of_flag(*match.groups())
    return message


def of_flag(name: str, given: str, said: str) -> str:
    """What absl said of a flag's value."""
    plain = f"--{name}={given}: {said.rstrip('.')}."
    if name not in flags.FLAGS:
        return plain
    flag = flags.FLAGS[name]
    if choices := getattr(flag.parser, "enum_values", None):
        (near,) = difflib.get_close_matches(given, choices, n=1, cutoff=0)
        return (
            f"--{name}={given} is none of {', '.join(choices)}; the nearest is {near}."
        )
    if flag.flag_type() in WANTED and " is not a" not in said:
        wanted = WANTED[flag.flag_type()]
        return f"--{name}={given}: {wanted} is wanted. {flag.help}"
    return plain


def unknown_fields(argv: Sequence[str]) -> str:
    """Which overrides name no field of the config, and the nearest that exist."""
    config = base_config(argv)
    known, texts = fields(config), []
    matches = [re.match(r"--?config\.([\w.]+)=?(.*)", a) for a in argv]
    given = {m[1]: m[2] for m in matches if m}
    for name in (n for n in given if n not in known):
        (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
        text = f"there is no config.{name}; the nearest is config.{nearest}."
        texts.append(replaced(config, name, given) or text)
    return " ".join(texts)


def replaced(config: ConfigDict, name: str, given: Mapping[str, str]) -> str:
    """What says the same now as a field of an earlier version; "" for any other.

    given: {"a.b": text} of all overrides.
    """
    from mt_diffusion.modalities import build as base  # after --help: it needs JAX

    if name == "sampling.generated_drift":
        return f"config.{name} {GENERATED_DRIFT}, in config.sampling.guess."
    part, _, rest = name.partition(".")
    modality, _, field = rest.partition(".")
    if part != "modalities" or modality not in config.modalities:
        return ""

    def value(name: str, default: Any) -> Any:
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(given[name]) if name in given else default
        return default

    of_images = [f"data.{n}" for n in ("image_size", "image_size", "channels")]
    known = fields(config)
    numbers = math.prod(value(n, known[n]) for n in of_images)
    own = config.modalities[modality].to_dict() | {field: value(name, 0.0)}
    try:
        base.refuse_replaced(base.locate(own["kind"]), modality, own, numbers)
    except UserError as error:
        return str(error)
    return ""


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
