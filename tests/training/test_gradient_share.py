"""Shares of the gradient in the shared network, against one gradient per variable."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import image_label
from mt_diffusion.data import pipeline, sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.parallel import sharding
from mt_diffusion.training import gradient_share, look, objective


class Tiny(nn.Module):
    """In the U-Net's place: `read` is shared, `out` is the noise's own."""

    model_channels: int = 2

    @nn.compact
    def __call__(self, x, t, tokens, condition, deterministic):
        told = condition[:, None, None] + t[:, None, None, None] / 1000
        h = nn.silu(nn.Dense(8, name="read")(x) + told)
        return nn.Dense(1, name="out")(h), {"mid": h, "out": h}


@pytest.fixture(scope="module")
def parts():
    """(config, experiment, parameters none of which is zero, a batch of 16)."""
    config = image_label.get_config("smoke")
    config.unet.update(model_channels=8, num_groups=4)
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config.lock(), source)
    experiment = experiments.build(config)
    network = experiment.network.clone(unet=Tiny())
    denoiser = dataclasses.replace(experiment.denoiser, network=network)
    experiment = dataclasses.replace(experiment, denoiser=denoiser)
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    batch = pipeline.training_batches(source, preprocess, 16, 0)[0]
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    params = jax.tree.map(
        lambda x: (0.2 * rng.standard_normal(x.shape)).astype(x.dtype), shapes
    )
    return config, experiment, params, batch


def build(parts, **settings):
    config, experiment, *_ = parts
    config = config.copy_and_resolve_references()
    config.objective.update(settings)
    return objective.build(config, experiment)


def shares(parts, params=None, num_microbatches=1, **settings):
    loss = build(parts, **settings)
    share = gradient_share.build(loss, jax.random.key(1), num_microbatches)
    return share(parts[2] if params is None else params, parts[3])


def norms(parts, batch):
    """Of each variable's own gradient, by the loss of that task alone."""
    found = {}
    for task in ("image", "label"):
        loss = build(parts, tasks=task)

        @jax.jit
        def grad(params, batch, loss=loss):
            draws = loss.draw(jax.random.key(1), batch)
            counts = loss.counts(batch, draws)
            return jax.grad(lambda p: loss.loss(p, batch, draws, counts, None)[0])(
                params
            )

        grads = grad(parts[2], batch)["params"]["unet"]["read"]
        found[task] = float(optax.tree.norm(grads))
    return found


def test_shares_are_those_of_one_gradient_per_task(parts):
    """Of every other example, which is what a microbatch holds."""
    batch = jax.tree.map(lambda x: x[::2], parts[3])
    found, expected = shares(parts, num_microbatches=2), norms(parts, batch)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) > 0
    total = sum(expected.values())
    assert found == pytest.approx({n: x / total for n, x in expected.items()}, rel=1e-4)


def test_only_what_is_trained_has_a_share(parts):
    assert shares(parts, tasks="label") == {"label": 1.0}


def test_where_nothing_pulls_no_one_has_a_share(parts):
    zeros = jax.tree.map(jnp.zeros_like, parts[2])
    assert shares(parts, zeros) == {"image": 0.0, "label": 0.0}


def test_one_program_serves_all(parts):
    """Its weights are traced: a second variable compiles nothing."""
    loss, traced = build(parts), []

    class Counted:
        tasks, draw, counts = loss.tasks, loss.draw, loss.counts

        def parts(self, *arguments):
            traced.append(1)
            return loss.parts(*arguments)

    share = gradient_share.build(Counted(), jax.random.key(1), 1)
    for _ in range(2):
        share(parts[2], parts[3])
    assert len(traced) == 1


class View:
    """Keeps what is written."""

    def __init__(self):
        self.scalars = {}

    def write(self, step, scalars):
        self.scalars |= scalars

    def picture(self, step, name, image):
        pass


@pytest.mark.parametrize(
    "is_on, tasks, expected",
    [(True, "", {"image", "label"}), (False, "", set()), (True, "label", set())],
)
def test_a_look_writes_them_where_the_config_says(
    parts, monkeypatch, is_on, tasks, expected
):
    config, experiment, params, batch = parts
    config = config.copy_and_resolve_references()
    config.watch.update(gradient_shares=is_on, walk=False)
    config.objective.tasks = tasks
    samples = {"image": np.zeros((1, 8, 8, 1), np.uint8)}
    monkeypatch.setattr(look, "Generator", lambda *_: lambda *_: samples)
    view, mesh = View(), sharding.make_mesh()
    look.Look(config, experiment, mesh, batch, jax.random.key(2))(view, 1, params)
    assert {"test_loss", "test_eps", "test_label"} <= view.scalars.keys()
    found = {n: x for n, x in view.scalars.items() if n.startswith("grad_share_")}
    assert found.keys() == {f"grad_share_{name}" for name in expected}
    assert sum(found.values()) == pytest.approx(1 if expected else 0)
