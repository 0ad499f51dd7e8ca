"""Flags are parsed, and what is wrong with them said, before anything heavy starts."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from mt_diffusion import trust
from mt_diffusion.command import moved, options, overrides
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import shipped

MOST = 10**9  # of any number but the seed


def config_of(text: str) -> ConfigDict:
    """The config of NAME, NAME:PRESET or FILE.py:PRESET, as --config=... has it.

    Raises UserError where there is none.
    """
    text, values = shipped.path_of(text), flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", None, flag_values=values)
    argv = ["mt_diffusion", f"--config={text}"]
    with explained(argv), shipped.importable():
        values(argv)
        overrides.check_loaded(flag.value, argv)
    return flag.value


@contextlib.contextmanager
def explained(argv: Sequence[str]) -> Iterator[None]:
    """Makes a UserError of what absl and a config file raise for these arguments."""
    # All files are loaded into this module, which keeps what the one before had.
    sys.modules.pop("config_config", None)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a config file is a program, and may raise anything
        if not (said := overrides.mistake(error, argv)):
            raise
        raise UserError(said) from error


def trusted(argv: Sequence[str]) -> list[str]:
    """What --trust says."""
    values = flags.FlagValues()
    flag = flags.DEFINE_list("trust", [], "", flag_values=values)
    values(argv, known_only=True)
    return flag.value


def need(*needed: flags.FlagHolder) -> None:
    """Raises UserError where one of these flags is missing."""
    missing = [f"--{f.name}" for f in needed if not f.value]
    if missing:
        mode = options.MODE.value
        raise UserError(f"--mode={mode} needs {' and '.join(missing)} as well.")


def numbers(flag: flags.FlagHolder) -> tuple[float, ...]:
    """The items of a list of numbers; UserError for anything else."""
    try:
        found = tuple(float(item) for item in flag.value)
    except ValueError as error:
        given = f"--{flag.name}={','.join(flag.value)}"
        raise UserError(f"{given}: numbers are wanted, and {error}.") from error
    for number in found:
        check_number(flag.name, number)
    return found


def parse(argv: Sequence[str], introduction: str) -> list[str]:
    """Absl's parser; a user's mistake becomes a UserError.

    introduction: what --help says.
    """
    argv = moved.take(shipped.with_paths(argv))
    if {"--help", "-h", "-help", "--helpshort"} & set(argv):
        print(introduction)
        sys.exit(0)
    with explained(argv), shipped.importable():
        trust.ask(trusted(argv))  # before a config file reads a stored one
        rest = flags.FLAGS(argv)
        mode, config = options.MODE.value, options.CONFIG.value
        if mode in options.WITH_CONFIG and flags.FLAGS["config"].present:
            overrides.check_loaded(config, argv)
    check_numbers()
    if mode not in options.WITH_CONFIG and config is not None:
        raise UserError(
            f"--config is for training: --mode={mode} takes the config of the "
            "checkpoint. Leave it out; other flags change how it samples (--help)."
        )
    if mode in options.WITH_CONFIG and config is None:
        raise UserError(
            "--config is missing: name a config file, such as "
            "--config=configs/masked_image.py, or --mode=sample to draw from a workdir."
        )
    check_flags(mode)
    moved.check(mode)
    return rest


def check_numbers() -> None:
    """Raises UserError for numbers that are not finite, or that nobody can mean."""
    for flag in flags.FLAGS.get_flags_for_module(options.__name__):
        check_number(flag.name, flag.value)


def check_number(name: str, value: object) -> None:
    """Raises UserError for a number as of `check_numbers`; others' ranges are less."""
    is_seed = name == options.SEED.name
    if isinstance(value, int | float) and not abs(value) <= MOST and not is_seed:
        raise UserError(
            f"--{name}={value} is no number from {-MOST:,} to {MOST:,}; give one."
        )


def check_flags(mode: str) -> None:
    """Raises UserError for a flag that says nothing in this mode."""
    ours = set().union(*options.FLAGS_OF.values())
    for name in sorted(ours - options.FLAGS_OF[mode]):
        if flags.FLAGS[name].present:
            modes = [m for m, names in options.FLAGS_OF.items() if name in names]
            raise UserError(
                f"--{name} means nothing to --mode={mode}; leave it out (it is for "
                f"--mode={' and '.join(modes)})."
            )
