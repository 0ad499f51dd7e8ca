#!/usr/bin/env bash
# A page at http://127.0.0.1:7860 to play with a trained model:
#   bash launch/demo.sh                        # one that comes with the package
#   bash launch/demo.sh --workdir=runs/joint   # one of yours; --help has the rest
# Sets up .venv, and installs the extra "demo" of pyproject.toml there (once).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/setup.sh
if ! python -c 'import gradio' 2>/dev/null; then
  echo "installing the extra demo into .venv (once)"
  mapfile -t packages < <(python -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["demo"], sep="\n")')
  pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
exec python -m mt_diffusion.demo "$@"
