#!/usr/bin/env bash
# Runs `python -m mt_diffusion.main` as a SLURM job, one process for each GPU.
#   bash launch/slurm.sh --setup     # once, where there is internet: makes .venv
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm.sh \
#       --config=configs/image_label.py:imagenet64 --workdir=/shared/runs/imagenet64
#
# Submit it from the project's folder. That, .venv and the workdir must lie on a disk
# that all nodes share. JAX takes the number of processes and their coordinator from
# SLURM. Two minutes before the time limit the run saves a checkpoint and exits with 75,
# and the job goes back into the queue; any other status ends it. Flags of sbatch go
# before the script, as --time, --partition, --account, --cpus-per-task.
#
#   --setup     installs requirements-gpu.txt, or what REQUIREMENTS names
#   --dry-run   prints the commands of the job and runs none
#   --help      this text

#SBATCH --job-name=mt_diffusion
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

# SLURM runs a copy of this file, from a folder of its own.
root=$(dirname "${BASH_SOURCE[0]}")/..
[[ -f $root/launch/resumable.sh ]] || root=${SLURM_SUBMIT_DIR:-.}
cd "$root"
[[ -f launch/resumable.sh ]] || {
  echo "error: no project in $PWD: submit the job from the project's folder." >&2
  exit 2
}
. launch/resumable.sh
REQUIREMENTS=${REQUIREMENTS:-requirements-gpu.txt}

[[ $# -gt 0 ]] || set -- --help
take_dry_run "$@"
case ${flags[0]:-} in
  --help | -h) usage launch/slurm.sh && exit ;;
esac
[[ ${#flags[@]} -gt 0 ]] || mistake "no flags for the run; see bash launch/slurm.sh --help."
set_up="REQUIREMENTS=$REQUIREMENTS . launch/setup.sh"
if [[ ${flags[0]} == --setup ]]; then
  [[ -z $dry_run ]] || { echo "$set_up" && exit; }
  . launch/setup.sh
  exit
fi
[[ -n $dry_run || -n ${SLURM_JOB_ID:-} ]] ||
  mistake "this is no SLURM job; see bash launch/slurm.sh --help."

job=${SLURM_JOB_ID:-JOB}
gpus=${SLURM_GPUS_ON_NODE:-0}
tasks=${SLURM_TASKS_PER_NODE:-1} # as 4(x2)
tasks=${tasks%%[(,]*}
# The shell would run what it takes for an index of an array.
[[ $gpus$tasks${SLURM_NTASKS:-1} =~ ^[0-9]+$ ]] || mistake "SLURM_GPUS_ON_NODE=$gpus," \
  "SLURM_TASKS_PER_NODE=$tasks and SLURM_NTASKS=${SLURM_NTASKS:-1} must be numbers."
arguments=("${flags[@]}")
# A task that crashes must not take down others that are saving; nor may they hang.
step=(srun --kill-on-bad-exit=0 --wait=600)
if [[ $gpus -gt 0 ]]; then
  [[ $gpus -eq $tasks ]] ||
    mistake "$tasks processes for $gpus GPUs of a node: each process drives one GPU." \
      "Submit with --gpus-per-node=$gpus --ntasks-per-node=$gpus."
  arguments_on gpu "${flags[@]}"
  step+=(--gpu-bind=none) # JAX chooses by the local task id, among all of the node
fi
[[ ${SLURM_NTASKS:-1} -eq 1 ]] || arguments+=(--distributed)
# srun no longer takes this over from sbatch.
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || step+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
step+=(python -m mt_diffusion.main "${arguments[@]}")
if [[ -n $dry_run ]]; then
  echo "$set_up"
  [[ -n ${SLURM_JOB_ID:-} ]] ||
    echo "# a job adds --config.platform=gpu on GPUs, --distributed to several tasks"
  show "${step[@]}"
  echo "# after exit status $RESUME:"
  show scontrol requeue "$job"
  exit
fi

# To the processes of the job: srun itself would answer SIGTERM with SIGKILL to them.
# shellcheck disable=SC2329 # run_child calls it
pass_on() { scancel --signal="$1" "$job"; }

. launch/setup.sh
run_child "${step[@]}"
# A job that was cancelled, or that SLURM requeues by itself, is not running any more.
if [[ $status -eq $RESUME ]] &&
  [[ $(squeue --noheader --format=%T --jobs="$job") == RUNNING ]]; then
  echo "interrupted after a checkpoint (status $RESUME): back into the queue" >&2
  scontrol requeue "$job"
fi
exit "$status"
