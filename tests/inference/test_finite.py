"""What is not finite is no picture: an error that names the step and the cause."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ddpm, image_label
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference import finite
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding
from tests.arbitrary import parameters


def test_where_a_walk_was_lost_and_by_what():
    config = ddpm.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=())
    config.sampling.update(num_steps=4, batch_size=2)
    experiment = experiments.build(config)
    params = parameters(experiment)
    generator = Generator(
        experiment, config.sampling, sharding.make_mesh(devices=jax.devices()[:1])
    )
    drawn = generator(params, 0, 2, {})
    assert all(np.isfinite(x).all() for x in drawn.values())
    broken = jax.tree.map(lambda x: x * np.float32("nan"), params)
    words = r"of image is not finite, from step 1 of 4 on \(t = 1000\).*checkpoint"
    with pytest.raises(UserError, match=words):
        generator(broken, 0, 2, {})


@pytest.mark.parametrize(
    "changes, params, given, words",
    [
        ({}, np.array([1.0, np.inf]), {}, "parameters are not finite"),
        ({}, np.ones(2), {"label": np.array([np.nan])}, "What was given"),
        ({"guidance": 500.0}, np.ones(2), {}, r"guidance \(guidance = 500\): use less"),
        ({"autoguidance": 9.0}, jnp.ones(2), {}, r"\(autoguidance = 9\): use less"),
        ({"clip": "none"}, np.ones(2), {}, "clip = 'none'.*use clip = 'static'"),
    ],
)
def test_the_likely_cause(changes, params, given, words):
    settings = image_label.get_config("smoke").sampling
    settings.update(changes)
    with pytest.raises(UserError, match=words):
        raise UserError(finite.cause(settings, {"params": params}, given))
