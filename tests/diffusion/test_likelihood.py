"""Densities that are densities, and a divergence against Monte Carlo."""

import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import likelihood


def test_the_discretised_likelihood_is_a_distribution():
    levels = jnp.arange(256) / 127.5 - 1
    for mean, log_variance in [(0.1, -4.0), (-0.97, -2.0), (1.0, -8.0)]:
        log_mass = likelihood.discretised(
            levels, jnp.full(256, mean), jnp.full(256, log_variance)
        )
        assert float(jnp.exp(log_mass).sum()) == pytest.approx(1, abs=1e-4)


def test_gaussian_kl_is_zero_only_for_equals_and_matches_monte_carlo(x64):
    args = (jnp.array(0.3), jnp.array(-0.5), jnp.array(-0.4), jnp.array(0.7))
    same = likelihood.gaussian_kl(*args[:2], *args[:2])
    assert float(same) == pytest.approx(0, abs=1e-12)
    x = 0.3 + np.exp(-0.25) * np.random.default_rng(0).standard_normal(400_000)
    log_ratio = -0.5 * (-0.5 + (x - 0.3) ** 2 * np.exp(0.5))
    log_ratio += 0.5 * (0.7 + (x + 0.4) ** 2 * np.exp(-0.7))
    kl = float(likelihood.gaussian_kl(*args))
    assert kl == pytest.approx(log_ratio.mean(), abs=4 * log_ratio.std() / 632)


@pytest.mark.parametrize("distance", [-5.5, -4.0, 0.0, 4.0, 5.5])
def test_both_tails_keep_their_digits(distance):
    """Levels far above the mean and far below: float32 against ADM's in float64."""
    scale = 0.1
    x = np.float64(np.float32(distance * scale))
    cdf = lambda x: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))  # noqa: E731
    exact = np.log(cdf((x + 1 / 255) / scale) - cdf((x - 1 / 255) / scale))
    log_variance = jnp.float32(2 * np.log(scale))
    found = likelihood.discretised(jnp.float32(x), jnp.float32(0), log_variance)
    assert float(found) == pytest.approx(exact, rel=1e-4)


def test_the_gaussian_is_a_density(x64):
    x = jnp.linspace(-9, 9, 20_001)
    log_density = likelihood.gaussian(x, jnp.array(0.4), jnp.array(-1.0))
    assert float(jnp.trapezoid(jnp.exp(log_density), x)) == pytest.approx(1, abs=1e-9)
