"""The step and the state: averages, skipped steps, parts of a batch, devices."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import image_label, joint, masked_image
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.parallel import sharding
from mt_diffusion.training import loop, objective, steps
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state, new_state, with_tables
from mt_diffusion.training.step import build_step, ema, shared_gradients


@pytest.fixture(scope="module")
def parts():
    """(config, experiment, optimizer, one batch) of both settings at once.

    The paper's form: the label is encoded by the shared U-Net and drifts (variant U),
    the masked image is read as well (variant X), and the variance is learned. For the
    aggregate noise and frames see `plain`.
    """
    config = joint.get_config("smoke")
    config.diffusion.prediction = "eps"
    config.modalities.masked_image.frame = "none"
    config.modalities.label.update(
        kind="label.SharedUNet",
        frame="none",
        conditions=False,
        energy=400.0,
        loss_weight=0.1,
        drift="ramp",
    )
    rates = {"label": (0.05, 0.6), "masked_image": (0.05, 0.15)}
    config.presence = dict(
        independent={n: dict(absent=a, unread=u) for n, (a, u) in rates.items()}
    )
    config.unet.learn_variance = True
    config.unet.update(channel_mult=(1,), attention_resolutions=())
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
    return jax.jit(build_step(config, experiment, optimizer, one_axis(1)))


def start(parts):
    _, experiment, optimizer, _ = parts
    abstract = abstract_state(experiment, optimizer, one_axis(1))
    state = new_state(jax.random.key(0), experiment, optimizer, abstract)
    return with_tables(state, experiment, abstract)


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
    steps.check_finite({"skipped_in_a_row": jnp.array(9)}, config, 50)
    with pytest.raises(UserError, match="10 steps in a row"):
        steps.check_finite({"skipped_in_a_row": jnp.array(10)}, config, 50)


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


def one_axis(num_devices):
    """A mesh of so many devices."""
    return sharding.make_mesh(devices=jax.devices()[:num_devices])


class Plain(nn.Module):
    """In the U-Net's place: a layer of each pixel, quick to compile."""

    out_channels: int
    model_channels: int = 8

    @nn.compact
    def __call__(self, x, t, tokens, condition, deterministic):
        told = [tokens.mean(axis=1), condition, t[:, None] / 1000]
        told = jnp.concatenate(told, axis=-1)
        read = nn.Dense(8, name="read")(x)
        h = nn.silu(read + nn.Dense(8, name="told")(told)[:, None, None, :])
        return nn.Dense(self.out_channels, name="last")(h), {"mid": h, "out": h}


@pytest.fixture(scope="module")
def plain():
    """(config, experiment, parameters none of which is zero, a batch of 32).

    Both settings, both read (variant X), and some examples that lack either or both.
    """
    config = joint.get_config("smoke")
    rates = {name: dict(absent=0.25, unread=0.25) for name in config.modalities}
    config.presence = dict(independent=rates)
    config.unet.update(model_channels=8, num_groups=4, learn_variance=True)
    config.objective.update(times="stratified", weighting="p2")
    config.objective.learn_balance = True
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config.lock(), source)
    experiment = experiments.build(config)
    network = experiment.network.clone(unet=Plain(2 * config.data.channels))
    denoiser = dataclasses.replace(experiment.denoiser, network=network)
    experiment = dataclasses.replace(experiment, denoiser=denoiser)
    preprocess = pipeline.Preprocess(
        experiment.primary, experiment.modalities, random_flip=False
    )
    batch = pipeline.training_batches(source, preprocess, 32, 0)[0]
    rng = np.random.default_rng(0)
    shares = {"label": 0.3, "masked_image": 0.8}
    available = {name: rng.random(32) < share for name, share in shares.items()}
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    params = jax.tree.map(
        lambda x: (0.2 * rng.standard_normal(x.shape)).astype(x.dtype), shapes
    )
    return config, experiment, params, batch.replace(available=available)


def in_parts(plain, parts, batch=None, unroll=True, **settings):
    """(terms, gradients) as the step has them; settings: of the objective."""
    config, experiment, params, whole = plain
    config = config.copy_and_resolve_references()
    config.objective.update(settings)
    loss = objective.build(config, experiment)
    batch = whole if batch is None else batch
    mesh = one_axis(1) if isinstance(batch.z0, np.ndarray) else batch.z0.sharding.mesh
    run = jax.jit(shared_gradients(loss, mesh, config.mesh, parts, unroll))
    return run(params, experiment.tables, batch, jax.random.key(1))


@pytest.fixture(scope="module")
def whole(plain):
    """Terms and gradients of the batch at once."""
    return in_parts(plain, 1)


def assert_close(found, expected):
    """Each array to float32's rounding of its own size."""

    def compare(ours, theirs):
        size = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * size + 1e-6)

    jax.tree.map(compare, found, expected)


@pytest.mark.parametrize(
    "parts, num_devices, unroll", [(2, 1, True), (4, 8, True), (4, 8, False)]
)
def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    plain, whole, parts, num_devices, unroll
):
    """Though the parts differ in how many examples have a label; in a loop or not."""
    *_, batch = plain
    labels = batch.available["label"].reshape(-1, parts).sum(axis=0)
    assert len(set(labels)) > 1
    mesh = one_axis(num_devices)
    placed = jax.device_put(batch, sharding.over_batch(mesh))
    assert_close(in_parts(plain, parts, placed, unroll), whole)
    terms, grads = whole
    assert {"eps", "variance", "label", "masked_image", "loss"} < set(terms)
    assert all(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(grads))


def test_parts_share_a_batch_evenly():
    config = masked_image.get_config("digits")
    config.train.update(batch_size=48, num_microbatches=4)
    with pytest.raises(UserError, match="8 devices.*num_microbatches = 4"):
        loop.check(config)
    config.train.num_microbatches = 6
    loop.check(config)


OUTPUTS = {
    "image": ("unet/last",),
    "label": ("heads_label", "log_variance_label"),
    "masked_image": ("heads_masked_image", "log_variance_masked_image"),
}


@pytest.mark.parametrize("task", OUTPUTS)
def test_what_no_task_reads_has_no_gradient(plain, task):
    """Each trains the shared network, but of the outputs and balances its own alone."""
    _, grads = in_parts(plain, 1, tasks=task)
    flat = flatten_dict(grads["params"], sep="/")
    trained = {name for name, g in flat.items() if np.any(np.asarray(g) != 0)}
    own, *others = (
        {name for name in flat if name.startswith(OUTPUTS[other])}
        for other in sorted(OUTPUTS, key=lambda other: other != task)
    )
    assert own and own <= trained
    assert all(other and not other & trained for other in others)
    assert "unet/read/kernel" in trained


def test_what_is_due_is_due_at_the_last_step_too_unless_it_never_is():
    config = image_label.get_config("smoke")
    config.train.num_steps = 7
    due = {}
    for every in (3, 0):
        config.watch.sample_every = every
        due[every] = [s for s in range(1, 8) if steps.is_due(config, "sample_every", s)]
    assert due == {3: [3, 6, 7], 0: []}
