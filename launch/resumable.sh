# shellcheck shell=bash disable=SC2034 # the scripts read what is set here
# Sourced by the scripts that run training where it may be interrupted.

RESUME=75 # the run saved a checkpoint when it was told to stop: run it again
MISTAKE=2 # of the user: running it again would not help

# Prints the comment that a script begins with.
usage() {
  sed -n '2,$ { /^#\( \|$\)/!q; s/^# \{0,1\}//p; }' "$1"
}

# Ends with a paragraph on stderr, as the project does for a user's mistakes.
mistake() {
  echo "error: $*" >&2
  exit "$MISTAKE"
}

# Prints a command so that a shell would read it back as it is.
show() {
  printf '%q' "$1"
  shift
  [[ $# -eq 0 ]] || printf ' %q' "$@"
  echo
}

# Sets `dry_run` if that is asked for, and `flags`: all others.
take_dry_run() {
  local argument
  dry_run='' flags=()
  for argument in "$@"; do
    if [[ $argument == --dry-run ]]; then dry_run=1; else flags+=("$argument"); fi
  done
}

# Sets `arguments`: those given and, where they name a config, the platform that JAX
# must find, for a fall back to the CPU would go unnoticed.
arguments_on() {
  local platform=$1 argument
  shift
  arguments=("$@")
  for argument in "$@"; do
    case $argument in
      --config.platform=* | --config.platform) return ;;
    esac
  done
  for argument in "$@"; do
    case $argument in
      --config=* | --config) arguments+=("--config.platform=$platform") && return ;;
    esac
  done
}

# Runs a command and leaves its exit status in `status`. SIGTERM, SIGHUP or SIGINT to
# this script sets `stopped` and calls `pass_on SIGNAL`, which the caller defines and
# which finds the process in `child`; the command then ends in its own time.
run_child() {
  local waiting=1
  stopped=
  set -m # else bash starts it deaf to SIGINT
  "$@" </dev/null &
  child=$!
  set +m
  trap 'stopped=1 waiting=1; pass_on TERM' TERM HUP
  trap 'stopped=1 waiting=1; pass_on INT' INT
  while [[ -n $waiting ]]; do # a signal ends `wait` early
    waiting=
    status=0
    wait "$child" || status=$?
  done
  trap - TERM HUP INT
}
