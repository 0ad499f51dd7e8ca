"""Eight simulated devices, and every strictness that JAX and jaxtyping offer."""

import functools
import gc
import os
from importlib import metadata

# Programs here run for less time than it takes to make them fast: LLVM optimizes
# little, it has each in one piece, for 32 take a quarter longer, and of XLA's two ways
# to write fusions the older one needs a third less.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
if metadata.version("jaxlib").startswith("0.10."):  # later ones end at an unknown flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
jax.config.update("jax_compilation_cache_dir", f"{cache}/mt_diffusion/xla")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
jaxtyping.install_import_hook(
    [
        "mt_diffusion.diffusion",
        "mt_diffusion.modalities",
        "mt_diffusion.protocol",
        "mt_diffusion.training.objective",
    ],
    "beartype.beartype",
)

from mt_diffusion.experiment import programs  # noqa: E402

# Tests replace functions, and a program that was kept would know nothing of it.
programs.keep = functools.wraps(programs.keep)(lambda: None)


def pytest_addoption(parser):
    parser.addoption(
        "--modality",
        metavar="CONFIG.py[:PRESET]",
        help="check the modalities of this config alone, by test_contract.py",
    )
    parser.addoption("--all", action="store_true", help="wide matrices as well")


def pytest_collection_modifyitems(config, items):
    """Without --all, no wide ones; with --modality, only those of its modalities."""
    if not config.getoption("all"):
        wide = [i for i in items if i.get_closest_marker("wide")]
        config.hook.pytest_deselected(items=wide)
        items[:] = [i for i in items if i not in wide]
    if config.getoption("modality"):
        wanted = [i for i in items if "setting" in i.fixturenames]
        config.hook.pytest_deselected(items=[i for i in items if i not in wanted])
        items[:] = wanted


def pytest_ignore_collect(collection_path, config):
    """And no other file is looked at."""
    if config.getoption("modality") and collection_path.suffix == ".py":
        return collection_path.name != "test_contract.py" or None


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_already():
    """Stays: looking through the programs of earlier files took a twentieth of all."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def x64():
    """Double precision, for comparisons with closed forms."""
    with jax.enable_x64(True):
        yield
