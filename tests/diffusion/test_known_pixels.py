"""Known pixels on the way: the noise that they have, and what the others make of them.

Two pixels, jointly Gaussian, and their exact denoiser, which is not told that one of
them is known.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion.diffusion import aggregation, sampler, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import presence
from mt_diffusion.inference import generation
from mt_diffusion.models.denoiser import View
from mt_diffusion.parallel.sharding import AXES
from mt_diffusion.protocol import Known, Variable
from mt_diffusion.spaces import pixels

ONE_DEVICE = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
NUM, SEEN = 4000, 0.6
CORRELATION, VARIANCE = 0.9, 0.25
COVARIANCE = VARIANCE * np.array([[1, CORRELATION], [CORRELATION, 1]])


class Pixels(Variable):
    """Two of them, of which a given value is the first."""

    def known(self, value):
        first = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
        return Known(value, jnp.broadcast_to(first, value.shape))


class Exact:
    """A denoiser of eps; v: where its learned variance is, None if it has none."""

    def __init__(self, v):
        self.process = Process(schedule.cosine(1000), aggregation.Aggregation({}))
        self.v, self.note = v, lambda z_t, t: None

    def encode(self, variables, values):
        return {}

    def __call__(self, variables, z_t, t, codes, known, values, dropout_key=None):
        jax.debug.callback(self.note, z_t, t)
        v = None if self.v is None else jnp.full_like(z_t, self.v)
        return View(z_t, z_t, v, {}, {}, {})

    def z0(self, view, step, u_t):
        covariance = jnp.asarray(COVARIANCE, u_t.dtype)
        total = step.signal_t**2 * covariance + step.noise_t**2 * jnp.eye(2)
        gain = step.signal_t * jnp.linalg.solve(total, covariance)
        return (u_t.reshape(-1, 2) @ gain).reshape(u_t.shape)


def generator(v=None, **settings):
    primary = Pixels(name="image", shape=(1, 2, 1))
    experiment = types.SimpleNamespace(
        shape=(1, 2, 1),
        space=pixels.Pixels(picture=(1, 2, 1)),
        origin="",
        primary=primary,
        variables={"image": primary},
        modalities=(),
        denoiser=Exact(v),
        process=Exact(v).process,
        presence=presence.build({}, {}),
    )
    wishes = common.get_config("digits").sampling
    wishes.update(num_steps=50, clip="none", batch_size=NUM, **settings)
    return generation.Generator(experiment, wishes, ONE_DEVICE)


def hidden(**settings):
    """The pixel that is not known, of each example."""
    given = {"image": jnp.full((NUM, 1, 2, 1), SEEN)}
    drawn = generator(**settings).draw({}, 0, jnp.arange(NUM), given)["image"]
    np.testing.assert_array_equal(drawn[:, 0, 0], np.float32(SEEN))
    return np.asarray(drawn[:, 0, 1, 0], np.float64)


@pytest.mark.parametrize("settings", [{"v": 1.0}, {"v": 0.3}, {"variance": "beta"}, {}])
def test_known_pixels_have_the_noise_of_their_marginal(settings):
    """Whatever the variance of the others; with beta it was 3.5 times at the end."""
    made, seen = generator(**settings), {}
    made._experiment.denoiser.note = lambda z_t, t: seen.update({int(t[0]): z_t})
    given = {"image": jnp.full((NUM, 1, 2, 1), SEEN)}
    jax.block_until_ready(made.draw({}, 0, jnp.arange(NUM), given))
    jax.effects_barrier()
    alpha_bar = schedule.cosine(1000).alpha_bar
    for t in sorted(seen)[::24]:
        noise = np.asarray(seen[t])[:, 0, 0, 0] - np.sqrt(alpha_bar[t]) * SEEN
        assert abs(noise.std() / np.sqrt(1 - alpha_bar[t]) - 1) < 4 / np.sqrt(2 * NUM)


def test_resampling_lets_the_others_hear_of_known_pixels():
    """Exact: 0.54 with deviation 0.218. Replacement alone, in 50 steps: 0.37.

    What is resampled is narrower than the law, 0.175, as RePaint's draws are.
    """
    mean = CORRELATION * SEEN
    std = np.sqrt(VARIANCE * (1 - CORRELATION**2))
    alone, again = hidden(), hidden(resample=10)
    assert alone.mean() < mean - 0.1
    assert abs(again.mean() - mean) < 0.03
    assert 0.75 * std < again.std() < std


def test_the_first_visit_is_that_of_a_walk_without_more():
    times = np.array([9, 4, 1, 0])
    steps, visit = sampler.visits(times, 3)
    np.testing.assert_array_equal(steps, [0, 0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(visit.repeat, [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(visit.again, [1, 1, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(visit.i, np.arange(7))
    steps, visit = sampler.visits(times, 1)
    np.testing.assert_array_equal(steps, visit.i)
    assert not visit.again.any()


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "unipc"])
def test_what_remembers_where_it_was_can_not_go_back(name):
    with pytest.raises(UserError, match=f"resample is 2, but {name}.*ancestral"):
        generator(resample=2, sampler=name)
