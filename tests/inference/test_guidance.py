"""Guidance against closed forms: for a Gaussian every condition is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, image_transition, joint, masked_image
from mt_diffusion.data import sources
from mt_diffusion.diffusion import (
    aggregation,
    guidance,
    likelihood,
    prediction,
    schedule,
)
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import presence
from mt_diffusion.inference import generation, guiding, sampling
from mt_diffusion.modalities import build as base
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.parallel.sharding import AXES
from mt_diffusion.protocol import Code, Modality, Variable
from mt_diffusion.spaces import pixels
from tests.arbitrary import parameters

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


def log_prob(u_t, signal, noise):
    """log p(y | u_t), whose mean is that of z_0."""
    mean, variance = posterior(MEAN[None], VARIANCE[None], signal, noise, u_t)
    log_variance = jnp.log(variance + ERROR)
    y = jnp.asarray(Y[None])
    return likelihood.gaussian(y, mean, log_variance).sum(axis=(1, 2, 3))


def test_the_scale_goes_from_the_unconditional_through_the_conditional():
    z0, null = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *SHAPE)))
    at = functools.partial(guidance.classifier_free, z0, null)
    np.testing.assert_allclose(at(1.0), z0, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(at(0.0), null, rtol=1e-6)
    np.testing.assert_allclose(at(3.0) - z0, 2 * (z0 - null), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [1, 300, 900])
def test_by_an_exact_classifier_guidance_is_bayes_rule(t, x64):
    table = schedule.cosine(1000)
    signal, noise = np.sqrt(table.alpha_bar[t]), np.sqrt(1 - table.alpha_bar[t])
    u_t = jnp.asarray(np.random.default_rng(t).normal(size=(5, *SHAPE)))
    ask = functools.partial(log_prob, signal=signal, noise=noise)
    belief, given = ([x[None] for x in b] for b in ((MEAN, VARIANCE), GIVEN_Y))
    without, _ = posterior(*belief, signal, noise, u_t)
    told, _ = posterior(*given, signal, noise, u_t)
    eps, eps_told = ((u_t - signal * z0) / noise for z0 in (without, told))
    assert np.abs(eps - eps_told).max() > 1e-2
    process = Process(table, aggregation.Aggregation({}))
    step = process.transition(t, t - 1)
    for one in (step, process.transition(np.full(5, t), np.full(5, t - 1))):
        found = guidance.by_classifier(without, u_t, one, ask, 1.0)
        np.testing.assert_allclose(found, told, rtol=1e-9, atol=1e-10)
    # The paper's form, of the noise.
    score = jax.grad(lambda u: ask(u).sum())(u_t)
    np.testing.assert_allclose(eps - noise * score, eps_told, rtol=1e-9, atol=1e-10)
    twice = guidance.by_classifier(without, u_t, step, ask, 2.0)
    np.testing.assert_allclose(twice, 2 * told - without, rtol=1e-9, atol=1e-10)
    none = guidance.by_classifier(without, u_t, step, ask, 0.0)
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

    def placeholder(self):
        return np.zeros(SHAPE, np.float32)

    def postprocess(self, value):
        return value


class Plain(Variable):
    """z_0 as it is."""

    space = pixels.Pixels(picture=(1, 1, 1))

    def postprocess(self, value):
        return value


class Exact:
    """What a perfect network says. It takes off the drift of codes that it is shown.

    Where y is `known` as well, it says what follows from y, whose drift is gone from
    what it reads if the modality's frame says so.
    """

    def __init__(self, modality, process, predicts):
        self.modality, self.process, self.predicts = modality, process, predicts

    def apply(self, params, *args, method="predict", rngs=None):
        return getattr(self, method)(*args)

    def encode(self, values):
        return {n: self.modality.encode(value) for n, value in values.items()}

    def predict(self, y_t, t, codes, known, evidence, deterministic):
        assert not evidence and deterministic
        gone = self.modality.frame == "read" and "y" in known
        left = {} if gone else {n: codes[n].latent for n in codes}
        drift = self.process.aggregation.drift(left, t)
        a_bar = jnp.asarray(self.process.schedule.alpha_bar, y_t.dtype)[t]
        signal, noise = (jnp.sqrt(x)[:, None, None, None] for x in (a_bar, 1.0 - a_bar))
        belief = (jnp.asarray(x, y_t.dtype)[None] for x in (MEAN, VARIANCE))
        mean, variance = belief
        u_t = y_t - drift
        head_mean, head_variance = posterior(mean, variance, signal, noise, u_t)
        head = [head_mean, jnp.log(head_variance + ERROR)]
        if known:
            y = codes["y"].latent
            mean, variance = posterior(mean, variance, 1.0, np.sqrt(ERROR), y)
        z0, _ = posterior(mean, variance, signal, noise, u_t)
        aggregate = (y_t - signal * z0) / noise
        out = {
            "eps": (u_t - signal * z0) / noise,
            "aggregate": aggregate,
            "v": signal * aggregate - noise * z0,
        }[self.predicts]
        return Output(out, None, {"y": jnp.concatenate(head, axis=-1)}, {})


def generator(conditions=False, drift=3.0, predicts="eps", frame="none", **settings):
    table = schedule.cosine(1000)
    weights = {"y": aggregation.weights("y", "ramp", drift, table)}
    process = Process(table, aggregation.Aggregation(weights))
    modality = Toy(
        name="y", shape=SHAPE, drift="ramp", loss_weight=0.1, conditions=conditions,
        frame=frame, guess="mean",
    )  # fmt: skip
    experiment = experiments.Experiment(
        shape=SHAPE,
        primary=Plain(name="image", shape=SHAPE),
        denoiser=Denoiser(
            modalities=(modality,),
            process=process,
            network=Exact(modality, process, predicts),
            prediction=prediction.build(predicts),
        ),
        presence=presence.build(
            {"present": {"share": 1.0, "y": "read"}}, {"y": conditions}
        ),
    )
    wishes = common.get_config("digits").sampling
    wishes.update(sampler="ddim", num_steps=20, clip="none", batch_size=4096)
    wishes.update(settings)
    return generation.Generator(experiment, wishes, ONE_DEVICE)


@functools.cache
def images(num=16, given=True, **settings):
    draw = generator(**settings)
    return draw({}, 0, num, {"y": Y[None]} if given else {})["image"]


@pytest.mark.parametrize(
    "drift, predicts", [(0.0, "eps"), *((3.0, p) for p in prediction.PREDICTIONS)]
)
def test_guided_by_its_exact_head_a_model_draws_from_the_posterior(drift, predicts):
    """Mean to 4 standard errors, and the variance to those, and DDIM's few percent.

    With a drift this holds only where the head is asked about u_t.
    """
    num = 4096
    z0 = images(num, head_guidance=1.0, num_steps=200, drift=drift, predicts=predicts)
    mean, variance = GIVEN_Y
    error = (z0.mean(axis=0) - mean) / np.sqrt(variance / num)
    assert np.abs(error).max() < 4
    assert np.abs(z0.var(axis=0) / variance - 1).max() < 4 * np.sqrt(2 / num) + 0.05


WAYS = [("eps", "none"), ("aggregate", "none"), ("aggregate", "read"), ("v", "read")]


def test_without_guidance_there_is_none(monkeypatch):
    """To the bit, also where nothing is given that could guide."""
    one = images()
    nothing_given = images(given=False)
    strong = dict(guidance=3.0, head_guidance=2.0)
    np.testing.assert_array_equal(images(given=False, **strong), nothing_given)
    monkeypatch.setattr(guiding.Guiding, "build", lambda *_: lambda seen, u_t, z0: z0)
    np.testing.assert_array_equal(images.__wrapped__(**strong), one)


def test_classifier_free_guidance_by_what_tells_nothing_changes_nothing():
    """Of a network that takes off the drift, and knows no more of z_0 by it."""
    np.testing.assert_allclose(images(guidance=5.0), images(), atol=1e-3)


@pytest.mark.parametrize("predicts, frame", WAYS)
@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_at_scale_0_nothing_is_known_of_what_is_given(drift, predicts, frame):
    way = dict(predicts=predicts, frame=frame)
    told = functools.partial(images, conditions=True, drift=drift, **way)
    nothing_given = images(conditions=True, drift=0.0, given=False)
    np.testing.assert_allclose(told(guidance=0.0), nothing_given, atol=1e-3)
    assert np.abs(told() - nothing_given).max() > 0.1
    further = told(guidance=2.0) - told(guidance=0.0)
    assert np.mean(further * (told() - told(guidance=0.0)) > 0) > 0.9


@pytest.mark.parametrize("predicts, frame", WAYS[1:])
def test_networks_that_mean_the_same_draw_the_same(predicts, frame):
    """Guided in both ways, whatever they predict, and of whatever they read."""
    kinds = dict(conditions=True, guidance=2.0, head_guidance=0.5)
    found = images(predicts=predicts, frame=frame, **kinds)
    np.testing.assert_allclose(found, images(**kinds), atol=2e-3)


# The z_0 of a noise at T is its rounding over sqrt(alpha_bar_T) = 5e-5.
@pytest.mark.parametrize("predicts, atol", [("eps", 1e-4), ("v", 1e-5)])
@pytest.mark.parametrize("kind", [{"guidance": 2.0}, {"head_guidance": 1.0}])
def test_guidance_is_within_its_interval_alone(kind, predicts, atol):
    draw = functools.partial(images, conditions=True, predicts=predicts)
    without = draw()
    never = draw(guidance_interval=(0.0, 0.0), **kind)
    np.testing.assert_allclose(never, without, atol=atol)
    always, half = draw(**kind), draw(guidance_interval=(0.0, 0.5), **kind)
    for one, other in [(always, without), (half, without), (half, always)]:
        assert np.abs(one - other).max() > 1e-2


def test_what_is_absent_while_it_is_generated_does_not_drift():
    """The walk is that of a model whose modality never drifts; what is given does."""
    alone = functools.partial(images, given=False)
    still = alone(drift=3.0, guess="y=absent")
    np.testing.assert_allclose(still, alone(drift=0.0), atol=1e-5)
    assert np.abs(still - alone(drift=3.0)).max() > 1e-2
    np.testing.assert_array_equal(alone(drift=3.0, guess="y=mean"), alone(drift=3.0))
    given = functools.partial(images, drift=3.0)
    np.testing.assert_array_equal(given(guess="y=absent"), given())


def get_config():
    """A label and a masked image, both of which the network reads."""
    config = joint.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.sampling.update(num_steps=2, batch_size=8)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


def test_every_head_can_guide():
    """Of a real network, from parameters that are far from any sense."""
    config = get_config()
    experiment = experiments.build(config)
    params = parameters(experiment)
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


@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0, 6.5, 8.0])
@pytest.mark.parametrize("name", ["masked_image", "image_b"])
def test_an_images_head_pulls_as_its_gaussian_does(name, distance, x64):
    """By (x - mean) / std^2, however far; a level's mass pulled 1.5 times at 6 std."""
    made = {
        "masked_image": masked_image.get_config("smoke").modalities.masked_image,
        "image_b": image_transition.get_config("smoke").modalities.image_b,
    }[name]
    fields = made.to_dict() | {"std": 0.2}
    modality = base.build(name, fields, (8, 8, 1))
    value = np.full((1, 8, 8, 1), 0.9)
    mask = np.zeros_like(value)
    mask[:, :4] = 1
    if name == "masked_image":
        value = np.concatenate([value * mask, mask], axis=-1)
    mean = np.full((1, 8, 8, 1), 0.9 - distance * 0.2)
    pull = jax.grad(lambda p: modality.log_density(p, jnp.asarray(value)).sum())(mean)
    mask = mask if name == "masked_image" else np.ones_like(mask)
    np.testing.assert_allclose(pull, distance / 0.2 * mask)


@pytest.mark.parametrize(
    "wishes, given, words",
    [
        ({"guidance": 2.0}, ["image"], "guidance=2.0 .* one of label, masked_image"),
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
