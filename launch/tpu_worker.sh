#!/usr/bin/env bash
# What launch/tpu_vm.sh does on each worker of a TPU VM; not for use by hand.
#   install BUCKET CLIENT  .venv, the bucket mounted at ~/runs, the client of buckets
#                          that are not; either may be empty
#   start FLAG...          the run with these flags in the background, unless there is
#   follow [LINES]         the log, from its last LINES on, until the run is over
#   state                  its host, then running, stopped, lost, none, `ended STATUS`
#   stop, end              SIGTERM to the run; `stop` so that nobody starts it again
#
# The run is no child of the connection: it goes on when that breaks. Its supervisor
# holds a lock for as long as it lives, which nothing can leave behind; all others only
# share it, to see whether it is free.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

RUN=$HOME/.mt_diffusion
RUNS=$HOME/runs
PATIENCE=${PATIENCE:-120} # seconds from SIGTERM to SIGKILL
mkdir -p "$RUN" "$RUNS"

# Prints a Python that the project can use; the images of TPU VMs come with 3.10.
find_python() {
  local python
  for python in python3.12 python3.11 python3; do
    "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null && echo "$python" && return
  done
  python3 -m pip install --quiet --user uv >&2
  python3 -m uv python install --quiet 3.12 >&2
  python3 -m uv python find 3.12
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc
  local packages=https://packages.cloud.google.com/apt
  local apt=(sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
  curl -fsSL "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  "${apt[@]}" update
  "${apt[@]}" install gcsfuse
}

mount_bucket() {
  local bucket=$1 mounted
  mounted=$(findmnt --noheadings --output=SOURCE --mountpoint="$RUNS" || true)
  [[ $mounted != "$bucket" ]] || return 0
  [[ -z $mounted ]] || fusermount -u "$RUNS"
  command -v gcsfuse >/dev/null || install_gcsfuse
  # Workers must see at once what others write, hence no cache of names and sizes; and
  # a checkpoint becomes one when its folder is renamed.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
    --metadata-cache-negative-ttl-secs=0 --rename-dir-limit=1000000 \
    "$bucket" "$RUNS" || {
    echo "error: can't mount the bucket $bucket: it must exist, and the service" \
      "account of the TPU VM must be Storage Object User of it." >&2
    return 2
  }
}

enter_venv() {
  local REQUIREMENTS=requirements-tpu.txt PYTHON
  PYTHON=$(find_python)
  . launch/setup.sh
}

install() {
  [[ -z ${1:-} ]] || mount_bucket "$1"
  mkdir -p "$RUN/venv"
  ln -sfn "$RUN/venv" .venv # the code is replaced with each installation
  ln -sfn "$RUNS" runs
  (enter_venv && { [[ -z ${2:-} ]] || pip install --quiet "$2"; })
}

is_running() { ! flock --shared --nonblock "$RUN/lock" true; }

start() {
  is_running && echo "there is a run already" && return
  exec 9>"$RUN/lock"
  flock --timeout=5 9
  rm -f "$RUN/status" "$RUN/stopped" "$RUN/pid"
  touch "$RUN/started"
  setsid bash "$PWD/launch/tpu_worker.sh" supervise "$@" >>"$RUN/log" 2>&1 </dev/null &
}

# Holds the lock, which it has as descriptor 9, until the run has ended.
supervise() {
  status=1
  trap 'echo "== $(date) exit status $status"; echo "$status" >"$RUN/status"' EXIT
  echo "== $(date) $*"
  enter_venv
  python -m mt_diffusion.main "$@" 9>&- &
  echo "$!" >"$RUN/pid"
  status=0
  wait "$!" || status=$?
}

follow() {
  flock --shared "$RUN/lock" true &
  tail --follow --lines="${1:-0}" --pid="$!" --sleep-interval=0.2 "$RUN/log"
}

state() {
  local state=none
  if is_running; then
    state=running
  elif [[ -e $RUN/stopped ]]; then
    state=stopped
  elif [[ -s $RUN/status ]]; then
    state="ended $(<"$RUN/status")"
  elif [[ -e $RUN/started ]]; then
    state=lost # the machine was started anew
  fi
  echo "$HOSTNAME $state"
}

end() {
  is_running || return 0
  kill -TERM "$(<"$RUN/pid")"
  flock --shared --timeout="$PATIENCE" "$RUN/lock" true || kill -KILL "$(<"$RUN/pid")"
}

stop() {
  is_running || { echo "there is no run" && return; }
  touch "$RUN/stopped"
  end
}

case ${1:-} in
  install | start | supervise | follow | state | stop | end) "$@" ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;;
esac
