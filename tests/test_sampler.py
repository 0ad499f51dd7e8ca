"""Samplers against exact solutions: a Gaussian target has an exact denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import aggregation, sampler, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError

NUM = 4000
SHAPE = (2, 2, 1)
MEAN = np.array([0.5, -0.2, 0.0, 0.8]).reshape(SHAPE)
VARIANCE = np.array([0.05, 0.2, 0.5, 0.9]).reshape(SHAPE)
CODE = np.array([1.0, -1.0, 2.0, 0.0], np.float32).reshape(SHAPE)
CODES = {"x": jnp.broadcast_to(CODE, (NUM, *SHAPE))}


def process(scale=3.0):
    table = schedule.cosine(1000)
    tilde = {"x": aggregation.weights("x", "ramp", scale, table)}
    return Process(table, aggregation.Aggregation(tilde))


def exact_denoiser(process, times, given):
    """E[eps | z_t] and the true variance of each step, as the v that expresses it."""
    table = jax.tree.map(jnp.asarray, process.transition(times[:-1], times[1:]))

    def denoise(z_t, t):
        step = jax.tree.map(lambda x: x[jnp.argmax(table.t == t[0])], table)
        u_t = step.to_comoving(z_t, CODES)
        total = step.signal_t**2 * VARIANCE + step.noise_t**2
        eps = step.noise_t * (u_t - step.signal_t * MEAN[None]) / total[None]
        left = VARIANCE * step.noise_t**2 / total  # Var[z_0 | u_t]
        log_variance = jnp.log(step.variance + step.mean_z0**2 * left)
        low, high = step.log_variance_min, step.log_variance_max
        v = 2 * (log_variance - low) / (high - low) - 1
        values = {"x": jnp.zeros((z_t.shape[0], 1))} | given
        return sampler.Denoised(eps, jnp.broadcast_to(v, z_t.shape), values, CODES)

    return denoise


def draw(step, num_steps, given=None, restrict=lambda z0: z0, seed=0):
    aggregated = process()
    times = aggregated.schedule.respaced(num_steps)
    keys = jax.random.split(jax.random.key(seed), NUM)
    run = jax.jit(
        lambda keys, given: sampler.sample(
            keys=keys,
            shape=SHAPE,
            denoise=exact_denoiser(aggregated, times, given),
            process=aggregated,
            times=times,
            step=step,
            restrict=restrict,
        )
    )
    return run(keys, given or {})


def ddim_variance(num_steps):
    """Variance that DDIM's linear map leaves of unit noise at T, in closed form."""
    aggregated = process()
    scale = np.ones(SHAPE)
    times = aggregated.schedule.respaced(num_steps)
    signal = np.sqrt(aggregated.schedule.alpha_bar)
    noise = np.sqrt(1 - aggregated.schedule.alpha_bar)
    for t, s in zip(times[:-1], times[1:], strict=True):
        total = signal[t] ** 2 * VARIANCE + noise[t] ** 2
        covariance = signal[t] * signal[s] * VARIANCE + noise[t] * noise[s]
        scale *= covariance / total
    return scale**2


@pytest.mark.parametrize("num_steps", [50, 1000])
@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_samplers_reproduce_a_gaussian(name, num_steps):
    """Mean and covariance within 4 standard errors of Monte Carlo.

    Ancestral sampling with the exact variance is exact in any number of steps; DDIM is
    an ODE solver, whose error is known, and small, and shrinks.
    """
    variance = VARIANCE.ravel()
    if name == "ddim":
        variance = ddim_variance(num_steps).ravel()
        bias = np.abs(variance / VARIANCE.ravel() - 1).max()
        assert bias < {50: 0.15, 1000: 0.01}[num_steps]
    z0 = draw(sampler.build_step(name, 0.0), num_steps).z0
    z0 = np.asarray(z0, np.float64).reshape(NUM, -1)
    error = (z0.mean(0) - MEAN.ravel()) / np.sqrt(variance / NUM)
    assert np.abs(error).max() < 4
    expected = np.diag(variance)
    spread = np.sqrt((np.outer(variance, variance) + expected**2) / NUM)
    assert np.abs((np.cov(z0.T) - expected) / spread).max() < 4


def test_ddim_with_eta_1_is_ancestral():
    aggregated = process()
    step = jax.tree.map(
        jnp.asarray, aggregated.transition(np.array([700]), np.array([40]))
    )
    keys = jax.random.split(jax.random.key(0), 3)
    u_t, z0, noise = (jax.random.normal(k, (1, 2, 2, 1)) for k in keys)
    v = -jnp.ones_like(z0)
    ddim = sampler.DDIM(1.0)(step, u_t, z0, v, noise)
    ancestral = sampler.ancestral(step, u_t, z0, v, noise)
    np.testing.assert_allclose(ddim, ancestral, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_is_guided_diffusions(name):
    reference = np.load(f"tests/data/adm_diffusion_{name}1000.npz")
    ddpm = Process(schedule.build(name, 1000), aggregation.Aggregation({}))
    t = reference["t_index"] + 1
    step = ddpm.transition(t, t - 1)
    x_t, eps = (jnp.asarray(reference[n]) for n in ("x_t", "eps_pred"))
    z0 = step.z0_from_eps(x_t, eps)
    found = sampler.DDIM(0.0)(step, x_t, z0, jnp.zeros_like(z0), jnp.zeros_like(z0))
    # At index 0 theirs multiplies by alpha_bar_{-1} = 1, so that case is in it, too.
    np.testing.assert_allclose(found, reference["ddim_eta0"], rtol=1e-5, atol=1e-5)


def test_known_pixels_come_back_to_the_bit():
    known = np.float32(0.123456)

    def restrict(z0):
        return z0.at[:, 0, 0].set(known)

    for step in (sampler.ancestral, sampler.DDIM(0.5)):
        z0 = np.asarray(draw(step, 20, restrict=restrict).z0)
        assert np.all(z0[:, 0, 0] == known)
        assert np.std(z0[:, 1, 1]) > 0.5


def test_an_example_depends_on_its_own_key_alone():
    whole = np.asarray(draw(sampler.ancestral, 20).z0)
    again = np.asarray(draw(sampler.ancestral, 20).z0)
    other = np.asarray(draw(sampler.ancestral, 20, seed=1).z0)
    np.testing.assert_array_equal(whole, again)
    assert not np.any(whole == other)
    assert len(np.unique(whole.reshape(NUM, -1), axis=0)) == NUM


def test_values_are_those_of_the_last_step():
    given = {"x": jnp.full((NUM, 1), 7.0)}
    result = draw(sampler.ancestral, 20, given=given)
    np.testing.assert_array_equal(result.values["x"], given["x"])
    np.testing.assert_allclose(
        np.asarray(result.z0).mean(0), MEAN, atol=4 * np.sqrt(VARIANCE.max() / NUM)
    )
    generated = draw(sampler.ancestral, 20)
    np.testing.assert_array_equal(generated.values["x"], np.zeros((NUM, 1)))


def test_unknown_samplers_are_refused():
    with pytest.raises(UserError, match="'euler'.*ancestral"):
        sampler.build_step("euler", 0.0)
