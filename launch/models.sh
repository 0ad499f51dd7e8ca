#!/usr/bin/env bash
# Makes the models that come with the package anew, those that are missing there:
#   bash launch/models.sh digits     # trains for about 3 minutes on 2 CPU cores
#   bash launch/models.sh fashion --config.data.data_dir=/data/tfds   # for an hour,
#                                    # and half of one for its figures
# What follows the name goes to training, and what it says of the data to judging, too.
# Each step that is done stays done, so that the same command goes on where it was
# interrupted; remove runs/models/NAME and mt_diffusion/shipped/NAME to begin again.
# DTYPE and NUM_SAMPLES may be set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/resumable.sh
[[ " $* " != *" --help "* ]] || { usage launch/models.sh && exit; }
. launch/setup.sh

name=${1:-digits}
shift || true
case $name in
  digits)
    training=(--config=configs/image_label.py)
    drawn=(--steps=50)
    ;;
  fashion)
    training=(--config=configs/joint.py:fashion_small)
    # Four times the study's.
    training+=(--config.train.num_steps=12000 --config.train.ema_decay=0.9995)
    training+=(--config.watch.checkpoint_every=1000 --config.watch.sample_every=4000)
    training+=(--config.watch.keep_checkpoints=12)
    drawn=(--sampler=ancestral --steps=25 --guidance=1 --clip=static) # the study's
    drawn+=(--variance=beta_tilde --correction=measured)
    ;;
  *)
    echo "error: there is no model $name; name digits or fashion." >&2
    exit 2
    ;;
esac
run=runs/models/$name/run exported=runs/models/$name/exported
ready=runs/models/$name/$name target=mt_diffusion/shipped/$name
if [[ -e $target ]]; then
  echo "$target is there; remove it to make it anew."
  exit
fi

data=()
for flag in "$@"; do
  if [[ $flag == --config.data.* ]]; then data+=("$flag"); fi
done
main() { python -m mt_diffusion.main "$@"; }
main "${training[@]}" --workdir="$run" "$@"
if [[ ! -e $exported ]]; then
  main --mode=export --format=hub --workdir="$run" --out="$exported" \
    --dtype="${DTYPE:-float16}" --license=apache-2.0
fi
# The figures are of what is shipped, after rounding.
main --mode=evaluate --workdir="$exported" --num_samples="${NUM_SAMPLES:-5000}" \
  "${drawn[@]}" "${data[@]}"
if [[ ! -e $ready ]]; then
  main --mode=read --workdir="$exported" "${data[@]}" # the levels to read at
  main --mode=export --format=hub --workdir="$exported" --out="$ready" \
    --dtype="${DTYPE:-float16}" --license=apache-2.0
fi
rm -rf "$target.draft"
mkdir -p mt_diffusion/shipped
cp -R "$ready" "$target.draft"
mv "$target.draft" "$target"
du -sh "$target"
