#!/usr/bin/env bash
# One GPU or TPU in ten minutes: attention, images/s and MFU beside PyTorch, and the joint
# model at ten times the study's budget, judged.
#   bash benchmarks/accelerator.sh [--smoke] [--out=FOLDER] [--torch=PYTHON]
# DATA_DIR has TFDS's fashion_mnist (shared/tfds). PYTHON has torch and diffusers (the one
# that runs; without them their rows are left out). Needs no network. --smoke: anywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
smoke="" out=runs/accelerator python=${PYTHON:-python3}
torch=$python
for argument in "$@"; do
  case $argument in
    --smoke) smoke=--smoke ;;
    --out=*) out=${argument#--out=} ;;
    --torch=*) torch=${argument#--torch=} ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
  esac
done
# Killed where it does not end when it is told to, for the next one needs the chip.
minutes() { timeout --foreground -k 10 "$@" || echo "not done: $* ($?)"; }

minutes 4m "$python" -m benchmarks.accelerator $smoke "--out=$out" "--torch=$torch"

# 96,000 images are the study's budget: 3,750 steps of 256 are ten of it.
data=${DATA_DIR:-shared/tfds}
run=(--config=configs/image_label.py:fashion_small "--config.data.data_dir=$data")
run+=(--config.train.num_steps=3750 --config.train.batch_size=256)
run+=(--config.watch.sample_every=0)
judge=(--num_samples=5000 --draws=joint,given_label --steps=25 --num_examples=0)
if [[ -n $smoke ]]; then
  run=(--config=configs/image_label.py:smoke --config.train.num_steps=4)
  judge=(--num_samples=16 --draws=joint --steps=2 --num_examples=0)
fi
main=("$python" -m mt_diffusion.main "--workdir=$out/joint")
minutes 4m "${main[@]}" "${run[@]}"
minutes 90s "${main[@]}" --mode=evaluate "${judge[@]}"
minutes 30s "${main[@]}" --mode=read
