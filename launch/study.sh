#!/usr/bin/env bash
# The study of results/README.md, in the background; the same command continues it.
#   bash launch/study.sh DATA_DIR [--seeds=0,1,2] [--only=ddpm,label_m] [--dry-run]
# DATA_DIR is TFDS's, with fashion_mnist. Half an hour to an hour of one core for each run
# and seed. --dry-run says which runs there would be.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/resumable.sh
[[ " $* " != *" --help "* ]] || { usage launch/study.sh && exit; }
[[ $# -gt 0 && $1 != -* ]] || mistake "DATA_DIR is missing; see --help."
. launch/setup.sh
study=(python -m studies.study --data_dir="$1" "${@:2}")
"${study[@]}" --dry-run # a mistake is told here and now
[[ " $* " == *" --dry-run "* ]] && exit
mkdir -p runs/study
nohup "${study[@]}" >>runs/study/log.txt 2>&1 &
echo "process $!; progress in runs/study/log.txt, figures in results/study/"
