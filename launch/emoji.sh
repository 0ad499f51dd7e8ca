#!/usr/bin/env bash
# Prepares emoji in two hands, with their names, in ~/.cache/mt_diffusion/emoji: what the
# presets `emoji` train on. Downloads 136 MB from npm's registry; where it is cut off, the
# same command goes on.
#   bash launch/emoji.sh [--out FOLDER] [--label group|subgroup] [--registry URL]
# Of another FOLDER it prints the flags that tell configs of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/setup.sh
exec python -m mt_diffusion.command.emoji "$@"
