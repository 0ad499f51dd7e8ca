"""The step and the state: averages, skipped steps, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import image_label, masked_image
from mt_diffusion import experiment as experiments
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.training import loop, sharding
from mt_diffusion.training.state import build_optimizer, init_state
from mt_diffusion.training.step import build_step, ema


@pytest.fixture(scope="module")
def parts():
    """(config, experiment, optimizer, one batch) of both settings at once.

    The label is encoded by the shared U-Net and drifts (variant U), the masked image is
    read as well (variant X), and the variance is learned.
    """
    config = image_label.get_config("smoke")
    config.modalities.label.kind = "label.SharedUNet"
    config.unet.learn_variance = True
    config.modalities.update(masked_image.get_config("smoke").modalities)
    config.modalities.masked_image.conditions = True
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.optimizer.warmup_steps = 0
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config.lock(), source)
    experiment = experiments.build(config)
    preprocess = pipeline.Preprocess(
        experiment.primary, experiment.modalities, random_flip=False
    )
    batch = pipeline.training_batches(source, preprocess, 32, 0)[0]
    return config, experiment, build_optimizer(config), batch


@pytest.fixture(scope="module")
def step(parts):
    """The compiled step, shared: compiling is what takes time here."""
    config, experiment, optimizer, _ = parts
    return jax.jit(build_step(config, experiment, optimizer))


def start(parts):
    _, experiment, optimizer, _ = parts
    return jax.jit(lambda key: init_state(key, experiment, optimizer))(
        jax.random.key(0)
    )


def test_the_average_follows_its_recurrence():
    params = [np.float32(x) for x in np.random.default_rng(0).normal(size=20)]
    average = expected = np.float32(3.0)
    for n, p in enumerate(params, 1):
        average = ema(average, p, jnp.asarray(n), 0.6)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * p
    assert float(average) == pytest.approx(float(expected), rel=1e-5)


def test_non_finite_steps_change_nothing_and_are_counted(parts, step):
    *_, batch = parts
    state = start(parts)
    broken = batch.replace(z0=batch.z0 * np.nan)
    key = jax.random.key(1)
    skipped, terms = step(state, broken, jax.random.clone(key))
    jax.tree.map(np.testing.assert_array_equal, skipped.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, skipped.ema_params, state.ema_params)
    assert (terms["skipped_in_a_row"], terms["skipped"]) == (1, 1)
    again, terms = step(skipped, broken, jax.random.clone(key))
    assert (terms["skipped_in_a_row"], terms["skipped"]) == (2, 2)
    sound, terms = step(again, batch, jax.random.clone(key))
    assert (terms["skipped_in_a_row"], terms["skipped"]) == (0, 2)
    assert int(sound.step) == 3
    moved = jax.tree.map(lambda a, b: np.any(a != b), sound.params, state.params)
    assert any(jax.tree.leaves(moved))


def test_ten_skipped_steps_in_a_row_stop_the_run(parts):
    config = parts[0]
    loop.check_finite({"skipped_in_a_row": jnp.array(9)}, config, 50)
    with pytest.raises(UserError, match="10 steps in a row"):
        loop.check_finite({"skipped_in_a_row": jnp.array(10)}, config, 50)


def test_training_learns(parts, step):
    _, experiment, _, batch = parts
    state, losses = start(parts), []
    for _ in range(150):
        state, terms = step(state, batch, jax.random.key(1))
        losses.append({name: float(x) for name, x in terms.items()})
    for term in ("eps", *(m.name for m in experiment.modalities)):
        first = np.mean([x[term] for x in losses[:5]])
        last = np.mean([x[term] for x in losses[-5:]])
        assert last < 0.8 * first


def test_one_and_eight_devices_agree(parts, step):
    *_, batch = parts
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = jax.make_mesh(
            (len(devices), 1),
            sharding.AXES,
            devices=devices,
            axis_types=(jax.sharding.AxisType.Auto,) * 2,
        )
        replicated = sharding.replicated(mesh)
        state = jax.device_put(start(parts), replicated)
        placed = jax.device_put(batch, sharding.over_batch(mesh))
        losses = []
        for _ in range(3):
            key = jax.device_put(jax.random.key(1), replicated)
            state, terms = step(state, placed, key)
            losses.append(float(terms["loss"]))
        results.append((losses, float(terms["grad_norm"])))
    (one, one_norm), (eight, eight_norm) = results
    np.testing.assert_allclose(one, eight, rtol=1e-5)
    assert one_norm == pytest.approx(eight_norm, rel=1e-4)


def test_the_rate_warms_up_and_decays():
    config = masked_image.get_config("digits")
    config.optimizer.update(warmup_steps=10, final_fraction=0.1, clip_norm=1e9)
    config.train.num_steps = 100
    optimizer = build_optimizer(config)
    update_fn = jax.jit(optimizer.update)
    params, grads = jnp.zeros(()), jnp.ones(())
    state, sizes = optimizer.init(params), []
    for _ in range(101):  # Adam's step is the rate itself, for a constant gradient
        update, state = update_fn(grads, state, params)
        sizes.append(-float(update))
    np.testing.assert_allclose(sizes[:11], np.arange(11) * 1e-4, rtol=1e-4, atol=1e-9)
    assert sizes[100] == pytest.approx(1e-4, rel=1e-3)
    assert np.all(np.diff(sizes[11:]) < 0)
