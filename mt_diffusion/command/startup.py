"""What comes before a mode: JAX is set up, and the job of several processes joined."""

import os

from mt_diffusion.command import options


def platform_of_config() -> str:
    """What JAX must run on; '' for what there is."""
    if options.TOPOLOGY.value:  # compiled here for devices that are elsewhere
        return "cpu"
    return options.CONFIG.value.platform if options.CONFIG.value is not None else ""


def set_up_jax() -> None:
    """Keeps compiled programs between runs, below the user's cache folder."""
    import jax

    from mt_diffusion.files import writing

    if platform := platform_of_config():
        jax.config.update("jax_platforms", platform)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = str(writing.user_cache("xla"))
        jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


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
