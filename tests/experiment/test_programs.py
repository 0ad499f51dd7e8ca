"""Programs that are kept: the same results, and none where they would be others."""

import importlib.metadata
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ddpm, image_label, masked_image
from mt_diffusion.data import sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import programs
from mt_diffusion.experiment.programs import Traced
from mt_diffusion.parallel import sharding
from mt_diffusion.training import loop, step
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state, new_state, with_tables


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of its own for programs, which are kept."""
    monkeypatch.setattr(Traced, "are_kept", True)
    before = programs.asked("jax_compilation_cache_dir")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    yield tmp_path / "xla" / "traced"
    jax.config.update("jax_compilation_cache_dir", before)


class Counted:
    """A jitted function that counts how often Python runs it."""

    def __init__(self):
        self.traces = 0
        self.jitted = jax.jit(self.scaled)

    def scaled(self, tree, seed, given):
        self.traces += 1
        noise = jax.random.normal(jax.random.key(seed), tree["a"].shape)
        return {"z": tree["a"] * 2 + noise, **given}


ARGS = ({"a": jnp.arange(3.0)}, 7, {"label": jnp.arange(2)})


def kept(function, name="one", args=ARGS):
    """What a new process would see of it."""
    return Traced(function.jitted, name)(*args)


def test_a_second_process_traces_nothing_and_gives_the_same(cache):
    direct, first, second = Counted(), Counted(), Counted()
    expected = direct.jitted(*ARGS)
    found = kept(first), kept(second)
    assert (first.traces, second.traces) == (1, 0)
    for other in found:
        assert jax.tree.all(jax.tree.map(np.array_equal, expected, other))


def test_programs_that_are_compiled_ahead_are_traced_once_and_may_use_memory_up(cache):
    direct, first, second = Counted(), Counted(), Counted()
    expected = direct.jitted(*ARGS)
    for function in (first, second):
        args = jax.tree.map(jnp.copy, ARGS)
        program = Traced(function.scaled, "one", donates=True).compiled(*args)
        found = program(*args)
        assert jax.tree.all(jax.tree.map(np.array_equal, expected, found))
        assert args[0]["a"].is_deleted() and not args[2]["label"].is_deleted()
    assert (first.traces, second.traces) == (1, 0)


@pytest.mark.parametrize("is_kept", [True, pytest.param(False, marks=pytest.mark.wide)])
def test_a_second_training_traces_neither_its_step_nor_its_start(
    cache, monkeypatch, is_kept
):
    """And both give what they gave, to the bit, as does a training without a cache."""
    config = ddpm.get_config("smoke")
    small = dict(model_channels=8, num_groups=4, num_res_blocks=1, channel_mult=(1,))
    config.unet.update(small, attention_resolutions=())
    config.optimizer.kind = "adamw"
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config.lock(), source)
    batch = loop.build_batches(config, experiments.build(config), source)[0]
    monkeypatch.setattr(Traced, "are_kept", is_kept)
    expected = two_steps(config, batch)
    if not is_kept:
        monkeypatch.setattr(Traced, "are_kept", True)
        two_steps(config, batch)

    def fails(*args):
        raise AssertionError("traced again")

    monkeypatch.setattr(experiments, "init_params", fails)
    monkeypatch.setattr(step, "build_step", lambda *args: fails)
    again = two_steps(config, batch)
    assert jax.tree.all(jax.tree.map(np.array_equal, expected, again))


def two_steps(config, batch):
    """Parameters and terms after them, of a start of their own."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    experiment = experiments.build(config)
    optimizer = build_optimizer(config)
    abstract = abstract_state(experiment, optimizer, mesh)
    train_step = step.compile_step(config, experiment, optimizer, mesh, abstract)
    state = new_state(jax.random.key(0), experiment, optimizer, abstract)
    state = with_tables(state, experiment, abstract)
    batch = jax.device_put(batch, sharding.over_batch(mesh))
    for _ in range(2):
        key = sharding.spread_key(jax.random.key(1), mesh)
        state, terms = train_step(state, batch, key)
    return jax.device_get((state.params, terms))


def test_another_name_shape_structure_or_option_is_another_program(cache):
    counted = Counted()
    kept(counted)
    longer = {"a": jnp.arange(4.0)}, 7, {"label": jnp.arange(2)}
    renamed = {"a": jnp.arange(3.0)}, 7, {"cluster": jnp.arange(2)}
    assert set(kept(counted, args=renamed)) == {"z", "cluster"}
    kept(counted, "two")
    kept(counted, args=longer)
    with jax.default_matmul_precision("highest"):
        kept(counted)
    assert len(list(cache.iterdir())) == 5


def test_a_change_of_the_package_is_another_program(cache, monkeypatch):
    counted = Counted()
    kept(counted)
    monkeypatch.setattr(programs, "of_package", lambda: "another version")
    kept(counted)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("library", ["jax", "optax", "scipy"])
def test_so_is_another_version_of_a_library(library, monkeypatch):
    now = programs.of_package.__wrapped__()
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0" if name == library else version(name),
    )
    assert programs.of_package.__wrapped__() != now


def test_what_nobody_reads_makes_room_for_what_is_new(cache, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 2)
    kept(Counted(), "old but read")
    (read,) = cache.iterdir()
    kept(Counted(), "unread")
    (unread,) = set(cache.iterdir()) - {read}
    for age, file in ((200, read), (100, unread)):
        os.utime(file, (time.time() - age,) * 2)
    again = Counted()
    kept(again, "old but read")
    assert again.traces == 0
    kept(Counted(), "new")
    assert read.exists() and not unread.exists()


def test_what_is_damaged_is_made_again(cache):
    expected = kept(Counted())
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for broken in (b"", whole[:100], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(broken)
        again = Counted()
        assert np.array_equal(kept(again)["z"], expected["z"])
        assert again.traces == 1
    last = Counted()
    kept(last)
    assert last.traces == 0


def test_nothing_is_kept_where_it_is_not_wanted_or_cannot_be(cache, monkeypatch):
    counted = Counted()
    kept(counted, name="")
    jax.config.update("jax_enable_compilation_cache", False)
    kept(counted)
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setattr(Traced, "are_kept", False)
    kept(counted)
    assert not cache.exists()
    monkeypatch.setattr(Traced, "are_kept", True)
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where a folder would be")
    kept(counted)
    assert cache.is_file()


def test_shapes_of_parameters_are_remembered(cache, monkeypatch):
    experiment = experiments.build(masked_image.get_config("smoke"))
    traced = jax.eval_shape(
        lambda: experiments.init_params(jax.random.key(0), experiment)
    )
    assert experiments.shapes_of(experiment) == traced
    monkeypatch.setattr(experiments, "init_params", None)
    assert experiments.shapes_of(experiment) == traced


def test_how_is_drawn_is_no_part_of_where_a_model_is_from():
    config = masked_image.get_config("smoke")
    origin = experiments.build(config).origin
    config.sampling.num_steps += 1
    assert experiments.build(config).origin == origin
    config.unet.num_res_blocks += 1
    assert experiments.build(config).origin != origin


def test_code_of_others_is_never_remembered():
    """Nothing is known of what such a modality does, or whether it changed."""
    config = image_label.get_config("smoke")
    assert experiments.build(config).origin
    config.modalities.label.kind = "mt_diffusion.modalities.label.Codebook"
    assert not experiments.build(config).origin


def test_the_newest_are_kept(cache, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 2)
    for name in "abc":
        kept(Counted(), name)
    assert len(list(cache.iterdir())) == 2
    last = Counted()
    kept(last, "c")
    assert last.traces == 0


LIBRARY = """
import sys, jax, mt_diffusion
jax.config.update('jax_compilation_cache_dir', {own!r})
mt_diffusion.load("digits")
heavy = {{"orbax", "grain", "matplotlib", "sklearn", "tensorflow", "optax"}}
print(jax.config.jax_compilation_cache_dir, *heavy & sys.modules.keys())
"""


def test_a_cache_folder_that_can_not_be_made_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(Traced, "are_kept", False)
    before = programs.asked("jax_compilation_cache_dir")
    jax.config.update("jax_compilation_cache_dir", None)
    programs.keep.__wrapped__()  # conftest.py has tests keep none
    assert programs.asked("jax_compilation_cache_dir") is None
    assert programs.folder() is None
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("is_told", [True, False])
def test_the_library_keeps_programs_where_its_user_does(tmp_path, is_told, monkeypatch):
    """And has imported nothing that a model which comes along does not need."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    own = str(tmp_path / "mine") if is_told else None
    code = LIBRARY.format(own=own)
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == [own or f"{tmp_path}/mt_diffusion/xla"]


def test_digits_are_those_of_scikit_learn(monkeypatch):
    digits = importlib.import_module("mt_diffusion.data.kinds.digits")
    from sklearn.datasets import load_digits

    images, targets = digits.load()
    assert np.array_equal(images, load_digits().images)
    assert np.array_equal(targets, load_digits().target)
    monkeypatch.setattr(digits, "TABLE", "nowhere.csv.gz")
    assert all(map(np.array_equal, digits.load(), (images, targets)))
