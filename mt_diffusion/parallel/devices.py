"""The processes and devices of a job: joined and asserted before heavy work starts."""

import os
import sys
import threading
import time

import jax

from mt_diffusion.errors import Stopped, UserError

BIND = "JAX_COORDINATOR_BIND_ADDRESS"  # of a user who wants process 0 to bind another
PATIENCE, SOON = 300, 10  # seconds for all processes to come; until waiting is told


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins a job of several processes, before JAX has looked for devices.

    Without arguments JAX finds them: on Cloud TPU, under SLURM, Open MPI or Kubernetes.
    Raises UserError where some are missing, or no cluster is found, and Stopped where
    the others did not come in time.
    """
    named = (coordinator, num_processes, process_id)
    if None in named and any(x is not None for x in named):
        raise UserError(
            f"--coordinator={coordinator} --num_processes={num_processes} --process_id="
            f"{process_id} go together: give all three, or --distributed where the "
            "cluster tells them (Cloud TPU, SLURM)."
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(
            f"--coordinator={coordinator} has no port: give HOST:PORT, of the machine "
            "of process 0."
        )
    # On CPUs, two programs under way at once may meet the other process's in another
    # order, and wait for each other for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        meet(named)
    except ValueError as error:
        raise UserError(
            f"no job of several processes is found here: {first_line(error)}. Leave "
            "out --distributed, or give --coordinator=HOST:PORT, --num_processes and "
            "each process its own --process_id from 0."
        ) from error
    except RuntimeError as error:
        raise Stopped(
            f"the processes of this job did not find each other: {first_line(error)}. "
            "All of them must be started, with one --coordinator, whose port is free."
        ) from error


def meet(named: tuple[str | None, int | None, int | None]) -> None:
    """jax.distributed.initialize in a thread, while this one answers signals.

    JAX would wait deaf to them, and abort the process in the end. Raises Stopped after
    PATIENCE, and what JAX raises.
    """
    raised = []
    # JAX would listen on all addresses of the machine.
    own = {} if BIND in os.environ else {"coordinator_bind_address": named[0]}

    def initialize():
        try:
            patience = 10 * PATIENCE
            jax.distributed.initialize(*named, initialization_timeout=patience, **own)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    start, is_told = time.monotonic(), False
    while thread.is_alive():
        thread.join(timeout=0.1)
        waited = time.monotonic() - start
        if waited > SOON and not is_told:
            told = f"waiting for all processes of this job, at most {PATIENCE} s"
            print(told, file=sys.stderr)
            is_told = True
        if waited > PATIENCE:
            raise Stopped(
                f"not all processes of this job came within {PATIENCE} s. All must be "
                "started, with one --coordinator that all machines can reach."
            )
    if raised:
        raise raised[0]


def require(platform: str, num_devices: int) -> None:
    """Raises UserError where these are not the devices; never falls back to others.

    platform: cpu, gpu or tpu; '' for what there is. num_devices: of all processes; 0
    for any.
    """
    try:
        devices = jax.devices(platform or None)
    except RuntimeError as error:
        raise UserError(
            f"config.platform = {platform!r}, but JAX can't use one: "
            f"{first_line(error)}. It may be taken by another process, or JAX may be "
            "installed without its support (requirements-tpu.txt, "
            "requirements-gpu.txt). Without config.platform the run takes what there "
            "is."
        ) from error
    if num_devices and len(devices) != num_devices:
        raise UserError(
            f"config.mesh.num_devices = {num_devices}, but there are {len(devices)} "
            f"({devices[0].device_kind}) in {jax.process_count()} process(es). Start "
            "all processes of the job, or set it to 0 for any number."
        )


def hush(can_share: bool) -> None:
    """From here on only process 0 prints; errors of all still go to stderr.

    can_share: whether the mode knows of several processes; else they are a UserError.
    """
    if jax.process_count() > 1 and not can_share:
        raise UserError(
            f"this mode runs in one process, on all devices of one machine, not in "
            f"{jax.process_count()}; call it on one of them."
        )
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")


def first_line(error: Exception) -> str:
    """Of what an error says, without a full stop."""
    return (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
