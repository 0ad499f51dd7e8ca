#!/usr/bin/env bash
# Runs `python -m mt_diffusion.main` on all workers of a Cloud TPU VM, to its end.
#   bash launch/tpu_vm.sh run NAME --zone=us-west4-a --type=v5litepod-16 --spot \
#       --bucket=my-bucket -- --config=configs/image_label.py:imagenet64 \
#       --workdir=runs/imagenet64
#   bash launch/tpu_vm.sh logs|status|stop|delete NAME --zone=us-west4-a
#
# run     takes the TPU VM of that name, or asks for one (as a queued resource) and
#         waits for it; copies the files that git tracks; installs them; starts the run
#         on all workers and shows the log of worker 0. The run goes on without this
#         script; the same command finds it again. A run that ends with 75 or loses its
#         TPU VM is started again, on a new one if need be; any other status is final.
# logs    shows the log of a worker until the run is over.
# status  the states of the TPU VM and of the run on each worker.
# stop    lets the run save and end; its `run` ends with 75. The TPU VM stays and costs.
# delete  deletes the TPU VM.
#
#   --zone=ZONE      of the TPU VM
#   --type=TYPE      run: what to ask for, as v4-32, v5litepod-256, v6e-16
#   --spot           run: ask for capacity that can be taken away
#   --bucket=BUCKET  run: mount this Cloud Storage bucket at runs/ on all workers
#   --project=ID     instead of gcloud's default
#   --runtime=IMAGE  run: software of the TPU VM, instead of the usual one of its type
#   --create=FLAG    run: a further flag of gcloud compute tpus queued-resources create
#   --connect=FLAG   a further flag of gcloud compute tpus tpu-vm ssh and scp
#   --worker=N       logs: of this worker, instead of 0
#   --dry-run        prints every command and runs none
#   --help           this text
#
# All workers must see the workdir under the same path: gs://BUCKET/..., which needs no
# --bucket; runs/... with --bucket; or the absolute path of a disk that they mount. Make
# the bucket in the region of the TPU VM, and, to mount it, with folders that can be
# renamed in one go, as a checkpoint there is when it is whole:
#   gcloud storage buckets create gs://my-bucket --location=us-west4 \
#       --uniform-bucket-level-access --enable-hierarchical-namespace
# Several workers are only reached with gcloud's key in the agent:
#   ssh-add ~/.ssh/google_compute_engine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/resumable.sh
POLL=${POLL:-30} # seconds between two looks at what is being waited for
LOOKS=10         # of them until workers that outlive worker 0 are ended
exec 3>&1        # where a dry run prints, also from within $(...)

# Sets the options; what follows -- becomes `flags`.
parse() {
  verb=${1:---help} name=${2:-}
  zone='' type='' bucket='' client='' runtime='' spot='' dry_run='' worker=0
  flags=() place=() create=() connect=()
  [[ $verb != --help && $name != --help ]] || { usage launch/tpu_vm.sh && exit; }
  [[ $verb =~ ^(run|logs|status|stop|delete)$ ]] ||
    mistake "no command $verb; see bash launch/tpu_vm.sh --help."
  [[ -n $name && $name != -* ]] || mistake "the TPU VM's name is missing: $verb NAME."
  [[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    mistake "the name of a TPU VM has a-z, 0-9 and -, not '$name'."
  shift 2
  while [[ $# -gt 0 ]]; do
    case $1 in
      --zone=?*) zone=${1#*=} ;;
      --project=?*) place+=("$1") ;;
      --type=?*) type=${1#*=} ;;
      --bucket=?*) bucket=${1#*=} bucket=${bucket#gs://} bucket=${bucket%/} ;;
      --runtime=?*) runtime=${1#*=} ;;
      --create=?*) create+=("${1#*=}") ;;
      --connect=?*) connect+=("${1#*=}") ;;
      --worker=?*)
        worker=${1#*=}
        [[ $worker =~ ^[0-9]+$ ]] || mistake "--worker=$worker is no number."
        ;;
      --spot) spot=--spot ;;
      --dry-run) dry_run=1 ;;
      --help) usage launch/tpu_vm.sh && exit ;;
      --zone | --project | --type | --bucket | --runtime | --create | --connect | \
        --worker) mistake "$1 wants its value after =, as $1=VALUE." ;;
      --) shift && flags=("$@") && break ;;
      *) mistake "no option $1; flags of the run follow --. See --help." ;;
    esac
    shift
  done
  [[ -n $zone ]] || mistake "--zone is missing: where is $name, or where shall it be?"
  place+=("--zone=$zone")
}

# Refuses what could not work, before anything is asked for.
check() {
  [[ ${#flags[@]} -gt 0 ]] || mistake "no flags for the run: they follow --."
  [[ $bucket =~ ^([a-z0-9][a-z0-9._-]*)?$ ]] || mistake "--bucket=$bucket is no bucket's name."
  [[ $type != v5e-* ]] || mistake "--type=$type is v5litepod-${type#v5e-} at Cloud TPU."
  local argument config='' workdir='' mode='' previous=
  for argument in "${flags[@]}"; do
    case $argument in
      --dry-run) mistake "--dry-run is no flag of the run: it goes before --." ;;
      --mode | --mode=*) mode=$argument ;;
      --workdir=*) workdir=${argument#*=} ;;
      --config=*) config=${argument#*=} ;;
    esac
    case $previous in
      --workdir) workdir=$argument ;;
      --config) config=$argument ;;
    esac
    previous=$argument
  done
  [[ -z $config || -f ${config%%:*} ]] || mistake "--config=$config: there is no such" \
    "file in $PWD, from which the code is copied."
  case $workdir in
    gs://?*/?*) client=gcsfs ;;
    *://*) mistake "--workdir=$workdir is no folder of a bucket of Cloud Storage:" \
      "give gs://BUCKET/FOLDER." ;;
    '' | /*) ;;
    runs/?*) [[ -n $bucket ]] || mistake "--workdir=$workdir would be lost with the" \
      "TPU VM: give --bucket=NAME, gs://BUCKET/FOLDER, or the absolute path of a disk" \
      "of yours." ;;
    *) mistake "--workdir=$workdir lies on no shared disk: give gs://BUCKET/FOLDER," \
      "--bucket=NAME and --workdir=runs/..., or an absolute path." ;;
  esac
  [[ -n $mode || -n $config ]] || mistake "--config is missing among the flags of the run."
  [[ -n $mode || -n $workdir ]] || mistake "--workdir is missing among the flags of the run."
}

# Runs a command, or prints it.
run() { if [[ -n $dry_run ]]; then show "$@" >&3; else "$@"; fi; }

tpus() { run gcloud compute tpus "$@" "${place[@]}"; }

# The output of a command that may fail for a moment.
ask() {
  local try answer
  for try in 1 2 3 4 5; do
    ! answer=$("$@") || break
    [[ $try -lt 5 ]] || return 1
    echo "that failed; again in $POLL s (try $try of 5; Ctrl-C ends it)" >&2
    sleep "$POLL"
  done
  [[ -z $answer ]] || echo "$answer"
}

# The states of the queued resource / the node; nothing where there is none, which is
# no error in a list.
tpu_state() {
  local request node
  request=$(ask tpus queued-resources list "--filter=name ~ /$name\$" \
    "--format=value(state.state)") || return
  node=$(ask tpus tpu-vm list "--filter=name ~ /$name\$" "--format=value(state)") ||
    return
  echo "$request/$node"
}

usual_runtime() {
  case $type in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create_tpu() {
  [[ -n $type ]] || mistake "there is no TPU VM $name in $zone: --type says which to" \
    "ask for, such as --type=v5litepod-16."
  tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
    "--runtime-version=${runtime:-$(usual_runtime)}" --async ${spot:+"$spot"} \
    ${create[@]+"${create[@]}"}
}

delete_tpu() { tpus queued-resources delete "$name" --force "$@"; }

# One that was made without a queued resource does as well, until it is preempted.
is_ready() { [[ $1 == ACTIVE/READY || $1 == /READY ]]; }

# Returns once the TPU VM is ready, which may be a new one.
provide() {
  local state='' last
  while true; do
    last=$state
    state=$(tpu_state)
    [[ $state == "$last" || -n $dry_run ]] ||
      echo "$name: $state (queued resource/node)" >&2
    ! is_ready "$state" || return 0
    case $state in
      /)
        create_tpu
        [[ -z $dry_run ]] || return 0
        sleep "$POLL" # until it is in the list
        ;;
      /PREEMPTED | /TERMINATED) mistake "$name is gone, and was made without a queued" \
        "resource: delete it by gcloud compute tpus tpu-vm delete." ;;
      FAILED/*)
        tpus queued-resources describe "$name" "--format=value(state.failedData)" >&2
        echo "error: the request for $name failed, see above; then delete it." >&2
        return 1
        ;;
      SUSPENDED/* | ACTIVE/PREEMPTED | ACTIVE/TERMINATED | ACTIVE/)
        delete_tpu --quiet || sleep "$POLL"
        ;;
      */STOPPED) mistake "the TPU VM $name is stopped: start or delete it." ;;
      *) sleep "$POLL" ;;
    esac
  done
}

# Runs a shell's command on workers: all, or the number of one.
on_workers() {
  tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" ${connect[@]+"${connect[@]}"}
}

# The command by which launch/tpu_worker.sh gets exactly these arguments.
worker_command() {
  printf 'bash mt_diffusion/launch/tpu_worker.sh'
  printf ' %q' "$@"
}

# The state of the run on each worker, a line each; fails where they can't be reached.
states() {
  local script=mt_diffusion/launch/tpu_worker.sh
  ask on_workers all \
    "if [ -e $script ]; then bash $script state; else echo \"\$HOSTNAME none\"; fi"
}

# What the states of all workers mean: running, stopped, again, or an exit status.
verdict() {
  local all=$1
  has() { grep -q " $1\$" <<<"$all"; }
  if has running; then
    echo running
  elif has stopped; then
    echo stopped
  elif has "ended $MISTAKE"; then
    echo "$MISTAKE"
  elif [[ -z $all ]] || has "ended $RESUME" || has lost || has none; then
    echo again
  else
    sed -n 's/.* ended //p' <<<"$all" | sort -n | tail -n 1
  fi
}

# Packs what git tracks, as it is in the folder, once: every start runs the same code.
pack() {
  local untracked
  archive=mt_diffusion.tar.gz # of a dry run
  [[ -z $dry_run ]] || { show git ls-files -z && return; }
  git rev-parse --git-dir >/dev/null || mistake "the code is taken from a git checkout."
  untracked=$(git ls-files --others --exclude-standard | sed -n 1,5p | tr '\n' ' ')
  [[ -z $untracked ]] || echo "not copied, for git does not track it: $untracked" >&2
  packed=$(mktemp -d)
  trap 'rm -r "$packed"' EXIT
  archive=$packed/mt_diffusion.tar.gz
  git ls-files -z | while IFS= read -r -d '' file; do
    [[ ! -e $file ]] || printf '%s\0' "$file"
  done | COPYFILE_DISABLE=1 tar --null -czf "$archive" -T -
}

# Installs the code everywhere and starts the run.
start() {
  tpus tpu-vm scp "$archive" "$name:mt_diffusion.tar.gz" --worker=all \
    ${connect[@]+"${connect[@]}"} &&
    on_workers all "rm -rf mt_diffusion && mkdir mt_diffusion &&\
 tar -xzf mt_diffusion.tar.gz -C mt_diffusion" &&
    on_workers all "$(worker_command install "$bucket" "$client")" &&
    on_workers all "$(worker_command start --distributed "${arguments[@]}")"
}

# Shows the log of worker 0 until no worker runs; leaves their states in `all`, nothing
# where they can't be reached.
watch() {
  local lines=40 looks=0
  while true; do
    if on_workers 0 "$(worker_command follow "$lines")"; then
      looks=$((looks + 1)) # worker 0 has ended
    fi
    lines=0
    all=$(states) || all=''
    [[ $(verdict "$all") == running && -z $dry_run ]] || return 0
    [[ $looks -lt $LOOKS ]] || on_workers all "$(worker_command end)" || true
    sleep "$POLL"
  done
}

run_to_the_end() {
  local all outcome
  check
  arguments_on tpu "${flags[@]}"
  pack
  trap 'echo "the run goes on; see the commands logs and stop" >&2; exit 130' INT
  while true; do
    provide
    if ! all=$(states); then
      is_ready "$(tpu_state)" || continue
      echo "error: can't reach the workers of $name; see above." >&2
      exit 1
    elif [[ $(verdict "$all") == running ]]; then
      echo "following the run that is there; stop it first to start another" >&2
    elif ! start; then
      ! is_ready "$(tpu_state)" || exit 1
      continue # it was taken away meanwhile
    fi
    watch
    outcome=$(verdict "$all")
    [[ -z $dry_run ]] || exit 0
    case $outcome in
      stopped) exit "$RESUME" ;;
      0 | "$MISTAKE") exit "$outcome" ;;
      again) ;;
      *) ! is_ready "$(tpu_state)" || exit "$outcome" ;;
    esac
    echo "interrupted: the same again" >&2
    sleep "$POLL"
  done
}

parse "$@"
case $verb in
  run) run_to_the_end ;;
  logs) on_workers "$worker" "$(worker_command follow 100)" ;;
  status)
    state=$(tpu_state)
    [[ -n $dry_run ]] || echo "$state (queued resource/node)"
    states
    ;;
  stop) on_workers all "$(worker_command stop)" ;;
  delete) delete_tpu ;;
esac
