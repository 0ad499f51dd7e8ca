#!/usr/bin/env bash
# The study of results/README.md, in the background; the same command continues it.
#   bash launch/study.sh DATA_DIR [--seeds=0,1,2] [--only=ddpm,label_m]
# DATA_DIR is TFDS's, with fashion_mnist. About 12 hours a seed on 2 CPU cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $# -eq 0 || $1 == -* ]]; then
  echo "usage: bash launch/study.sh DATA_DIR [--seeds=0,1,2] [--only=NAME,NAME]" >&2
  exit 2
fi
. launch/setup.sh
mkdir -p runs/study
nohup python -m benchmarks.study --data_dir="$1" "${@:2}" >>runs/study/log.txt 2>&1 &
echo "process $!; progress in runs/study/log.txt, figures in results/study/"
