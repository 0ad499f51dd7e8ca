"""How a predicted z_0 is clipped, against numpy; what is known is put back after."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion.diffusion import sampler
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference.generation import Generator
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.parallel import sharding


def examples():
    """z_0 of standard deviations from far inside [-1, 1] to far outside."""
    noise = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    return noise * np.float32([0.1, 0.6, 1.0, 30.0])[:, None, None, None]


def test_dynamic_is_imagens_threshold():
    z0 = examples()
    found = np.asarray(sampler.build_clip("dynamic")(jnp.asarray(z0)))
    limits = [max(np.quantile(np.abs(x), 0.995), 1) for x in z0]
    assert limits[0] == 1 and min(limits[1:]) > 1
    for x, clipped, limit in zip(z0, found, limits, strict=True):
        expected = np.clip(x, -limit, limit) / limit
        np.testing.assert_allclose(clipped, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0], z0[0])
    assert np.abs(found).max() <= 1 and np.mean(np.abs(found[3]) > 0.999) < 0.01


def test_static_and_none():
    z0 = examples()
    static, none = (sampler.build_clip(name)(jnp.asarray(z0)) for name in
                    ("static", "none"))  # fmt: skip
    np.testing.assert_array_equal(static, np.clip(z0, -1, 1))
    np.testing.assert_array_equal(none, z0)


def test_unknown_ways_are_refused():
    with pytest.raises(UserError, match="'soft'.*static.*dynamic"):
        sampler.build_clip("soft")


class Silent:
    """A network that sees no noise: z_0 is z_t over the signal, which is large."""

    def apply(self, params, *args, method="predict", rngs=None):
        return getattr(self, method)(*args)

    def encode(self, values):
        return {}

    def predict(self, y_t, *args):
        return Output(jnp.zeros_like(y_t), None, {}, {})


def test_the_clip_is_the_configs_and_known_pixels_pass_it():
    config = common.get_config("smoke")
    config.sampling.update(num_steps=2, batch_size=8, sampler="ddim")
    experiment = experiments.build(config)
    denoiser = dataclasses.replace(experiment.denoiser, network=Silent())
    experiment = dataclasses.replace(experiment, denoiser=denoiser)
    given = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    expected = experiment.primary.postprocess(given).repeat(8, axis=0)
    at_ends = {}
    for config.sampling.clip in ("static", "dynamic"):
        generator = Generator(experiment, config.sampling, sharding.make_mesh())
        image = generator({}, 0, 8, {})["image"]
        at_ends[config.sampling.clip] = np.isin(image, [0, 255]).mean()
        image = generator({}, 0, 8, {"image": given})["image"]
        np.testing.assert_array_equal(image, expected)
    assert at_ends["dynamic"] < 0.1 < at_ends["static"]
    config.sampling.clip = "soft"
    with pytest.raises(UserError, match="'soft'"):
        Generator(experiment, config.sampling, sharding.make_mesh())
