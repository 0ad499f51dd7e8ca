#!/usr/bin/env bash
# Training and sampling against diffusers in PyTorch on this CPU, as results/speed.
#   bash launch/speed.sh [--rounds=20] [--starts=5] [--out=results/speed] [--torch=PYTHON]
# PYTHON has torch and diffusers; without it they are installed into .venv-torch. About
# an hour on 2 cores, which should have nothing else to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/resumable.sh
[[ " $* " != *" --help "* ]] || { usage launch/speed.sh && exit; }
. launch/setup.sh
if [[ $* != *--torch=* ]]; then
  if [[ ! -x .venv-torch/bin/python ]]; then
    "${PYTHON:-python3}" -m venv .venv-torch
  fi
  .venv-torch/bin/pip install --quiet --disable-pip-version-check torch diffusers
  set -- "$@" --torch=.venv-torch/bin/python
fi
exec python -m benchmarks.speed "$@"
