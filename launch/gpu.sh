#!/usr/bin/env bash
# Runs `python -m mt_diffusion.main` on the GPUs of this machine, in a .venv with CUDA.
#   bash launch/gpu.sh [--dry-run] --config=configs/image_label.py:cifar10 \
#       --workdir=runs/cifar10 [any flag of python -m mt_diffusion.main]
#
# Training gets --config.platform=gpu, so that it fails where JAX finds no GPU; modes
# that take their config from the workdir use what JAX finds. A run that exits
# with 75 (it saved a checkpoint because something told it to stop) is run again; any
# other status ends this script with it. SIGTERM or SIGHUP to this script itself, and
# Ctrl-C, are passed on and are final: the same command then continues.
#
#   --dry-run   prints the commands and runs none
#   --help      this text
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/resumable.sh
PAUSE=${PAUSE:-5} # seconds before the same again

[[ $# -gt 0 ]] || set -- --help
take_dry_run "$@"
case ${flags[0]:-} in
  --help | -h) usage launch/gpu.sh && exit ;;
esac
[[ ${#flags[@]} -gt 0 ]] || mistake "no flags for the run; see bash launch/gpu.sh --help."
arguments_on gpu "${flags[@]}"
command=(python -m mt_diffusion.main "${arguments[@]}")
if [[ -n $dry_run ]]; then
  echo "REQUIREMENTS=requirements-gpu.txt . launch/setup.sh"
  show "${command[@]}"
  exit
fi

pass_on() { kill -"$1" "$child"; }

REQUIREMENTS="requirements-gpu.txt"
. launch/setup.sh
while true; do
  run_child "${command[@]}"
  [[ $status -eq $RESUME && -z $stopped ]] || exit "$status"
  echo "interrupted after a checkpoint (status $RESUME): the same again" >&2
  sleep "$PAUSE"
done
