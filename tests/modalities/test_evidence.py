"""Evidence: what is read off a code is Bayes' rule, by brute force and known laws."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from configs import image_label, image_representation, joint
from mt_diffusion.data import sources
from mt_diffusion.diffusion import schedule
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import leak, presence
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.inference.generation import Generator
from mt_diffusion.modalities import build as base
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch, Level
from mt_diffusion.training import objective

SHAPE, D = (4, 4, 1), 16
SHARES = np.array([0.5, 0.3, 0.2])
ABSENT = 0.15
SPREAD = 0.6  # standard deviation of z_0 around its mean, in each pixel
MEAN = np.random.default_rng(9).normal(0, 0.7, SHAPE)
# sqrt(alpha_bar_t), sigma_t and alpha_tilde_t; the last two of them illegible.
LEVELS = [(0.9, 0.4, 0.5), (0.5, 0.85, 0.6), (0.1, 0.99, 0.3), (0.9, 0.4, 0.0)]
LEVELS += [(0.01, 1.0, 1e-6)]
VECTOR = [(image_representation, "representation")]


def rng(seed=0):
    return np.random.default_rng(seed)


def exact(modality):
    """The modality with its codes in double precision, orthogonal to the last bit."""
    flat = modality.images.reshape(len(modality.images), -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1, keepdims=True).mean()
    basis, triangle = np.linalg.qr(flat.T)
    images = norms * (basis * np.sign(np.diag(triangle))).T
    return modality.with_tables({"images": images.reshape(modality.images.shape)})


def measured(modality, **more):
    """The leak of N(MEAN, SPREAD^2 I) images, as it is, not of a sample."""
    flat = modality.images.reshape(len(modality.images), -1).astype(np.float64)
    units = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return {
        "sources": ("",),
        "means": (tuple((units @ MEAN.ravel()).tolist()),),
        "covariance": ((SPREAD**2,),),
        "absent": ABSENT,
    } | more


def make(module, name, **changes):
    fields = module.get_config().modalities[name].to_dict()
    fields["codes"] |= {"family": "white"}
    found = exact(base.build(name, fields | changes, SHAPE))
    return dataclasses.replace(
        found, measured=measured(found, shares=tuple(SHARES))
    ).with_tables({"images": found.images})


def make_label(**changes):
    return make(image_label, "label", class_names=tuple("abc"), **changes)


def make_vector(size=3, **changes):
    fitted = {"vector_mean": (0.0,) * size, "vector_std": (1.0,) * size}
    fitted |= {"vectors": "feature:vector"}
    return make(image_representation, "representation", **fitted | changes)


def level_of(signal, noise, num, **drifts):
    full = lambda x: jnp.full(num, x)  # noqa: E731
    return Level(full(signal), full(noise), {n: full(x) for n, x in drifts.items()})


def density(z_t, mean, covariance):
    """log N(z_t; mean, covariance), all D dimensions, of each example."""
    flat = np.asarray(z_t).reshape(len(z_t), -1)
    return scipy.stats.multivariate_normal(mean.ravel(), covariance).logpdf(flat)


# Classes


def by_enumeration(z_t, codes, signal, noise, drift, shares=SHARES, mean=MEAN):
    """Posterior [B, K + 1] of each class and of none, by the densities of all z_t."""
    covariance = (signal**2 * SPREAD**2 + noise**2) * np.eye(D)
    means = [signal * mean + drift * code for code in (*codes, 0 * codes[0])]
    prior = np.append((1 - ABSENT) * shares, ABSENT)
    logits = [density(z_t, m, covariance) for m in means]
    return scipy.special.softmax(np.stack(logits, axis=1) + np.log(prior), axis=1)


@pytest.mark.parametrize("at", LEVELS)
def test_the_posterior_of_a_class_is_bayes_rule(x64, at):
    label, z_t = make_label(), rng().normal(0, 1.5, (20, *SHAPE))
    drift = at[2]
    z_t[:10] += 2 * drift * label.images[0]
    found = label.evidence(jnp.asarray(z_t), level_of(*at[:2], 20, label=drift))
    q = by_enumeration(z_t, label.images, *at)
    np.testing.assert_allclose(found.vector, q, atol=1e-9)
    expected = np.einsum("bk,khwc->bhwc", q[:, :3], label.images)
    np.testing.assert_allclose(found.latent, expected, atol=1e-8)
    # Where it is absent the class has its shares, so that the code tells nothing.
    of_value = q[:, :3] + q[:, 3:] * SHARES
    np.testing.assert_allclose(of_value.sum(axis=1), 1)
    np.testing.assert_allclose(found.gain, np.log(of_value / SHARES), atol=1e-6)


def test_the_mean_image_and_unequal_shares_count(x64):
    label, at, z_t = make_label(), LEVELS[0], rng().normal(0, 1.5, (20, *SHAPE))
    found = label.evidence(jnp.asarray(z_t), level_of(*at[:2], 20, label=at[2]))
    for changes in ({"mean": 0 * MEAN}, {"shares": np.ones(3) / 3}):
        careless = by_enumeration(z_t, label.images, *at, **changes)
        assert np.abs(found.vector - careless).max() > 0.05


def test_the_code_multiplies_what_features_say_of_the_class(x64):
    """Features that are independent of the code, given the class; one prior of both."""
    label, at, z_t = make_label(), LEVELS[1], rng().normal(0, 1.5, (20, *SHAPE))
    found = label.evidence(jnp.asarray(z_t), level_of(*at[:2], 20, label=at[2]))
    likelihood = np.exp(rng(1).standard_normal((20, 3)))  # p(features | class)
    of_features = np.log(SHARES * likelihood)
    q = by_enumeration(z_t, label.images, *at)
    joint_of = (q[:, :3] + q[:, 3:] * SHARES) * likelihood
    expected = joint_of / joint_of.sum(axis=1, keepdims=True)
    both = label.combine(jnp.asarray(of_features), found.gain)
    np.testing.assert_allclose(label.mean(both), expected, atol=1e-9)


def test_a_class_that_is_known_is_certain():
    label = make_label()
    value = jnp.eye(3)
    latent = label.encode(value).latent
    sure = label.certain(value, latent)
    np.testing.assert_array_equal(sure.latent, latent)
    np.testing.assert_array_equal(sure.vector, np.eye(3, 4))
    against = jnp.asarray(10 * (1 - np.eye(3)), jnp.float32)
    both = label.combine(against, sure.gain)
    assert np.isfinite(both).all()
    np.testing.assert_allclose(label.mean(both), value, atol=1e-6)


# Vectors


def by_joint_gaussian(z_t, images, signal, noise, drift):
    """E[x | z_t, present], Cov[x | z_t, present], and P(absent | z_t)."""
    mixing = drift * images.reshape(len(images), -1)  # [d, D]
    around = (signal**2 * SPREAD**2 + noise**2) * np.eye(D)
    present = around + mixing.T @ mixing
    gain = mixing @ np.linalg.inv(present)
    off = z_t.reshape(len(z_t), -1) - signal * MEAN.ravel()
    logits = [
        density(z_t, signal * MEAN, present) + np.log1p(-ABSENT),
        density(z_t, signal * MEAN, around) + np.log(ABSENT),
    ]
    absent = scipy.special.softmax(np.stack(logits, axis=1), axis=1)[:, 1]
    return off @ gain.T, np.eye(len(images)) - gain @ mixing.T, absent


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("at", LEVELS)
def test_the_posterior_of_a_vector_is_that_of_the_joint_gaussian(x64, at, size):
    vector = make_vector(size)
    values = rng(1).standard_normal((20, size))
    drift = at[2]
    z_t = rng().normal(0, 1.0, (20, *SHAPE))
    z_t[:15] += drift * np.einsum("bk,khwc->bhwc", values[:15], vector.images)
    level = level_of(*at[:2], 20, representation=drift)
    found = vector.evidence(jnp.asarray(z_t), level)
    mean, covariance, absent = by_joint_gaussian(z_t, vector.images, *at)
    kappa = 1 - covariance[0, 0]
    np.testing.assert_allclose(covariance, (1 - kappa) * np.eye(size), atol=1e-9)
    here = (1 - absent)[:, None]
    told = [here * mean, here * kappa, absent[:, None]]
    np.testing.assert_allclose(found.vector, np.concatenate(told, axis=1), atol=1e-7)
    latent = here[..., None, None] * np.einsum("bk,khwc->bhwc", mean, vector.images)
    np.testing.assert_allclose(found.latent, latent, atol=1e-7)
    np.testing.assert_allclose(found.gain, np.concatenate(told[:2], axis=1), atol=1e-7)


@pytest.mark.parametrize("kappa", [1e-9, 0.2, 0.7, 1 - 1e-9])
def test_a_vector_of_code_and_features_errs_as_it_says(x64, kappa):
    """The code's estimate has the variance (1 - kappa) / kappa, the features' std^2."""
    vector, num = make_vector(std=0.5), 40_000
    x = rng(1).standard_normal((num, 3))
    by_code = x + np.sqrt((1 - kappa) / kappa) * rng(2).standard_normal((num, 3))
    by_features = x + 0.5 * rng(3).standard_normal((num, 3))
    gain = np.concatenate([kappa * by_code, np.full((num, 1), kappa)], axis=1)
    both = vector.combine(jnp.asarray(by_features), jnp.asarray(gain))
    mean, variance = map(np.asarray, vector._split(both))
    np.testing.assert_array_equal(mean, vector.mean(both))
    expected = max(1 / (1 / 0.25 + kappa / (1 - kappa)), 1e-6)  # precisions add up
    np.testing.assert_allclose(variance, expected)
    error = np.mean((mean - x) ** 2)
    assert error <= 1e-6 if expected == 1e-6 else error == pytest.approx(expected, 0.02)
    drawn = vector.draw(jax.random.split(jax.random.key(0), num), both)
    assert np.var(drawn - mean) == pytest.approx(expected, rel=0.02)
    likelihood = scipy.stats.norm(mean, np.sqrt(expected)).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(vector.log_likelihood(both, jnp.asarray(x)), likelihood)
    if kappa < 1e-6:  # exactly what the features say
        np.testing.assert_allclose(mean, by_features, atol=1e-3)
        assert expected == pytest.approx(0.25, rel=1e-6)
    if kappa > 1 - 1e-6:  # exactly what the code says
        np.testing.assert_allclose(mean, by_code, atol=1e-6)


def test_a_vector_that_is_known_is_certain():
    vector = make_vector()
    value = jnp.asarray(rng().standard_normal((4, 3)), jnp.float32)
    latent = vector.encode(value).latent
    sure = vector.certain(value, latent)
    np.testing.assert_array_equal(sure.latent, latent)
    np.testing.assert_array_equal(sure.vector[:, :3], value)
    np.testing.assert_array_equal(sure.vector[:, 3:], [[1, 0]] * 4)
    both = vector.combine(100 * value + 7, sure.gain)
    np.testing.assert_allclose(vector.mean(both), value, rtol=1e-6)


# The leak


def test_the_leak_of_two_sources_is_what_brute_force_finds(x64):
    """An image and another's drift that resembles it, along each code."""
    label, num = make_label(), 500
    z0 = rng(1).normal(0, 0.5, (num, *SHAPE)) + MEAN
    other = 0.7 * z0 + rng(2).normal(0, 0.3, (num, *SHAPE)) - 0.2
    fields = label.measure(np.eye(3)[[0, 0, 1]], {"": z0, "image_b": other})
    twin = dataclasses.replace(label, measured=fields["measured"] | {"absent": ABSENT})
    twin = twin.with_tables({"images": label.images})
    np.testing.assert_allclose(fields["measured"]["shares"], [3 / 6, 2 / 6, 1 / 6])

    signal, noise, drifts = 0.6, 0.5, {"label": 0.4, "image_b": 0.8}
    units = label.images.reshape(3, -1) / 4  # of length 1 each
    seen = (signal * z0 + 0.8 * other).reshape(num, -1) @ units.T
    variance = np.mean(np.var(seen, axis=0)) + noise**2
    z_t = rng(3).normal(0, 1, (20, *SHAPE))
    found = twin.evidence(jnp.asarray(z_t), level_of(signal, noise, 20, **drifts))
    components = z_t.reshape(20, -1) @ units.T - seen.mean(axis=0)
    strength = 0.4 * 4
    logits = (strength * components - strength**2 / 2) / variance
    logits = np.append(logits, np.zeros((20, 1)), axis=1)
    prior = np.append((1 - ABSENT) * np.array([3, 2, 1]) / 6, ABSENT)
    q = scipy.special.softmax(logits + np.log(prior), axis=1)
    np.testing.assert_allclose(found.vector, q, atol=1e-5)  # measured to 6 digits


def test_what_a_run_measures_is_the_leak_of_its_training_images():
    config = image_label.get_config()
    config.presence = {
        "unread": {"share": 0.85, "label": "read"},  # but the network reads none
        "absent": {"share": 0.15, "label": "absent"},
    }
    source = sources.open_source(config.data, "train")
    resolved = experiments.resolve(config, source)
    found = resolved.modalities.label.measured
    (label,) = experiments.build(resolved).modalities
    images = np.stack([source[i]["image"] for i in range(len(source))]) / 127.5 - 1
    seen = images.reshape(-1, 64) @ (label.images.reshape(10, -1) / 8).T
    assert tuple(found.sources) == ("",)
    np.testing.assert_allclose(found.means[0], seen.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.covariance, [[seen.var(axis=0).mean()]], rtol=1e-3)
    counts = np.bincount(source.labels, minlength=10)
    np.testing.assert_allclose(found.shares, (counts + 1) / (counts.sum() + 10))
    assert found.absent == pytest.approx(0.15)  # the share of config.presence
    bare = types.SimpleNamespace(class_names=source.class_names)  # nothing to measure
    assert experiments.resolve(resolved, bare) == resolved


def test_absence_is_as_frequent_as_where_the_network_is_not_told():
    """Of 10 examples 4 have no value; of the rest 0.2 are read, and 0.3 absent."""
    reads = {"label": True}
    states = {
        "read": {"share": 0.2, "label": "read"},
        "unread": {"share": 0.5, "label": "unread"},
        "absent": {"share": 0.3, "label": "absent"},
    }
    there = np.arange(10) < 6
    values = np.eye(3, dtype=np.float32)[np.arange(10) % 3]
    batch = Batch(rng().normal(size=(10, *SHAPE)), {"label": values}, {"label": there})
    label = make_label()
    found = leak.of(label, (label,), presence.build(states, reads), batch)
    unread, absent = 0.6 * 0.5, 0.4 + 0.6 * 0.3
    assert found["measured"]["absent"] == pytest.approx(absent / (absent + unread))


def test_only_what_may_be_in_z_t_unread_is_a_source():
    config = joint.get_config()
    source = sources.open_source(config.data, "train")
    found = experiments.resolve(config, source).modalities.label.measured
    assert tuple(found.sources) == ("",)  # the masked image is read, or absent
    config.presence.unread.masked_image = "unread"
    found = experiments.resolve(config, source).modalities.label.measured
    assert tuple(found.sources) == ("", "masked_image")
    assert np.shape(found.means) == (2, 10) and np.shape(found.covariance) == (2, 2)


def test_several_processes_measure_the_same_to_the_bit(monkeypatch):
    """What is sent through devices, which have no double precision."""
    sent = lambda x: np.asarray(jax.device_put(x))  # noqa: E731
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(leak.multihost_utils, "broadcast_one_to_all", sent)
    fields = {"measured": measured(make_label()) | {"absent": 1 / 3}}
    assert leak.same_everywhere(fields) == fields


# In the model of z_t


@dataclasses.dataclass
class Recorder:
    """A network that keeps what it is asked, and says nothing."""

    modalities: tuple
    asked: types.SimpleNamespace = None

    def apply(self, variables, y_t, t, codes, known, evidence, deterministic, rngs):
        self.asked = types.SimpleNamespace(y_t=y_t, known=known, evidence=evidence)
        heads = {"label": jnp.zeros((len(t), 10))}
        return Output(0 * y_t, None, heads, {})


def build_three(energy=3136.0, drift_scale=1.0, drift="slow_ramp"):
    """Digits with masked image and label, both read, both able to drift unread."""
    config = joint.get_config()
    config.presence.unread.masked_image = "unread"
    config.modalities.label.update(energy=energy, drift=drift)
    config.modalities.masked_image.drift_scale = drift_scale
    source = sources.open_source(config.data, "train")
    return experiments.build(experiments.resolve(config, source))


@pytest.fixture(scope="module")
def three():
    return build_three()


def recording(experiment):
    network = Recorder(experiment.modalities)
    model = experiment.denoiser
    parts = model.modalities, model.process, network, model.prediction
    return Denoiser(*parts), network


def inputs(experiment, t):
    """z_t, t and what went into it, of 4 examples."""
    image, mask = rng().uniform(-1, 1, (4, 8, 8, 1)), np.ones((4, 8, 8, 1))
    values = {
        "masked_image": jnp.asarray(np.concatenate([image, mask], -1), jnp.float32),
        "label": jnp.eye(10)[jnp.array([3, 1, 4, 1])],
    }
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    codes = experiment.denoiser.encode(zeros | experiment.tables, values)
    latents = {n: code.latent for n, code in codes.items()}
    eps = jnp.asarray(rng(1).standard_normal((4, 8, 8, 1)), jnp.float32)
    times = jnp.full(4, t)
    z0 = jnp.asarray(image, jnp.float32)
    return experiment.process.diffuse(z0, latents, times, eps), times, codes, values


def test_what_is_read_comes_out_before_the_rest_is_looked_for():
    """And then says nothing of what is left: its leak is gone with it."""
    # So that it can be seen.
    three = build_three(energy=50.0, drift_scale=4.0, drift="ramp")
    model, network = recording(three)
    z_t, t, codes, values = inputs(three, 600)
    known = {"masked_image": jnp.array([True, True, False, False])}
    view = model(three.tables, z_t, t, codes, known, values)
    label = three.variables["label"]
    alpha_bar, drift = three.process.schedule.alpha_bar[600], model._drift("label", z_t)
    of_mask = model._drift("masked_image", z_t)[600]
    for rows, here in ((slice(0, 2), 0.0), (slice(2, 4), 1.0)):
        read = (1 - here) * of_mask * codes["masked_image"].latent[rows]
        drifts = {"label": drift[600], "masked_image": here * of_mask}
        level = level_of(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), 2, **drifts)
        found = label.evidence(z_t[rows] - read, level)
        np.testing.assert_allclose(
            network.asked.evidence["label"][rows], found.vector, atol=1e-5
        )
        left = z_t[rows] - read - drift[600] * found.latent
        np.testing.assert_allclose(network.asked.y_t[rows], left, atol=1e-4)
        np.testing.assert_allclose(view.heads["label"][rows], found.gain, atol=1e-3)
    np.testing.assert_array_equal(view.y_t, network.asked.y_t)
    np.testing.assert_array_equal(view.features["label"], 0)


def test_where_it_is_read_nothing_is_left_to_look_for(three):
    model, network = recording(three)
    z_t, t, codes, values = inputs(three, 980)
    reads = jnp.array([True, False, True, False])
    known = {"masked_image": jnp.ones(4, bool), "label": reads}
    model(three.tables, z_t, t, codes, known, values)
    latents = {n: code.latent for n, code in codes.items()}
    u_t = three.process.adjacent(t).to_comoving(z_t, latents)
    np.testing.assert_allclose(network.asked.y_t[reads], u_t[reads], atol=1e-5)
    told = network.asked.evidence["label"]
    np.testing.assert_array_equal(told[reads, :10], values["label"][reads])
    np.testing.assert_array_equal(told[reads, 10], 0)
    assert np.all(np.max(told[~reads], axis=1) < 1)


def test_at_both_ends_it_is_the_prior_and_between_them_the_truth(three):
    model, network = recording(three)
    label = three.variables["label"]
    absent = label.measured["absent"]
    prior = np.append((1 - absent) * np.array(label.measured["shares"]), absent)
    z_t, t, codes, values = inputs(three, 1)
    for at, tolerance in ((1000, 0.02), (1, 0.15)):
        z_t, t, codes, values = inputs(three, at)
        model(three.tables, z_t, t, codes, {}, values)
        told = network.asked.evidence["label"]
        np.testing.assert_allclose(told, np.tile(prior, (4, 1)), atol=tolerance)
    for at in (300, 500, 700):
        z_t, t, codes, values = inputs(three, at)
        model(three.tables, z_t, t, codes, {}, values)
        told = network.asked.evidence["label"]
        np.testing.assert_allclose(told[:, :10], values["label"], atol=0.01)


@pytest.mark.parametrize("field", ["drift", "frame"])
def test_without_drift_or_frame_all_of_z_t_is_read(field):
    config = image_label.get_config()
    config.modalities.label[field] = "none"
    source = sources.open_source(config.data, "train")
    experiment = experiments.build(experiments.resolve(config, source))
    model, network = recording(experiment)
    z_t = jnp.asarray(rng().standard_normal((2, 8, 8, 1)), jnp.float32)
    model(experiment.tables, z_t, jnp.array([300, 700]), {}, {}, {})
    np.testing.assert_array_equal(network.asked.y_t, z_t)
    assert network.asked.evidence == {}


def test_programs_do_not_grow_with_the_codes():
    """They are arguments; a constant of the larger codebook alone has 131,072 bytes."""

    def lowered(num):
        config = image_label.get_config()
        config.data.image_size = 16
        config.unet.update(channel_mult=(1,), attention_resolutions=())
        config.sampling.num_steps = 2
        names = tuple(map(str, range(num)))
        config.modalities.label.update(class_names=names, energy=4000.0)
        config.modalities.label.codes.family = "white"
        config.modalities.label.measured = {
            "sources": ("",),
            "means": ((0.0,) * num,),
            "covariance": ((0.1,),),
            "shares": (1 / num,) * num,
            "absent": 0.15,
        }
        experiment = experiments.build(config)
        variables = jax.eval_shape(
            lambda: init_params(jax.random.key(0), experiment) | experiment.tables
        )
        rows = jax.ShapeDtypeStruct((8,), jnp.int32)
        generator = Generator(experiment, config.sampling, sharding.make_mesh())
        draw = Generator.draw.lower(generator, variables, 0, rows, {})

        loss = objective.build(config, experiment)
        batch = Batch(
            jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.float32),
            {"label": jax.ShapeDtypeStruct((8, num), jnp.float32)},
            {"label": jax.ShapeDtypeStruct((8,), bool)},
        )

        def step_of(params, batch):
            draws = loss.draw(jax.random.key(0), batch)
            return loss.loss(params, batch, draws, loss.counts(batch, draws), None)

        step = jax.jit(step_of).lower(variables, batch)
        return len(draw.as_text()), len(step.as_text())

    small, large = lowered(4), lowered(128)
    growth = np.subtract(large, small)
    assert np.all(growth < 0.1 * 128 * 256 * 4), growth


@pytest.mark.parametrize("module, name", [(image_label, "label")] + VECTOR)
def test_a_code_too_weak_to_read_is_refused_and_none_that_is_strong(module, name):
    """By its largest ratio of energy to the variance of the noise, at any t."""
    config = module.get_config()
    source = sources.open_source(config.data, "train")
    alpha_bar = schedule.cosine(1000).alpha_bar[1:]
    ramp = np.arange(1, 1001) / 1000 * np.sqrt(alpha_bar)
    ratio = np.max(ramp**2 / (1 - alpha_bar))
    for energy, is_enough in ((15.9 / ratio, False), (16.1 / ratio, True)):
        config.modalities[name].update(energy=energy, drift="ramp")
        if is_enough:
            experiments.resolve(config, source)
        else:
            words = rf"{name}.energy = {energy:g} is too little.* 15.9 .*drift = 'none'"
            with pytest.raises(UserError, match=words):
                experiments.resolve(config, source)
