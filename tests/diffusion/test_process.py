"""The aggregated process against the joint Gaussian that its definition makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import aggregation, schedule
from mt_diffusion.diffusion.process import Process

T = 12
Z0, CODES = 0.7, {"a": -0.4, "b": 1.3}


def random_process(seed):
    rng = np.random.default_rng(seed)
    table = schedule.from_betas(rng.uniform(0.02, 0.5, T))
    w = {name: rng.uniform(-1, 1, T + 1) for name in CODES}
    tilde = {name: aggregation.accumulate(w[name], table) for name in CODES}
    return Process(table, aggregation.Aggregation(tilde)), w


def joint_gaussian(table, w):
    """Mean and covariance of (z_1..z_T), straight from the definition (eq. 3).

    z_t = sqrt(alpha_t) (z_{t-1} + sum_i w_t E_i) + sqrt(1 - alpha_t) n_t.
    """
    mean, mix = np.zeros(T + 1), np.zeros((T + 1, T + 1))
    mean[0] = Z0
    for t in range(1, T + 1):
        push = sum(w[name][t] * CODES[name] for name in CODES)
        mean[t] = np.sqrt(table.alpha[t]) * (mean[t - 1] + push)
        mix[t] = np.sqrt(table.alpha[t]) * mix[t - 1]
        mix[t, t] = np.sqrt(1 - table.alpha[t])
    return mean, mix @ mix.T


def pixel(x):
    return jnp.full((1, 1, 1, 1), x)


@pytest.mark.parametrize("seed", range(5))
def test_marginals_and_all_posteriors_match_brute_force(seed, x64):
    process, w = random_process(seed)
    mean, cov = joint_gaussian(process.schedule, w)
    codes = {name: pixel(value) for name, value in CODES.items()}
    for t in range(1, T + 1):
        found, variance = process.marginal(pixel(Z0), codes, jnp.array([t]))
        np.testing.assert_allclose(found.item(), mean[t], atol=1e-10)
        np.testing.assert_allclose(variance.item(), cov[t, t], atol=1e-10)
        for s in range(t):
            z_t = mean[t] + 0.9
            gain = cov[s, t] / cov[t, t]
            step = process.transition(t, s)
            u_t = step.to_comoving(pixel(z_t), codes)
            u_s = step.posterior_mean(u_t, pixel(Z0))
            found = step.from_comoving(u_s, codes)
            np.testing.assert_allclose(found.item(), mean[s] + gain * 0.9, atol=1e-10)
            expected = cov[s, s] - gain * cov[s, t]
            np.testing.assert_allclose(step.variance, expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_papers_two_forms_of_the_posterior_mean(seed, x64):
    process, w = random_process(seed)
    table, tilde = process.schedule, process.aggregation.alpha_tilde
    a, a_bar = table.alpha, table.alpha_bar
    codes = {name: pixel(value) for name, value in CODES.items()}
    z_t, eps = 0.3, -1.1
    for t in range(1, T + 1):
        step = process.transition(t, t - 1)
        u_t = step.to_comoving(pixel(z_t), codes)
        z0 = step.z0_from_eps(u_t, pixel(eps))
        mean = step.from_comoving(step.posterior_mean(u_t, z0), codes).item()

        from_eps = (z_t - (1 - a[t]) / np.sqrt(1 - a_bar[t]) * eps) / np.sqrt(a[t])
        from_eps -= sum(w[n][t] * CODES[n] for n in CODES)
        np.testing.assert_allclose(mean, from_eps, atol=1e-10)

        from_z0 = np.sqrt(a[t]) * (1 - a_bar[t - 1]) * z_t
        from_z0 += (1 - a[t]) * np.sqrt(a_bar[t - 1]) * z0.item()
        for n in CODES:
            weight = (1 - a[t]) * tilde[n][t] / np.sqrt(a[t]) - (1 - a_bar[t]) * w[n][t]
            from_z0 += weight * CODES[n]
        np.testing.assert_allclose(mean, from_z0 / (1 - a_bar[t]), atol=1e-10)


def test_eps_and_z0_are_two_ways_to_say_the_same(x64):
    process, _ = random_process(0)
    step = process.transition(np.array([3, 9]), np.array([1, 0]))
    keys = jax.random.split(jax.random.key(0))
    u_t, eps = (jax.random.normal(k, (2, 3, 3, 2)) for k in keys)
    back = step.eps_from_z0(u_t, step.z0_from_eps(u_t, eps))
    np.testing.assert_allclose(back, eps, atol=1e-10)


def test_diffuse_draws_from_the_marginal():
    process, _ = random_process(1)
    shape = (4000, 2, 2, 1)
    codes = {name: jnp.full(shape, value) for name, value in CODES.items()}
    t = jnp.full(shape[0], 7)
    eps = jax.random.normal(jax.random.key(0), shape)
    z_t = process.diffuse(jnp.full(shape, Z0), codes, t, eps)
    mean, variance = process.marginal(jnp.full(shape, Z0), codes, t)
    sigma = float(jnp.sqrt(variance[0, 0, 0, 0]))
    np.testing.assert_allclose(z_t, mean + sigma * eps, atol=1e-5)
    assert abs(float(eps.mean())) < 4 / np.sqrt(eps.size)
    assert float(eps.var()) == pytest.approx(1, abs=4 * np.sqrt(2 / eps.size))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_without_modalities_it_is_guided_diffusions_ddpm(name):
    reference = dict(np.load(f"tests/data/adm_diffusion_{name}1000.npz"))
    process = Process(schedule.build(name, 1000), aggregation.Aggregation({}))
    times = np.arange(1, 1001)
    table = process.transition(times, times - 1)
    for ours, theirs in {
        "variance": "posterior_variance",
        "log_variance_min": "posterior_log_variance_clipped",
        "mean_z0": "posterior_mean_coef1",
        "mean_u": "posterior_mean_coef2",
    }.items():
        expected = reference[theirs]
        np.testing.assert_allclose(getattr(table, ours), expected, rtol=1e-10)

    t = reference["t_index"] + 1
    step = process.transition(t, t - 1)
    x_t, x0, eps = (jnp.asarray(reference[n]) for n in ("x_t", "x0", "eps_pred"))
    mean, variance = process.marginal(x0, {}, jnp.asarray(t))
    close = {"atol": 1e-5, "rtol": 1e-5}
    noised = mean + jnp.sqrt(variance) * reference["noise"]
    np.testing.assert_allclose(noised, x_t, **close)
    z0 = step.z0_from_eps(x_t, eps)
    np.testing.assert_allclose(z0, reference["x0_pred"], **close)
    np.testing.assert_allclose(step.posterior_mean(x_t, z0), reference["mean"], **close)
    np.testing.assert_allclose(
        step.posterior_mean(x_t, jnp.clip(z0, -1, 1)),
        reference["mean_clipped"],
        **close,
    )
    true = step.posterior_mean(x_t, x0)
    np.testing.assert_allclose(true, reference["posterior_mean"], **close)
    v = jnp.asarray(reference["var_pred"])
    np.testing.assert_allclose(step.log_variance(v), reference["log_variance"], **close)
