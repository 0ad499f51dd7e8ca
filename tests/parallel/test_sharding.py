"""One batch, one seed: the same losses however the devices share the work."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from configs import image_label
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.parallel import sharding
from mt_diffusion.training import step as steps
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import (
    TrainState,
    abstract_state,
    new_state,
    with_tables,
)
from mt_diffusion.training.step import build_step, lower_step

NUM_STEPS = 20
OTHERS = (2, 1), (4, 2), (8, 8)  # (devices, fsdp)
WIDE = [pytest.param(*both, marks=pytest.mark.wide) for both in OTHERS]


def mesh_of(num_devices, fsdp):
    return sharding.make_mesh(fsdp, jax.devices()[:num_devices])


def spec(shape, fsdp=4):
    shapes = jax.ShapeDtypeStruct(shape, np.float32)
    return sharding.by_shape(mesh_of(8, fsdp), shapes).spec


def test_the_largest_axis_that_divides_is_split():
    assert spec((3, 3, 64, 128)) == PartitionSpec(None, None, None, "fsdp")
    assert spec((3, 3, 128, 64)) == PartitionSpec(None, None, "fsdp")
    assert spec((1026, 8)) == PartitionSpec(None, "fsdp")
    assert spec((1026, 7)) == PartitionSpec()  # no axis divides
    assert spec((512,)) == PartitionSpec()  # small
    assert spec(()) == PartitionSpec()
    assert spec((4096, 4096), fsdp=1) == PartitionSpec()


def test_fsdp_divides_the_devices():
    assert dict(mesh_of(8, 2).shape) == {"data": 4, "fsdp": 2}
    with pytest.raises(UserError, match="fsdp = 3 .* 8 devices; .* 1, 2, 4, 8"):
        sharding.make_mesh(3)


@functools.cache
def setting():
    """A small network whose widest arrays are split."""
    config = image_label.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=())
    config.optimizer.update(kind="muon", warmup_steps=0)  # of whole matrices
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config.lock(), source)
    experiment = experiments.build(config)
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    batches = pipeline.training_batches(source, preprocess, 32, 0)
    return config, experiment, build_optimizer(config), batches


def abstract(mesh):
    _, experiment, optimizer, _ = setting()
    return abstract_state(experiment, optimizer, mesh)


@functools.cache
def trained(num_devices, fsdp):
    """(state after 10 steps, losses of 20) on a mesh."""
    mesh = mesh_of(num_devices, fsdp)
    _, experiment, optimizer, _ = setting()
    state = new_state(jax.random.key(0), experiment, optimizer, abstract(mesh))
    state = with_tables(state, experiment, abstract(mesh))
    half, first = go_on(state, mesh, 0, NUM_STEPS // 2)
    kept = jax.device_get(half)
    _, last = go_on(half, mesh, NUM_STEPS // 2, NUM_STEPS)
    return kept, first + last


@functools.cache
def compiled(mesh):
    config, experiment, optimizer, _ = setting()
    return jax.jit(build_step(config, experiment, optimizer, mesh), donate_argnums=0)


def go_on(state, mesh, start, stop, step=None):
    """The state after steps start..stop, which lies as the first one did."""
    step = step or compiled(mesh)
    batches, losses = setting()[-1], []
    where = jax.tree.map(lambda x: x.sharding, state)
    for i in range(start, stop):
        batch = jax.device_put(batches[i], sharding.over_batch(mesh))
        key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
        state, terms = step(state, batch, key)
        losses.append(float(terms["loss"]))
    assert jax.tree.map(lambda x: x.sharding, state) == where
    return state, losses


@pytest.mark.parametrize("devices, fsdp", [(8, 4), *WIDE])
def test_all_meshes_have_the_same_losses(devices, fsdp):
    alone, losses = trained(1, 1)
    _, found = trained(devices, fsdp)
    assert len(set(losses)) == NUM_STEPS
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def by_block(gather="block"):
    """The config whose blocks gather what they need, for their gradients once more."""
    config = ConfigDict(setting()[0].to_dict())
    config.mesh.gather = gather
    config.unet.remat = "pointwise"
    return config


@pytest.mark.parametrize("kernels", [pytest.param(False, marks=pytest.mark.wide), True])
def test_gathering_by_block_changes_no_loss(monkeypatch, kernels):
    """Also without JAX's check of what varies, as on TPUs."""
    monkeypatch.setattr(steps, "has_kernels", lambda _: kernels)
    mesh, config = mesh_of(8, 4), by_block()
    experiment, optimizer = experiments.build(config), build_optimizer(config)
    state = new_state(jax.random.key(0), experiment, optimizer, abstract(mesh))
    state = with_tables(state, experiment, abstract(mesh))
    step = lower_step(config, experiment, optimizer, mesh, abstract(mesh))
    split = jax.tree.leaves(sharding.by_shape(mesh, state.params))
    # Once forwards and once for the gradient, but for what is in no block.
    gathers = step.as_text().count("all_gather")
    assert gathers > 1.5 * sum("fsdp" in place.spec for place in split)
    _, found = go_on(state, mesh, 0, 5, step.compile())
    np.testing.assert_allclose(found, trained(1, 1)[1][:5], rtol=1e-5)


def test_gradients_are_sent_in_half_precision_where_that_is_asked_for():
    """Losses are the same to that precision, for the optimizer has moments of them."""
    mesh, config = mesh_of(8, 4), ConfigDict(setting()[0].to_dict())
    config.mesh.sum = "bfloat16"
    _, experiment, optimizer, _ = setting()
    state = new_state(jax.random.key(0), experiment, optimizer, abstract(mesh))
    state = with_tables(state, experiment, abstract(mesh))
    step = lower_step(config, experiment, optimizer, mesh, abstract(mesh))
    sums = re.findall(r"stablehlo.(?:all_reduce|reduce_scatter)", step.as_text())
    half = re.findall(r"stablehlo.return %\d+ : tensor<bf16>", step.as_text())
    assert len(half) > len(sums) / 2  # the others are of the terms of the loss
    _, found = go_on(state, mesh, 0, 5, step.compile())
    _, losses = trained(1, 1)
    assert found != losses[:5]
    np.testing.assert_allclose(found, losses[:5], rtol=2e-3)


def test_a_step_with_kernels_changes_no_loss(monkeypatch):
    monkeypatch.setattr(steps, "has_kernels", lambda _: True)
    config, experiment, optimizer, _ = setting()
    mesh = mesh_of(8, 4)
    state = new_state(jax.random.key(0), experiment, optimizer, abstract(mesh))
    state = with_tables(state, experiment, abstract(mesh))
    step = lower_step(config, experiment, optimizer, mesh, abstract(mesh)).compile()
    _, found = go_on(state, mesh, 0, 5, step)
    np.testing.assert_allclose(found, trained(1, 1)[1][:5], rtol=1e-5)


def test_how_parameters_are_gathered_is_known():
    with pytest.raises(UserError, match="'layer'; choose step or block"):
        experiments.check(by_block("layer"))


def test_each_device_holds_its_part_of_the_state():
    """Of parameters, averages and moments: little more than a quarter."""
    whole, parts = abstract(mesh_of(8, 1)), abstract(mesh_of(8, 4))

    def held(state):
        return sum(
            np.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(state)
        )

    for name in ("params", "ema_params", "opt_state"):
        share = held(getattr(parts, name)) / held(getattr(whole, name))
        assert 0.25 < share < 0.4


@pytest.mark.parametrize("devices, fsdp", [(1, 1), *WIDE])
def test_a_checkpoint_continues_on_any_mesh(tmp_path, devices, fsdp):
    """Written by 8 devices, the state in four parts."""
    writers = mesh_of(8, 4)
    kept, losses = trained(8, 4)
    where = jax.tree.map(lambda x: x.sharding, abstract(writers))
    state = jax.device_put(kept, where)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(10, state.saved, setting()[0])
    checkpoints.close()
    mesh = mesh_of(devices, fsdp)
    _, _, found = Checkpoints(tmp_path).newest(lambda _: abstract(mesh).saved)
    state = with_tables(TrainState(**found), setting()[1], abstract(mesh))
    _, rest = go_on(state, mesh, NUM_STEPS // 2, NUM_STEPS)
    np.testing.assert_allclose(rest, losses[NUM_STEPS // 2 :], rtol=1e-5)
