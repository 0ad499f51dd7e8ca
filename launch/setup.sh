# shellcheck shell=bash
# Sourced by the other scripts, from the project's root: makes and enters .venv.
# REQUIREMENTS names what to install: requirements.txt, or -tpu or -gpu of it.
# A second call installs nothing, unless one of the files has changed.

requirements=${REQUIREMENTS:-requirements.txt}
stamp=.venv/requirements.installed
if ! cat requirements.txt "$requirements" | cmp -s - "$stamp"; then
  echo "installing $requirements into .venv (once; a few minutes)"
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; set PYTHON to one, such as" \
      "PYTHON=python3.12" >&2
    exit 2
  }
  "${PYTHON:-python3}" -m venv .venv
  # Bytecode is made of what is imported, then: of all, it takes as long as the rest.
  .venv/bin/pip install --quiet --disable-pip-version-check --no-compile \
    -r "$requirements"
  cat requirements.txt "$requirements" >"$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"

# XLA and malloc read these before Python starts, so this is the only place for them.
accelerators=(/dev/accel* /dev/vfio/[0-9]* /dev/nvidia[0-9]*)
if ! ls "${accelerators[@]}" >/dev/null 2>&1; then
  # Small 3x3 convolutions are twice as fast in Eigen as in YNNPACK, XLA's default.
  # A device for each core: whole images are shared out, and not each operation, of
  # which many are slower in two threads. Powers of two, for they divide batches.
  cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) devices=1
  while ((devices < 8 && 2 * devices <= cores)); do devices=$((2 * devices)); done
  flags="--xla_cpu_experimental_ynn_fusion_type=reduce,dot"
  flags+=" --xla_force_host_platform_device_count=$devices"
  # XLA ends a process one of whose devices is 40 s late: large steps, busy machines.
  flags+=" --xla_cpu_collective_call_warn_stuck_timeout_seconds=600"
  flags+=" --xla_cpu_collective_call_terminate_timeout_seconds=86400"
  export XLA_FLAGS="$flags ${XLA_FLAGS:-}"
  # Page faults can double the time of a training step: keep freed memory, in huge
  # pages, and in one arena, for all others map a large buffer anew each time. Only the
  # few of 128 MiB and more are mapped each by itself: in the heap they leave gaps that
  # the next ones do not fit into, 0.5 to 1.6 GiB of them.
  export MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=134217728
  export MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
fi
