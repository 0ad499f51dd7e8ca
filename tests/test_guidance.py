"""Guidance against closed forms: for a Gaussian every condition is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import image_label, masked_image
from mt_diffusion import experiment as experiments
from mt_diffusion import generation, sampling
from mt_diffusion.data import sources
from mt_diffusion.diffusion import aggregation, guidance, likelihood, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.modalities.base import Code, Modality, Variable
from mt_diffusion.models.mt_diffusion import Prediction
from mt_diffusion.training.sharding import AXES
from mt_diffusion.training.state import init_params

ONE_DEVICE = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
SHAPE = (2, 2, 1)
MEAN = np.array([0.5, -0.2, 0.0, 0.8]).reshape(SHAPE)
VARIANCE = np.array([0.05, 0.2, 0.5, 0.9]).reshape(SHAPE)
ERROR = 0.1  # y = z_0 + N(0, ERROR)
Y = np.array([1.0, 0.3, -0.7, -0.5], np.float32).reshape(SHAPE)


def posterior(mean, variance, signal, noise, x):
    """Of a Gaussian after x = signal times it + N(0, noise^2)."""
    precision = 1 / variance + signal**2 / noise**2
    return (mean / variance + signal * x / noise**2) / precision, 1 / precision


GIVEN_Y = posterior(MEAN, VARIANCE, 1.0, np.sqrt(ERROR), Y)


def exact_eps(u_t, signal, noise, mean, variance):
    """E[eps | u_t] for u_t = signal z_0 + noise eps, z_0 ~ N(mean, variance)."""
    z0, _ = posterior(mean, variance, signal, noise, u_t)
    return (u_t - signal * z0) / noise


def log_prob(u_t, signal, noise):
    """log p(y | u_t), whose mean is that of z_0."""
    mean, variance = posterior(MEAN[None], VARIANCE[None], signal, noise, u_t)
    log_variance = jnp.log(variance + ERROR)
    y = jnp.asarray(Y[None])
    return likelihood.gaussian(y, mean, log_variance).sum(axis=(1, 2, 3))


def test_the_scale_goes_from_the_unconditional_through_the_conditional():
    eps, null = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *SHAPE)))
    at = functools.partial(guidance.classifier_free, eps, null)
    np.testing.assert_allclose(at(1.0), eps, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(at(0.0), null, rtol=1e-6)
    np.testing.assert_allclose(at(3.0) - eps, 2 * (eps - null), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [1, 300, 900])
def test_by_an_exact_classifier_guidance_is_bayes_rule(t, x64):
    table = schedule.cosine(1000)
    signal, noise = np.sqrt(table.alpha_bar[t]), np.sqrt(1 - table.alpha_bar[t])
    u_t = jnp.asarray(np.random.default_rng(t).normal(size=(5, *SHAPE)))
    ask = functools.partial(log_prob, signal=signal, noise=noise)
    without = exact_eps(u_t, signal, noise, MEAN[None], VARIANCE[None])
    told = exact_eps(u_t, signal, noise, *(x[None] for x in GIVEN_Y))
    assert np.abs(without - told).max() > 1e-2
    for noise_t in (noise, np.full(5, noise)):
        found = guidance.by_classifier(without, u_t, noise_t, ask, 1.0)
        np.testing.assert_allclose(found, told, rtol=1e-9, atol=1e-10)
    twice = guidance.by_classifier(without, u_t, noise, ask, 2.0)
    np.testing.assert_allclose(twice, 2 * told - without, rtol=1e-9, atol=1e-10)
    none = guidance.by_classifier(without, u_t, noise, ask, 0.0)
    np.testing.assert_array_equal(none, without)


@pytest.mark.parametrize(
    "interval, first, last",
    [((0.0, 1.0), 1, 100), ((0.29, 0.57), 29, 57), ((0.3, 0.3), 30, 30)],
)
def test_the_interval_holds_its_ends(interval, first, last):
    t = jnp.arange(1, 101)
    inside = np.asarray(t)[np.asarray(guidance.within(t, interval, 100))]
    np.testing.assert_array_equal(inside, np.arange(first, last + 1))


@pytest.mark.parametrize(
    "interval", [(), (0.5,), (0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (0.0, float("nan"))]
)
def test_what_is_no_interval(interval):
    with pytest.raises(UserError, match="--here is .*the lower first"):
        guidance.check_interval(interval, "--here")
    for good in ((0.2, 0.2), [0.0, 1.0]):
        guidance.check_interval(good, "--here")


class Toy(Modality):
    """y, a noisy look at z_0; its head gives the mean and log variance of each."""

    def encode(self, value):
        return Code(latent=value)

    def log_likelihood(self, prediction, value):
        mean, log_variance = jnp.split(prediction, 2, axis=-1)
        return likelihood.gaussian(value, mean, log_variance).sum(axis=(1, 2, 3))

    def mean(self, prediction):
        return prediction[..., :1]

    def postprocess(self, value):
        return value


class Plain(Variable):
    """z_0 as it is."""

    def postprocess(self, value):
        return value


class Exact:
    """What a perfect network says. It takes off the drift of codes that it is shown.

    Where y is `known` as well, it says what follows from y.
    """

    def __init__(self, modality, process):
        self.modality, self.process = modality, process

    def apply(self, params, *args, method="predict"):
        return getattr(self, method)(*args)

    def encode(self, values):
        return {n: self.modality.encode(value) for n, value in values.items()}

    def predict(self, z_t, t, codes, known):
        drift = self.process.aggregation.drift({n: codes[n].latent for n in codes}, t)
        a_bar = jnp.asarray(self.process.schedule.alpha_bar, z_t.dtype)[t]
        signal, noise = (jnp.sqrt(x)[:, None, None, None] for x in (a_bar, 1.0 - a_bar))
        belief = (jnp.asarray(x, z_t.dtype)[None] for x in (MEAN, VARIANCE))
        mean, variance = belief
        u_t = z_t - drift
        head_mean, head_variance = posterior(mean, variance, signal, noise, u_t)
        head = [head_mean, jnp.log(head_variance + ERROR)]
        if known:
            y = codes["y"].latent
            mean, variance = posterior(mean, variance, 1.0, np.sqrt(ERROR), y)
        eps = exact_eps(u_t, signal, noise, mean, variance)
        return Prediction(eps, None, {"y": jnp.concatenate(head, axis=-1)}, {})


def generator(conditions=False, drift=3.0, **settings):
    table = schedule.cosine(1000)
    weights = {"y": aggregation.weights("y", "ramp", drift, table)}
    process = Process(table, aggregation.Aggregation(weights))
    modality = Toy(
        name="y", shape=SHAPE, drift="ramp", drift_scale=drift, loss_weight=0.1,
        conditions=conditions, drop_rate=0.0, null_rate=0.0,
    )  # fmt: skip
    experiment = experiments.Experiment(
        shape=SHAPE,
        primary=Plain(name="image", shape=SHAPE),
        modalities=(modality,),
        process=process,
        network=Exact(modality, process),
    )
    defaults = ConfigDict(
        dict(
            sampler="ddim", num_steps=20, eta=0.0, fixed_variance=0.0, clip="none",
            guidance=1.0, head_guidance=0.0, guidance_interval=(0.0, 1.0),
            batch_size=4096, generated_drift=1.0,
        )
    )  # fmt: skip
    defaults.update(settings)
    return generation.Generator(experiment, defaults, ONE_DEVICE)


@functools.cache
def images(num=16, given=True, **settings):
    draw = generator(**settings)
    return draw(None, 0, num, {"y": Y[None]} if given else {})["image"]


@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_guided_by_its_exact_head_a_model_draws_from_the_posterior(drift):
    """Mean to 4 standard errors, and the variance to those, and DDIM's few percent.

    With a drift this holds only where the head is asked about u_t.
    """
    num = 4096
    z0 = images(num, head_guidance=1.0, num_steps=200, drift=drift)
    mean, variance = GIVEN_Y
    error = (z0.mean(axis=0) - mean) / np.sqrt(variance / num)
    assert np.abs(error).max() < 4
    assert np.abs(z0.var(axis=0) / variance - 1).max() < 4 * np.sqrt(2 / num) + 0.05


def test_without_guidance_there_is_none(monkeypatch):
    """To the bit, also where nothing is given, or read, that could guide."""
    one = images()
    nothing_given = images(given=False)
    strong = dict(guidance=3.0, head_guidance=2.0)
    np.testing.assert_array_equal(images(guidance=5.0), one)
    np.testing.assert_array_equal(images(given=False, **strong), nothing_given)
    monkeypatch.setattr(
        generation.Generator, "_build_guide", lambda *args: lambda z_t, t, eps: eps
    )
    np.testing.assert_array_equal(images.__wrapped__(**strong), one)


@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_at_scale_0_nothing_is_known_of_what_is_given(drift):
    told = functools.partial(images, conditions=True, drift=drift)
    nothing_given = images(conditions=True, drift=0.0, given=False)
    np.testing.assert_allclose(told(guidance=0.0), nothing_given, atol=1e-3)
    assert np.abs(told() - nothing_given).max() > 0.1
    further = told(guidance=2.0) - told(guidance=0.0)
    assert np.mean(further * (told() - told(guidance=0.0)) > 0) > 0.9


@pytest.mark.parametrize("kind", [{"guidance": 2.0}, {"head_guidance": 1.0}])
def test_guidance_is_within_its_interval_alone(kind):
    draw = functools.partial(images, conditions=True)
    without = draw()
    never = draw(guidance_interval=(0.0, 0.0), **kind)
    np.testing.assert_allclose(never, without, atol=1e-5)
    always, half = draw(**kind), draw(guidance_interval=(0.0, 0.5), **kind)
    for one, other in [(always, without), (half, without), (half, always)]:
        assert np.abs(one - other).max() > 1e-2


def test_the_drift_of_what_is_generated_is_scaled_and_of_nothing_else():
    """At 0 the walk is that of a model whose modality never drifts."""
    alone = functools.partial(images, given=False)
    still = alone(drift=3.0, generated_drift=0.0)
    np.testing.assert_allclose(still, alone(drift=0.0), atol=1e-5)
    scaled = alone(drift=3.0, generated_drift=0.5)
    np.testing.assert_allclose(scaled, alone(drift=1.5), atol=1e-5)
    assert np.abs(still - scaled).max() > 1e-2
    assert np.abs(scaled - alone(drift=3.0)).max() > 1e-2
    given = functools.partial(images, drift=3.0)
    np.testing.assert_array_equal(given(generated_drift=0.0), given())


def get_config():
    """A label and a masked image, both of which the network reads."""
    config = image_label.get_config("smoke")
    config.modalities.update(masked_image.get_config("smoke").modalities)
    config.modalities.label.conditions = True
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.sampling.update(num_steps=2, batch_size=8)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


def test_every_head_can_guide():
    """Of a real network, from parameters that are far from any sense."""
    config = get_config()
    experiment = experiments.build(config)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda x: draw(x.shape, np.float32) / 4, shapes)
    mask = np.broadcast_to(np.arange(8) < 4, (1, 8, 8))[..., None].astype(np.float32)
    given = {
        "label": np.eye(10, dtype=np.float32)[[3]],
        "masked_image": np.concatenate([mask / 2, mask], axis=-1),
    }
    config.sampling.update(head_guidance=1.0, guidance=2.0)
    draw = generation.Generator(experiment, config.sampling, ONE_DEVICE)
    found = draw(params, 0, 8, given)["image"]  # a NaN would warn when made uint8
    assert np.all(found[:, :, :4] == 191)  # pixels known stay
    assert len(np.unique(found[:, :, 4:])) > 1


@pytest.mark.parametrize(
    "wishes, given, words",
    [
        ({"guidance": 2.0}, ["label"], "guidance=2.0 .* one of masked_image"),
        ({"guidance": 0.0}, [], "guidance=0.0 would change nothing"),
        ({"head_guidance": 0.5}, ["image"], "one of label, masked_image"),
    ],
)
def test_guidance_towards_nothing_is_refused(wishes, given, words):
    config = get_config()
    config.modalities.label.conditions = False
    experiment = experiments.build(config)
    with pytest.raises(UserError, match=words):
        sampling.check_guidance(wishes, experiment, given)
    sampling.check_guidance(wishes, experiment, ["masked_image"])
    sampling.check_guidance({"guidance": 1.0, "head_guidance": 0.0}, experiment, given)
