"""The measured reverse variance against laws that are known in closed form."""

import jax
import jax.numpy as jnp
import linear_gaussian as lg
import numpy as np
import pytest

from mt_diffusion.diffusion import aggregation, sampler, schedule, solvers, spacing
from mt_diffusion.diffusion.process import Process
from mt_diffusion.diffusion.variance import Z_0, Errors, places
from mt_diffusion.errors import UserError

VARIANCE = 0.05  # of every pixel


def alone(num_steps=1000):
    return Process(schedule.cosine(num_steps), aggregation.Aggregation({}))


def left(process, t):
    """Var[z_0 | z_t] of N(0, VARIANCE)."""
    a_bar = process.schedule.alpha_bar[t]
    return VARIANCE * (1 - a_bar) / (a_bar * VARIANCE + 1 - a_bar)


def errors_alone(process):
    """As measured at 60 of the times, without noise."""
    times = np.unique(spacing.respaced(process.schedule, 60, "log_snr")[:-1])
    return Errors((Z_0,), times, left(process, times)[:, None, None])


@pytest.mark.parametrize("num_steps", [4, 25, 250])
def test_walks_of_any_length_leave_the_true_variance(num_steps):
    """Beta_tilde leaves less, beta more; in 25 steps a quarter less and more."""
    process = alone()
    times = spacing.respaced(process.schedule, num_steps)

    def denoise(v):
        def at(z_t, step, is_first, guesses):
            total = step.signal_t**2 * VARIANCE + step.noise_t**2
            z0 = step.signal_t * VARIANCE / total * z_t
            return sampler.Denoised(z0, jnp.full_like(z_t, v[step.t]), {}, guesses, {})

        return at

    def drawn(word):
        v = jnp.asarray(places(word, errors_alone(process), process, times))
        found = sampler.sample(
            keys=jax.random.split(jax.random.key(0), 500),
            shape=(4, 4, 1),
            denoise=denoise(v),
            process=process,
            times=times,
            step=solvers.ancestral,
            restrict=lambda z0: z0,
        )
        return float(np.var(np.asarray(found.z0, np.float64))) / VARIANCE

    spread = np.sqrt(2 / (500 * 16))
    assert abs(drawn("measured") - 1) < 4 * spread + 0.005
    assert drawn("beta_tilde") < 1 - 4 * spread
    if num_steps < 250:
        assert drawn("beta") > 1 + 4 * spread


def test_both_parts_of_the_mean_count():
    """With a guess: the mean over pixels of Var[z_{t-1} | z_t], by brute force."""
    process = lg.make_process(30)
    network = lg.optimum(process, reads_x=False)
    times = np.arange(1, 31)
    moments = []
    for t in times:
        _, z_t, eps, x, cov = lg.moments(process, t)
        z0 = np.eye(len(cov))[: lg.D]
        a_bar = process.schedule.alpha_bar[t]
        tilde = process.aggregation.alpha_tilde["x"][t]
        told = network.J[t] @ z_t
        signal, noise = np.sqrt(a_bar), np.sqrt(1 - a_bar)
        found = network.K[t][:, : lg.D] @ z_t  # of the noise, so that of z_0 follows
        z0_found = (z_t - tilde * lg.CODE @ told - noise * found) / signal
        wrong = np.stack([z0_found - z0, lg.CODE @ (told - x)])
        moments.append(np.einsum("rdk,kl,qdl->rq", wrong, cov, wrong) / lg.D)
    errors = Errors((Z_0, "x"), times, np.stack(moments))
    step = process.transition(times, times - 1)
    variance = errors.variance(process, step)
    np.testing.assert_allclose(variance, network.variance[1:].mean(axis=1))
    assert np.all(variance > step.variance)
    # Where x is known, its part is none.
    known = errors.variance(process, step, known={"x"})
    alone = step.variance + step.mean_z0**2 * np.stack(moments)[:, 0, 0]
    np.testing.assert_allclose(known, alone)


def test_between_the_times_that_were_measured():
    process = alone()
    times = spacing.respaced(process.schedule, 25)
    step = process.transition(times[:-1], times[1:])
    true = step.variance + step.mean_z0**2 * left(process, times[:-1])
    found = errors_alone(process).variance(process, step)
    np.testing.assert_allclose(found, true, rtol=0.01)


def test_what_was_not_measured_is_beta_tilde():
    process = alone(8)
    times = np.arange(8, -1, -1)
    for word, v in (("measured", -1), ("beta_tilde", -1), ("beta", 1)):
        np.testing.assert_array_equal(places(word, None, process, times)[1:], v)


def test_files_keep_all_of_it():
    errors = errors_alone(alone())
    again = Errors.of_json(errors.as_json())
    assert again.names == errors.names
    np.testing.assert_array_equal(again.moments, errors.moments)
    for broken in ({}, errors.as_json() | {"moments": [[1.0]]}):
        with pytest.raises((KeyError, ValueError)):
            Errors.of_json(broken)
    nan = errors.as_json() | {"moments": np.full((len(errors.times), 1, 1), np.nan)}
    with pytest.raises(ValueError, match="finite"):
        Errors.of_json(nan)


def test_an_unknown_variance_is_refused():
    from mt_diffusion.diffusion import variance

    with pytest.raises(UserError, match="'best'.*measured.*beta_tilde"):
        variance.check("best")
