"""What --help says: a page of examples, or the flags of the mode that is named."""

import textwrap
from collections.abc import Sequence

from absl import flags

from mt_diffusion.command import options

NAMES = ", ".join(options.FLAGS_OF)
MODES = textwrap.fill(f"Flags of a mode: --mode=MODE --help, where MODE is {NAMES}.")


def text(argv: Sequence[str], introduction: str) -> str:
    """The flags of the mode in argv; where none is, the introduction and all modes."""
    named = [a.partition("=")[2] for a in argv if a.lstrip("-").startswith("mode=")]
    mode = named[-1] if named else ""
    if mode not in options.FLAGS_OF:
        return f"{introduction}\n{MODES}"
    config = {"config"} if mode in options.WITH_CONFIG else set()
    shown = flags.FlagValues()
    for name in options.FLAGS_OF[mode] | config:
        shown[name] = flags.FLAGS[name]
    return f"Flags of --mode={mode}:\n{shown.get_help(include_special_flags=False)}"
