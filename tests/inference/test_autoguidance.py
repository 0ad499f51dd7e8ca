"""Guidance away from a weaker model, alone and with all other guidance."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, image_label
from mt_diffusion.data import sources
from mt_diffusion.diffusion import aggregation, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.inference import restoring, sampling
from mt_diffusion.inference.generation import Generator
from mt_diffusion.inference.guiding import Guiding, Seen, Weights
from mt_diffusion.models.denoiser import View
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.sharding import AXES
from mt_diffusion.protocol import Code
from tests.arbitrary import parameters

ONE_DEVICE = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
SHAPE = (2, 2, 1)
TABLE = schedule.cosine(100)
PROCESS = Process(
    TABLE, aggregation.Aggregation({"y": aggregation.weights("y", "ramp", 2.0, TABLE)})
)
PULL = jnp.arange(4.0).reshape(1, *SHAPE)


class Believes:
    """A model whose images are N(params, 1), and whose head pulls by a constant."""

    process = PROCESS
    modalities = (types.SimpleNamespace(name="y", log_density=lambda f, v: f),)

    def __call__(self, params, z_t, t, codes, known, values):
        told = 0.5 if known else 0.0
        return View(
            z_t, z_t, None, {"y": jnp.sum(z_t * PULL, axis=(1, 2, 3))}, {}, {}
        )._replace(v=jnp.full_like(z_t, params + told))

    def z0(self, view, step, u_t):
        """E[z_0 | u_t] of N(mean, 1), as alpha_bar + 1 - alpha_bar is 1."""
        return view.v + step.signal_t * (u_t - step.signal_t * view.v)


def pushed(t=60, own=0.3, weak=-0.2, **settings):
    """(the guided z_0, the plain one, z_t without the drift, the step)."""
    wishes = common.get_config("digits").sampling
    wishes.update(settings)
    model = Believes()
    codes = {"y": Code(latent=jnp.ones((3, *SHAPE)))}
    known, values = {"y": jnp.ones(3, bool)}, {"y": jnp.ones((3, 1))}
    guide = Guiding(model, wishes, model).build(Weights(own, weak), values, codes)
    step = jax.tree.map(jnp.asarray, PROCESS.transition(t, t - 1))
    z_t = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    u_t = step.to_comoving(z_t, {"y": codes["y"].latent})
    view = model(own, z_t, jnp.full(3, t), codes, known, values)
    plain = model.z0(view, step, u_t)
    return guide(Seen(z_t, step, codes, known, values), u_t, plain), plain, u_t, step


def of_mean(mean, u_t, step):
    return mean + step.signal_t * (u_t - step.signal_t * mean)


def test_all_guidance_adds_up():
    """By hand: of three Gaussians that differ in their mean, and a linear head."""
    scales = dict(autoguidance=2.5, guidance=1.7, head_guidance=0.4)
    found, plain, u_t, step = pushed(**scales)
    strong, null, weak = (of_mean(m, u_t, step) for m in (0.8, 0.3, 0.3))
    np.testing.assert_allclose(plain, strong, rtol=1e-5)
    expected = strong + 0.7 * (strong - null)
    expected += 1.5 * (strong - weak)
    expected += 0.4 * step.noise_t**2 / step.signal_t * PULL
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_it_goes_on_the_line_from_the_guide(scale):
    found, plain, u_t, step = pushed(weak=-0.9, autoguidance=scale)
    weak = of_mean(-0.4, u_t, step)  # the guide is told what is known, too
    np.testing.assert_allclose(found, weak + scale * (plain - weak), atol=1e-5)


@pytest.mark.parametrize(
    "t, inside", [(30, False), (31, True), (70, True), (71, False)]
)
def test_it_is_within_the_interval(t, inside):
    interval = dict(autoguidance=3.0, guidance_interval=(0.31, 0.7))
    found, plain, _, _ = pushed(t, **interval)
    assert np.allclose(found, plain) != inside


def get_config(width=16):
    config = image_label.get_config("smoke")
    config.unet.update(
        channel_mult=(1,), attention_resolutions=(1,), model_channels=width
    )
    config.diffusion.num_steps = 20
    config.sampling.update(num_steps=3, batch_size=4)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs by name, each with a checkpoint 3; `own` has one of step 1 as well."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    other = get_config()
    with other.unlocked():
        other.modalities.label.energy = 5000.0
    seeded = get_config()
    with seeded.unlocked():
        seeded.modalities.label.codes.seed = 1
    linear = get_config()
    linear.diffusion.update(schedule="cosine", num_steps=30)
    configs = {"own": get_config(), "small": get_config(8), "other": other}
    configs |= {"seeded": seeded, "linear": linear}
    for i, (name, config) in enumerate(configs.items()):
        found[name] = root / name
        checkpoints = Checkpoints(found[name], keep=2)
        for step in (1, 3) if name == "own" else (3,):
            params = parameters(experiments.build(config), 10 * i + step)
            checkpoints.save(step, {"ema_params": params}, config)
        checkpoints.close()
    return found


def load(runs, **settings):
    found = restoring.restore(runs["own"], settings, True, sharding.make_mesh())
    _, config, experiment, params = found
    mesh = sharding.make_mesh()
    guide = restoring.load_guide(config.sampling, experiment, params, True, mesh)
    return config, experiment, guide


def draw(runs, **settings):
    config, experiment, (guide, weights) = load(runs, **settings)
    mesh = sharding.make_mesh()
    made = Generator(experiment, config.sampling, mesh, None, guide)
    return made.values(weights, 0, range(8), {})["image"]


def test_an_earlier_checkpoint_guides_and_so_does_a_smaller_network(runs):
    plain = draw(runs)
    for guide in (f"{runs['own']}:1", str(runs["small"])):
        moved = draw(runs, guide=guide, autoguidance=2.0)
        assert np.isfinite(moved).all() and np.abs(moved - plain).max() > 1e-2
    with pytest.raises(UserError, match="would change nothing: autoguidance is 1"):
        draw(runs, guide=f"{runs['own']}:1")


@pytest.mark.parametrize(
    "name, words",
    [
        ("other", "its modalities or their drifts are others"),
        ("seeded", "its codes are others"),
        ("linear", "its noise schedules are others"),
        ("own:2", "has no checkpoint 2; it has 3, 1"),
        ("nowhere", "--guide=nowhere is not the folder of a run"),
    ],
)
def test_guides_that_can_not_be(runs, name, words):
    folder, _, step = name.partition(":")
    guide = str(runs.get(folder, folder)) + (f":{step}" if step else "")
    with pytest.raises(UserError, match=words):
        load(runs, guide=guide, autoguidance=2.0)


def test_resampling_needs_pixels_that_are_known(runs):
    _, experiment, _ = load(runs)
    label = {"label": np.eye(10, dtype=np.float32)[:1]}
    image = {"image": np.zeros((1, 8, 8, 1), np.float32)}
    for given in ({}, label):
        with pytest.raises(UserError, match="resample=3 lets the other pixels"):
            sampling.check_resample({"resample": 3}, experiment, given)
        sampling.check_resample({}, experiment, given)
    sampling.check_resample({"resample": 3}, experiment, image)


def test_a_scale_needs_a_guide(runs):
    with pytest.raises(UserError, match="autoguidance=2.0 needs a guide"):
        load(runs, autoguidance=2.0)
