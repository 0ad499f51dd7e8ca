"""The measured reverse variance against laws that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from mt_diffusion.diffusion import (
    aggregation,
    sampler,
    schedule,
    solvers,
    spacing,
    variance,
)
from mt_diffusion.diffusion.process import Process
from mt_diffusion.diffusion.variance import Z_0, Errors, places, regressed
from mt_diffusion.errors import UserError
from mt_diffusion.inference import believer
from tests.diffusion import linear_gaussian as lg

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
    return plain((Z_0,), times, left(process, times)[:, None, None])


def plain(names, times, moments):
    """Errors of z_0 that is read as it is."""
    nothing = np.zeros((len(times), 1, 1, 1))
    slopes = np.ones(len(times))
    return Errors(names, times, moments, slopes, nothing, nothing[0])


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
    errors = plain((Z_0, "x"), times, np.stack(moments))
    step = process.transition(times, times - 1)
    best = errors.variance(process, step)
    np.testing.assert_allclose(best, network.variance[1:].mean(axis=1))
    assert np.all(best > step.variance)
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
    again = Errors.of_arrays(errors.as_arrays())
    assert again.names == errors.names
    np.testing.assert_array_equal(again.moments, errors.moments)
    whole = errors.as_arrays()
    for broken in (
        {},
        whole | {"moments": np.ones((1, 1))},
        whole | {"mean": np.zeros((2, 2, 1))},
    ):
        with pytest.raises((KeyError, ValueError)):
            Errors.of_arrays(broken)
    with pytest.raises(ValueError, match="finite"):
        Errors.of_arrays(whole | {"slopes": np.full(len(errors.times), np.nan)})


def biased(rng, num, process, times):
    """(data's z_0, what a model sees of it at each t): too bright, too flat, noisy."""
    z0 = 0.3 + 0.2 * rng.standard_normal((num, 2, 2, 1))
    noise = rng.standard_normal((len(times), num, 2, 2, 1))
    seen = 0.5 + 0.6 * (z0 - 0.3) + 0.1 * noise
    return z0, np.broadcast_to(seen, noise.shape)


def summed(z0, seen, codes=()):
    """Products and means of the rows, as calibration sums them up."""
    rows = [np.broadcast_to(z0, seen.shape), seen, *codes]
    rows = np.stack(rows, axis=1)  # [G, R + 1, N, H, W, C]
    products = np.einsum("ganhwc,gbnhwc->gab", rows, rows) / seen[0].size
    return products, rows.mean(axis=2)


def test_z0_is_read_by_the_regression_on_it():
    """Slope and mean error by numpy's least squares; the rest has no bias."""
    process, rng = alone(), np.random.default_rng(0)
    times = np.array([10, 500, 1000])
    z0, seen = biased(rng, 4000, process, times)
    errors = regressed((Z_0,), times, *summed(z0, seen), correct=True)
    for g in range(3):
        x = (seen[g] - seen[g].mean(axis=0)).ravel()
        y = (z0 - z0.mean(axis=0)).ravel()
        slope, residual = np.linalg.lstsq(x[:, None], y, rcond=None)[:2]
        np.testing.assert_allclose(errors.slopes[g], slope[0])
        np.testing.assert_allclose(errors.moments[g, 0, 0], residual[0] / y.size)
    how = believer.readings(correcting(), errors, process)
    for t, model in zip(times, seen, strict=True):
        every = jnp.full(4000, t)
        read = believer.read_anew(jnp.asarray(model, jnp.float32), every, how)
        np.testing.assert_allclose(read.mean(axis=0), z0.mean(axis=0), atol=1e-4)
        square = np.mean((np.asarray(read) - z0) ** 2)
        assert square < 0.75 * np.mean((model - z0) ** 2)


def correcting(word="measured"):
    settings = common.get_config("digits").sampling
    settings.correction = word
    return settings


def test_codes_errors_stay_and_their_products_follow_z0():
    process, rng = alone(), np.random.default_rng(1)
    times = np.array([10, 1000])
    z0, seen = biased(rng, 3000, process, times)
    code = 0.1 + 0.5 * (seen - 0.3) + 0.2 * rng.standard_normal(seen.shape)
    products, means = summed(z0, seen, [code])
    corrected = regressed((Z_0, "x"), times, products, means, correct=True)
    plainly = regressed((Z_0, "x"), times, products, means, correct=False)
    mean = lambda a, b: (a * b).sum() / seen[0].size  # noqa: E731
    for g in range(2):
        wrong = seen[g] - z0
        read = z0.mean(0) + corrected.slopes[g] * (seen[g] - seen[g].mean(0))
        for errors, of_z0 in ((plainly, wrong), (corrected, read - z0)):
            found = errors.moments[g]
            np.testing.assert_allclose(found[0, 0], mean(of_z0, of_z0))
            np.testing.assert_allclose(found[0, 1], mean(of_z0, code[g]))
            np.testing.assert_allclose(found[1, 1], mean(code[g], code[g]))
    assert believer.readings(correcting("none"), corrected, process) is None
    assert believer.readings(correcting(), None, process) is None
    how = believer.readings(correcting(), plainly, process)
    z0 = jnp.asarray(z0[:2], jnp.float32)
    np.testing.assert_allclose(believer.read_anew(z0, jnp.array([3, 700]), how), z0)


def test_unknown_words_are_refused():
    with pytest.raises(UserError, match="variance is 'best'.*measured.*beta_tilde"):
        variance.check("best", "none")
    with pytest.raises(UserError, match="correction is 'best'.*measured.*none"):
        variance.check("beta", "best")
