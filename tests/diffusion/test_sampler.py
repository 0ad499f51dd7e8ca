"""Samplers against exact solutions: a Gaussian target has an exact denoiser."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import aggregation, sampler, schedule, solvers, spacing
from mt_diffusion.diffusion.process import Process, Transition
from mt_diffusion.errors import UserError

NUM = 4000
SECOND_ORDER = {"dpmpp_2m": solvers.multistep, "dpmpp_2s": solvers.singlestep}
SHAPE = (2, 2, 1)
MEAN = np.array([0.5, -0.2, 0.0, 0.8]).reshape(SHAPE)
VARIANCE = np.array([0.05, 0.2, 0.5, 0.9]).reshape(SHAPE)
CODE = np.array([1.0, -1.0, 2.0, 0.0], np.float32).reshape(SHAPE)
CODES = {"x": jnp.broadcast_to(CODE, (NUM, *SHAPE))}


def process(scale=3.0):
    table = schedule.cosine(1000)
    tilde = {"x": aggregation.weights("x", "ramp", scale, table)}
    return Process(table, aggregation.Aggregation(tilde))


def exact_denoiser(given):
    """E[z_0 | z_t] and the true variance of each step, as the v that expresses it."""

    def denoise(z_t, step, is_first, guesses):
        u_t = step.to_comoving(z_t, CODES)
        total = step.signal_t**2 * VARIANCE + step.noise_t**2
        gain = step.signal_t * VARIANCE / total
        z0 = MEAN[None] + gain[None] * (u_t - step.signal_t * MEAN[None])
        left = VARIANCE * step.noise_t**2 / total  # Var[z_0 | u_t]
        log_variance = jnp.log(step.variance + step.mean_z0**2 * left)
        low, high = step.log_variance_min, step.log_variance_max
        v = 2 * (log_variance - low) / (high - low) - 1
        values = {"x": jnp.zeros((z_t.shape[0], 1))} | given
        v = jnp.broadcast_to(v, z_t.shape)
        return sampler.Denoised(z0, v, values, guesses, CODES)

    return denoise


def draw(step, num_steps, given=None, restrict=lambda z0: z0, seed=0):
    aggregated = process()
    times = spacing.respaced(aggregated.schedule, num_steps)
    keys = jax.random.split(jax.random.key(seed), NUM)
    run = jax.jit(
        lambda keys, given: sampler.sample(
            keys=keys,
            shape=SHAPE,
            denoise=exact_denoiser(given),
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
    times = spacing.respaced(aggregated.schedule, num_steps)
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
    z0 = draw(solvers.build_step(name, 0.0), num_steps).z0
    z0 = np.asarray(z0, np.float64).reshape(NUM, -1)
    error = (z0.mean(0) - MEAN.ravel()) / np.sqrt(variance / NUM)
    assert np.abs(error).max() < 4
    expected = np.diag(variance)
    spread = np.sqrt((np.outer(variance, variance) + expected**2) / NUM)
    assert np.abs((np.cov(z0.T) - expected) / spread).max() < 4


def flow_error(step, num):
    """Greatest relative error of the flow of a Gaussian, log-SNR evenly from -4 to 4.

    Exactly, the flow scales the distance from the mean by the ratio of deviations.
    """
    lambdas = jnp.linspace(-4.0, 4.0, num + 1)
    signal, noise = (jnp.sqrt(jax.nn.sigmoid(x * 2 * lambdas)) for x in (1, -1))
    unused = dict.fromkeys(f.name for f in dataclasses.fields(Transition))
    unused |= dict(drift_t={}, drift_s={})
    u = jnp.ones((1, *SHAPE))
    before = None
    for i in range(num):
        ends = dict(signal_t=signal[i], noise_t=noise[i])
        ends |= dict(signal_s=signal[i + 1], noise_s=noise[i + 1], variance=0.0)
        total = signal[i] ** 2 * VARIANCE + noise[i] ** 2
        z0 = (signal[i] * VARIANCE / total)[None] * u
        here = solvers.Point(Transition(**(unused | ends)), u, z0, {})
        u = step(here, before or here, i, jnp.zeros_like(u), jnp.zeros_like(u))
        before = here
    first, last = (
        np.sqrt(float(signal[i]) ** 2 * VARIANCE + float(noise[i]) ** 2)
        for i in (0, -1)
    )
    return float(np.abs(np.asarray(u[0]) * first / last - 1).max())


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2s"])
def test_the_error_of_second_order_solvers_falls_by_order_two(name, x64):
    errors = [flow_error(SECOND_ORDER[name], num) for num in (32, 64, 128)]
    assert errors[1] < 0.3 * errors[0] and errors[2] < 0.3 * errors[1]
    first_order = [flow_error(solvers.DDIM(0.0), num) for num in (64, 128)]
    assert 0.45 < first_order[1] / first_order[0] < 0.55
    assert errors[2] < 0.2 * first_order[1]


WEIGHTS, CENTRES = np.array([0.3, 0.7]), np.array([-0.8, 0.5])
SPREAD = 0.15  # standard deviation of both parts of the mixture, in every pixel


def mixture_denoiser(z_t, step, is_first, guesses):
    """E[z_0 | u_t] of a mixture of two Gaussians per pixel, with a known drift."""
    u_t = step.to_comoving(z_t, CODES)[..., None]
    total = step.signal_t**2 * SPREAD**2 + step.noise_t**2
    centres = CENTRES.reshape(1, 1, 1, 1, 2)
    distance = u_t - step.signal_t * centres
    logits = jnp.log(WEIGHTS).reshape(1, 1, 1, 1, 2) - distance**2 / (2 * total)
    # E[z_0 | u_t, part]
    part = centres + step.signal_t * SPREAD**2 / total * distance
    z0 = jnp.sum(jax.nn.softmax(logits) * part, axis=-1)
    values = {"x": jnp.zeros((z_t.shape[0], 1))}
    return sampler.Denoised(z0, -jnp.ones_like(z_t), values, guesses, CODES)


def mixture_errors(name, num_steps, word="even"):
    """Errors of mean, deviation and third central moment over all pixels of a draw."""
    aggregated = process()
    times = spacing.respaced(aggregated.schedule, num_steps, word)
    run = jax.jit(
        lambda keys: sampler.sample(
            keys=keys,
            shape=SHAPE,
            denoise=mixture_denoiser,
            process=aggregated,
            times=times,
            step=solvers.build_step(name, 0.0),
            restrict=lambda z0: z0,
        )
    )
    z0 = np.asarray(run(jax.random.split(jax.random.key(0), NUM)).z0, np.float64)
    mean = WEIGHTS @ CENTRES
    variance = WEIGHTS @ (CENTRES - mean) ** 2 + SPREAD**2
    third = WEIGHTS @ ((CENTRES - mean) ** 3 + 3 * (CENTRES - mean) * SPREAD**2)
    found = (z0.mean(), z0.std(), ((z0 - z0.mean()) ** 3).mean())
    return np.abs(np.array(found) - [mean, np.sqrt(variance), third])


@pytest.mark.parametrize(
    "name, word",
    [("dpmpp_2m", "even"), ("dpmpp_2m", "log_snr"), ("dpmpp_2s", "even")],
)
def test_20_steps_of_second_order_are_as_close_as_1000_ancestral(name, word):
    """To a Gaussian mixture's moments, the noise of 16,000 pixels aside.

    2S, whose 20 steps are 10 long ones, needs 40 of those even in log-SNR.
    """
    standard_errors = np.array([0.62, 0.4, 0.3]) / np.sqrt(NUM * 4)
    ancestral = mixture_errors("ancestral", 1000)
    found = mixture_errors(name, 20, word)
    print(name, "20 steps", found, "ancestral 1000 steps", ancestral)
    assert np.all(found < ancestral + 4 * standard_errors)


def test_ddim_with_eta_1_is_ancestral():
    aggregated = process()
    step = jax.tree.map(
        jnp.asarray, aggregated.transition(np.array([700]), np.array([40]))
    )
    keys = jax.random.split(jax.random.key(0), 3)
    u_t, z0, noise = (jax.random.normal(k, (1, 2, 2, 1)) for k in keys)
    v = -jnp.ones_like(z0)
    here = solvers.Point(step, u_t, z0, {})
    ddim = solvers.DDIM(1.0)(here, here, 0, v, noise)
    ancestral = solvers.ancestral(here, here, 0, v, noise)
    np.testing.assert_allclose(ddim, ancestral, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddim_is_guided_diffusions(name):
    reference = dict(np.load(f"tests/data/adm_diffusion_{name}1000.npz"))
    ddpm = Process(schedule.build(name, 1000), aggregation.Aggregation({}))
    t = reference["t_index"] + 1
    step = ddpm.transition(t, t - 1)
    x_t, eps = (jnp.asarray(reference[n]) for n in ("x_t", "eps_pred"))
    z0 = step.z0_from_eps(x_t, eps)
    here, zeros = solvers.Point(step, x_t, z0, {}), jnp.zeros_like(z0)
    found = solvers.DDIM(0.0)(here, here, 0, zeros, zeros)
    # At index 0 theirs multiplies by alpha_bar_{-1} = 1, so that case is in it, too.
    np.testing.assert_allclose(found, reference["ddim_eta0"], rtol=1e-5, atol=1e-5)


def test_known_pixels_come_back_to_the_bit():
    known = np.float32(0.123456)

    def restrict(z0):
        return z0.at[:, 0, 0].set(known)

    for step in (solvers.ancestral, solvers.DDIM(0.5), *SECOND_ORDER.values()):
        z0 = np.asarray(draw(step, 20, restrict=restrict).z0)
        assert np.all(z0[:, 0, 0] == known)
        assert np.std(z0[:, 1, 1]) > 0.5


def test_an_example_depends_on_its_own_key_alone():
    whole = np.asarray(draw(solvers.ancestral, 20).z0)
    again = np.asarray(draw(solvers.ancestral, 20).z0)
    other = np.asarray(draw(solvers.ancestral, 20, seed=1).z0)
    np.testing.assert_array_equal(whole, again)
    assert not np.any(whole == other)
    assert len(np.unique(whole.reshape(NUM, -1), axis=0)) == NUM


def test_values_are_those_of_the_last_step():
    given = {"x": jnp.full((NUM, 1), 7.0)}
    result = draw(solvers.ancestral, 20, given=given)
    np.testing.assert_array_equal(result.values["x"], given["x"])
    np.testing.assert_allclose(
        np.asarray(result.z0).mean(0), MEAN, atol=4 * np.sqrt(VARIANCE.max() / NUM)
    )
    generated = draw(solvers.ancestral, 20)
    np.testing.assert_array_equal(generated.values["x"], np.zeros((NUM, 1)))


@pytest.mark.parametrize("read_from", [1, 40, 1000])
def test_values_may_be_the_mean_of_several_times(read_from):
    aggregated = process()
    times = spacing.respaced(aggregated.schedule, 30)

    def denoise(z_t, step, is_first, guesses):
        values = {"x": jnp.full(1, step.t, jnp.float32)}
        return sampler.Denoised(z_t, -jnp.ones_like(z_t), values, guesses, {})

    found = sampler.sample(
        keys=jax.random.split(jax.random.key(0), 1),
        shape=SHAPE,
        denoise=denoise,
        process=aggregated,
        times=times,
        step=solvers.ancestral,
        restrict=lambda z0: z0,
        read_from=read_from,
    )
    expected = times[(times > 0) & (times <= read_from)].mean()
    np.testing.assert_allclose(found.values["x"], expected, rtol=1e-5)


def test_unknown_samplers_are_refused():
    with pytest.raises(UserError, match="'euler'.*ancestral"):
        solvers.build_step("euler", 0.0)
