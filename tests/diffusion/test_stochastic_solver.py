"""DPM-Solver++'s stochastic step against the law of a Gaussian, without Monte Carlo."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import solvers
from mt_diffusion.diffusion.process import Transition

VARIANCE = np.array([0.05, 0.2, 0.5, 0.9]).reshape(2, 2, 1)


def steps(num):
    """Transitions whose log-SNR goes evenly from -4 to 4, in closed form."""
    half = np.linspace(-4.0, 4.0, num + 1)
    signal, noise = (np.sqrt(1 / (1 + np.exp(sign * 2 * half))) for sign in (-1, 1))
    fresh = -np.expm1(-2 * np.diff(half))  # share of sigma_s^2 that is new noise
    for i in range(num):
        known = {
            "signal_t": signal[i],
            "noise_t": noise[i],
            "signal_s": signal[i + 1],
            "noise_s": noise[i + 1],
            "mean_z0": signal[i + 1] * fresh[i],
            "mean_u": noise[i + 1] / noise[i] * np.sqrt(1 - fresh[i]),
            "variance": noise[i + 1] ** 2 * fresh[i],
            "log_variance_min": np.log(noise[i + 1] ** 2 * fresh[i]),
            "log_variance_max": np.log(noise[i + 1] ** 2 * fresh[i]),
            "drift_t": {},
            "drift_s": {},
        }
        fields = [f.name for f in dataclasses.fields(Transition)]
        yield Transition(**{name: known.get(name) for name in fields})


def law_error(name, num):
    """Greatest relative error of a walk's deviation at the end.

    All is linear: of each noise, the first and those of the steps, one row tells what
    becomes of it, and variances add up.
    """
    step, before = solvers.build_step(name, 0.0), None
    u = jnp.zeros((num + 1, *VARIANCE.shape))
    for i, transition in enumerate(steps(num)):
        total = transition.signal_t**2 * VARIANCE + transition.noise_t**2
        u = u.at[0].set(np.sqrt(total)) if i == 0 else u
        z0 = (transition.signal_t * VARIANCE / total)[None] * u
        here = solvers.Point(transition, u, z0, {})
        noise = jnp.zeros_like(u).at[i + 1].set(1.0)
        u = step(here, before or here, i, jnp.zeros_like(u), noise)
        before = here
    law = np.sqrt(transition.signal_s**2 * VARIANCE + transition.noise_s**2)
    return float(np.abs(jnp.sqrt((u**2).sum(0)) / law - 1).max())


def test_its_error_falls_by_order_two_and_that_of_ancestral_steps_by_one(x64):
    errors = [law_error("dpmpp_2m_sde", num) for num in (32, 64, 128)]
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.3 * errors[1]
    first_order = [law_error("ancestral", num) for num in (32, 64, 128)]
    assert 0.45 < first_order[2] / first_order[1] < 0.6
    assert errors[2] < 0.05 * first_order[2]


@pytest.mark.parametrize("i", [0, 3])
def test_its_first_step_is_ancestral_and_so_is_its_last(i):
    """There is no line of two z_0 before it, and none to where log-SNR is infinite."""
    transition = list(steps(4))[i]
    if i:
        transition = dataclasses.replace(transition, signal_s=1.0, noise_s=0.0)
    keys = jax.random.split(jax.random.key(0), 4)
    u, z0, earlier, noise = (jax.random.normal(k, (1, 2, 2, 1)) for k in keys)
    here = solvers.Point(transition, u, z0, {})
    before = here._replace(z0=earlier)
    found, wanted = (
        solvers.build_step(name, 0.0)(here, before, i, jnp.zeros_like(u), noise)
        for name in ("dpmpp_2m_sde", "ancestral")
    )
    np.testing.assert_array_equal(found, wanted)


def test_its_variance_is_beta_tilde_whatever_is_measured(x64):
    """Of another one its walk would solve no reverse SDE."""
    transition = next(steps(4))
    wider = dataclasses.replace(
        transition, log_variance_max=transition.log_variance_min + 1
    )
    keys = jax.random.split(jax.random.key(0), 3)
    u, z0, noise = (jax.random.normal(k, (1, 2, 2, 1)) for k in keys)
    step = solvers.build_step("dpmpp_2m_sde", 0.0)
    found, wanted = (
        step(here, here, 0, jnp.full_like(u, v), noise)
        for here, v in (
            (solvers.Point(wider, u, z0, {}), 0.7),
            (solvers.Point(transition, u, z0, {}), 0.0),
        )
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
