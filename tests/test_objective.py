import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import (
    aggregation,
    objective,
    schedule,
)
from mt_diffusion.diffusion.process import Process
from mt_diffusion.modalities.base import Batch, Code
from mt_diffusion.models.mt_diffusion import Prediction

B, SHAPE = 64, (4, 4, 1)


@dataclasses.dataclass(frozen=True)
class Toy:
    """A modality whose value is its code, and whose nll is its distance from zero."""

    name: str = "x"
    loss_weight: float = 0.5
    drop_rate: float = 0.25
    null_rate: float = 0.25
    conditions: bool = True

    def nll(self, prediction, value):
        return jnp.mean((prediction - value) ** 2, axis=(1, 2, 3))


class Recorder:
    """Stands for the network: keeps what it was asked, predicts zeros."""

    def __init__(self, learn_variance=False):
        self.learn_variance = learn_variance

    def apply(self, params, *args, method=None, **kwargs):
        if method == "encode":
            (values,) = args
            return {n: Code(latent=v) for n, v in values.items()}
        self.z_t, self.t, self.codes, self.known, self.deterministic = args
        zeros = jnp.zeros_like(self.z_t)
        v = zeros if self.learn_variance else None
        return Prediction(zeros, v, {n: zeros for n in self.codes})


@dataclasses.dataclass
class Parts:
    process: Process
    network: Recorder
    modalities: tuple


def make(modalities, design="ramp", learn_variance=False):
    table = schedule.cosine(1000)
    tilde = {
        m.name: aggregation.weights(m.name, design, 3.0, table) for m in modalities
    }
    process = Process(table, aggregation.Aggregation(tilde))
    return Parts(process, Recorder(learn_variance), modalities)


def batch_of(available):
    values = {"x": jnp.full((B, *SHAPE), 0.5)}
    return Batch(jnp.zeros((B, *SHAPE)), values, {"x": available})


def test_terms_are_means_and_the_loss_is_their_weighted_sum():
    parts = make((Toy(),))
    available = jnp.arange(B) < B // 2
    total, terms = objective.loss(
        jax.random.key(0), batch_of(available), parts, {}, 0.001, False
    )
    # Zeros predict noise of unit variance, and values of 0.5, at known errors.
    assert float(terms["eps"]) == pytest.approx(1, abs=4 * np.sqrt(2 / (B * 16)))
    assert float(terms["x"]) == pytest.approx(0.25)
    assert float(total) == pytest.approx(float(terms["eps"]) + 0.5 * 0.25)


def test_missing_values_are_masked_out_of_drift_and_loss():
    parts, none = make((Toy(drop_rate=0.0),)), make((Toy(),))
    present = jnp.arange(B) % 2 == 0
    batch = batch_of(present)
    broken = batch.replace(values={"x": batch.values["x"].at[1::2].set(1e6)})
    _, terms = objective.loss(jax.random.key(0), broken, parts, {}, 0.0, False)
    assert float(terms["x"]) == pytest.approx(0.25)
    _, terms = objective.loss(
        jax.random.key(0), batch_of(jnp.zeros(B, bool)), none, {}, 0.0, False
    )
    assert float(terms["x"]) == 0
    # An example's noise does not depend on presence, so what differs is the drift.
    drift = parts.process.aggregation.drift(batch.values, parts.network.t)
    expected = jnp.where(present[:, None, None, None], drift, 0.0)
    difference = parts.network.z_t - none.network.z_t
    np.testing.assert_allclose(difference, expected, atol=1e-5)


def test_dropped_modalities_keep_their_loss():
    parts = make((Toy(drop_rate=1.0, null_rate=0.0),))
    _, terms = objective.loss(
        jax.random.key(0), batch_of(jnp.ones(B, bool)), parts, {}, 0.0, False
    )
    assert float(terms["x"]) == pytest.approx(0.25)
    assert not np.any(parts.network.known["x"])


def test_presence_has_its_rates_and_reading_implies_drifting():
    available = jnp.ones(20_000, bool)
    present, known = objective.draw_presence(jax.random.key(0), Toy(), available)
    error = 4 * np.sqrt(0.25 / 20_000)
    assert float(present.mean()) == pytest.approx(0.75, abs=error)
    assert float(known.mean()) == pytest.approx(0.5, abs=error)
    assert not np.any(known & ~present)


def test_only_conditioning_modalities_are_read():
    parts = make((Toy(conditions=False),))
    objective.loss(
        jax.random.key(0), batch_of(jnp.ones(B, bool)), parts, {}, 0.0, False
    )
    assert parts.network.known == {}


def test_times_are_uniform_on_1_to_T():
    parts = make((), "ramp")
    batch = Batch(jnp.zeros((4000, 2, 2, 1)), {}, {})
    objective.loss(jax.random.key(0), batch, parts, {}, 0.0, False)
    t = np.asarray(parts.network.t)
    assert t.min() >= 1 and t.max() <= 1000
    counts = np.histogram(t, bins=np.arange(0.5, 1001, 100))[0]
    assert np.abs(counts - 400).max() < 4 * np.sqrt(400)


def test_the_variance_term_trains_only_the_variance():
    table = schedule.cosine(1000)
    process = Process(table, aggregation.Aggregation({}))
    z0 = jnp.zeros((B, *SHAPE))

    class Linear(Recorder):
        def apply(self, params, z_t, t, codes, known, deterministic, **kwargs):
            ones = jnp.ones_like(z_t)
            return Prediction(params["eps"] * ones, params["v"] * ones, {})

    class Encoding(Linear):
        def apply(self, params, *args, method=None, **kwargs):
            return {} if method else super().apply(params, *args, **kwargs)

    parts = Parts(process, Encoding(), ())

    def grads(weight):
        loss = lambda p: objective.loss(  # noqa: E731
            jax.random.key(0), Batch(z0, {}, {}), parts, p, weight, False
        )[0]
        return jax.grad(loss)({"eps": jnp.array(0.1), "v": jnp.array(0.2)})

    without, hybrid = grads(0.0), grads(1.0)
    assert float(without["v"]) == 0 and float(hybrid["v"]) != 0
    assert float(hybrid["eps"]) == pytest.approx(float(without["eps"]), rel=1e-6)


def test_the_variance_term_weighs_as_in_guided_diffusion():
    """L_vlb is a sum over T: 0.001 times it is once the mean of its 1000 terms."""
    parts = make((), learn_variance=True)
    batch = Batch(jnp.zeros((B, *SHAPE)), {}, {})
    total, terms = objective.loss(jax.random.key(0), batch, parts, {}, 0.001, False)
    expected = float(terms["eps"]) + float(terms["variance"])
    assert float(total) == pytest.approx(expected, rel=1e-5)
