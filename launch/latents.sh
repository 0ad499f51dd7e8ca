#!/usr/bin/env bash
# The three calls of configs/latent_representation.py:sd64 or :sd32, one after another:
# the latents of the images, CLIP's vectors of them, the training.
#   bash launch/latents.sh --preset=sd64 --images=/disk/images --models=/disk/models \
#       --out=/disk/sd64 [--captions=/disk/captions.csv] [-- LAUNCHER [ITS ARGUMENTS]]
#   bash launch/latents.sh ... -- launch/tpu_vm.sh run my-tpu --zone=us-west4-a \
#       --type=v5litepod-256 --spot
#
#   --preset=NAME    sd64 (images of 512 pixels) or sd32 (of 256)
#   --images=FOLDER  of files, with a sub-folder for each class, if only for one
#   --models=FOLDER  with stable-diffusion-v1-5 and clip-vit-large-patch14
#   --captions=FILE  of the images, so that words can be given later
#   --out=FOLDER     gets latents, clip.npz, and the workdir `run`
#   --from=CALL      begin at latents (the first), vectors or train
#   --dry-run        prints the three commands and runs none
#   --help           this text
# LAUNCHER is launch/local.sh without; launch/gpu.sh; or launch/tpu_vm.sh run NAME ...,
# whose workers must all see these folders under the same absolute paths. What follows
# a further -- goes to the training, as --config.train.batch_size=256.
#
# A call that ends with another status than 0 ends the script with it. The same command
# goes on where latents or training were cut off; where vectors were made, with --from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/resumable.sh
CALLS=(latents vectors train)

preset='' images='' models='' captions='' out='' from=latents dry_run=''
launcher=() more=()
[[ $# -gt 0 ]] || set -- --help
while [[ $# -gt 0 ]]; do
  case $1 in
    --preset=?*) preset=${1#*=} ;;
    --images=?*) images=${1#*=} ;;
    --models=?*) models=${1#*=} ;;
    --captions=?*) captions=${1#*=} ;;
    --out=?*) out=${1#*=} ;;
    --from=?*) from=${1#*=} ;;
    --dry-run) dry_run=1 ;;
    --help) usage launch/latents.sh && exit ;;
    --) shift && break ;;
    *) mistake "no option $1, or it wants its value after =; see --help." ;;
  esac
  shift
done
while [[ $# -gt 0 ]]; do
  [[ $1 != -- ]] || { shift && more=("$@") && break; }
  launcher+=("$1")
  shift
done
[[ ${#launcher[@]} -gt 0 ]] || launcher=(launch/local.sh)
[[ $preset =~ ^sd(64|32)$ ]] || mistake "--preset is '$preset'; choose sd64 or sd32."
[[ -n $images && -n $models && -n $out ]] ||
  mistake "--images, --models and --out are needed; see --help."
[[ " ${CALLS[*]} " == *" $from "* ]] || mistake "--from=$from: choose of ${CALLS[*]}."
[[ -f ${launcher[0]} ]] || mistake "${launcher[0]} is no script of launch/."
if [[ ${launcher[0]} == *tpu_vm.sh ]]; then
  for folder in "$images" "$models" "$out" "${captions:-/}"; do
    [[ $folder == /* ]] || mistake "$folder is no absolute path, which all workers" \
      "of a TPU VM need."
  done
  launcher+=(--) # the flags of a run follow it
fi

sd=$models/stable-diffusion-v1-5 clip=$models/clip-vit-large-patch14
data=("--config=configs/latent_representation.py:$preset" "--config.data.path=$images")
data+=("--config.primary.space.autoencoder=$sd")
for call in "${CALLS[@]}"; do
  [[ -z $from || $from == "$call" ]] || continue
  from=''
  flags=("${data[@]}")
  case $call in
    latents) flags+=(--mode=precompute "--out=$out/latents") ;;
    vectors) flags+=(--mode=precompute "--encoder=$clip" "--out=$out/clip.npz") ;;
    train)
      flags+=("--config.data.latents=$out/latents" "--config.data.vectors=$out/clip.npz")
      flags+=("--config.init_from=sd:$sd" "--config.modalities.representation.clip=$clip")
      [[ -z $captions ]] || flags+=("--config.data.captions=$captions")
      flags+=("--workdir=$out/run" ${more[@]+"${more[@]}"})
      ;;
  esac
  if [[ -n $dry_run ]]; then
    show bash "${launcher[@]}" "${flags[@]}"
  else
    bash "${launcher[@]}" "${flags[@]}"
  fi
done
