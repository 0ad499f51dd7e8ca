"""Prepares emoji in two hands, with their names: what launch/emoji.sh calls.

Downloads 136 MB from npm's registry, and leaves 69 MB.
"""

import argparse
import pathlib

from mt_diffusion.command import exits
from mt_diffusion.data.prepared import emoji
from mt_diffusion.files import writing


def main() -> None:
    """The command; exits.py has what it ends with."""
    parser = argparse.ArgumentParser(prog="bash launch/emoji.sh", description=__doc__)
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=writing.user_cache(emoji.NAME),
        help="folder; %(default)s, where configs look, unless it is said",
    )
    parser.add_argument("--registry", default=emoji.REGISTRY, help="of npm packages")
    parser.add_argument(
        "--label",
        choices=emoji.LABELS,
        default="",
        help="what the classes are: 10 groups (the default), or 99 sub-groups",
    )
    args = parser.parse_args()
    exits.answer_sigterm()
    with exits.decided(), exits.explained():
        emoji.prepare(args.out.expanduser(), args.registry, args.label)


if __name__ == "__main__":
    main()
