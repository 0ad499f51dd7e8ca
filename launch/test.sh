#!/usr/bin/env bash
# Sets up .venv and runs the linter, mypy and the tests, one file on each core at a time.
# Arguments go to pytest; --all adds wide matrices.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/setup.sh
ruff format --check .
ruff check .
mypy
exec python -m pytest -n logical --dist loadfile "$@"
