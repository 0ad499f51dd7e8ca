#!/usr/bin/env bash
# Sets up .venv and runs `python -m mt_diffusion.main` with the arguments given;
# without any, trains masked images on the embedded digits into runs/masked_image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/setup.sh
if [[ $# -eq 0 ]]; then
  set -- --config=configs/masked_image.py --workdir=runs/masked_image
fi
exec python -m mt_diffusion.main "$@"
