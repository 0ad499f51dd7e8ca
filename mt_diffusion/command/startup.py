"""What comes before a mode: JAX is set up, and the job of several processes joined."""

import sys
import warnings

from mt_diffusion.command import options


def platform_of_config() -> str:
    """What JAX must run on; '' for what there is."""
    if options.TOPOLOGY.value:  # compiled here for devices that are elsewhere
        return "cpu"
    return options.CONFIG.value.platform if options.CONFIG.value is not None else ""


# Of a user's own programs; here they would change what is computed, or forbid it.
NOT_OURS = ("jax_enable_x64", "jax_debug_nans", "jax_disable_jit")


def set_up_python() -> None:
    """Lets a terminal of any encoding show all names, and libraries warn as they do."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not of a test's, or a notebook's
            stream.reconfigure(errors="backslashreplace")
    if any(
        option.startswith("error") for option in sys.warnoptions
    ):  # what is an error to a user's own code is none in TFDS
        warnings.simplefilter("default")


def set_up_jax() -> None:
    """Makes JAX what runs here need: a platform, a precision, a cache."""
    import jax

    from mt_diffusion.experiment import programs

    leave_aside()
    if platform := platform_of_config():
        jax.config.update("jax_platforms", platform)
    programs.keep()


def leave_aside() -> None:
    """Turns off what the user's environment asks of JAX and no run here can have."""
    import jax

    found = [name for name in NOT_OURS if getattr(jax.config, name)]
    for name in found:
        jax.config.update(name, False)
    if found:
        print(
            f"{' and '.join(found).upper()} is left aside: runs are in the precision "
            "of their config, compiled, and look after what is not finite themselves."
        )


def join() -> None:
    """Joins the job of several processes that flags tell of; asserts the devices."""
    from mt_diffusion.parallel import devices

    job = (options.COORDINATOR, options.NUM_PROCESSES, options.PROCESS_ID)
    named = [flag.value for flag in job]
    is_job = options.DISTRIBUTED.value or any(value is not None for value in named)
    config = options.CONFIG.value
    if is_job:
        devices.join(
            options.COORDINATOR.value,
            options.NUM_PROCESSES.value,
            options.PROCESS_ID.value,
        )
    if config is not None and not options.TOPOLOGY.value:
        devices.require(config.platform, config.mesh.num_devices)
    if is_job:
        devices.hush(options.MODE.value in options.OF_SEVERAL_PROCESSES)
