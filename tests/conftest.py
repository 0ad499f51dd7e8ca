"""Eight simulated devices, and every strictness that JAX and jaxtyping offer."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
jax.config.update("jax_compilation_cache_dir", f"{cache}/mt_diffusion/xla")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
jaxtyping.install_import_hook(
    ["mt_diffusion.diffusion", "mt_diffusion.modalities"], "beartype.beartype"
)


@pytest.fixture
def x64():
    """Double precision, for comparisons with closed forms."""
    with jax.enable_x64(True):
        yield
