"""What a network predicts, against the formulas that each is defined by."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, image_label, masked_image
from mt_diffusion.diffusion import aggregation, prediction, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.training import weighting

T = 12
SHAPE = (T, 2, 2, 1)
ALL = pytest.mark.parametrize("name", prediction.PREDICTIONS)


def column(x):
    return np.asarray(x).reshape(-1, 1, 1, 1)


def draw(seed, num):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(rng.normal(size=SHAPE)) for _ in range(num))


def make_process(drifts=("a", "b")):
    """With arbitrary noise and arbitrary drifts."""
    rng = np.random.default_rng(0)
    table = schedule.from_betas(rng.uniform(0.02, 0.5, T))
    w = {name: rng.uniform(-1, 1, T + 1) for name in drifts}
    tilde = {name: aggregation.accumulate(w[name], table) for name in drifts}
    return Process(table, aggregation.Aggregation(tilde)), w


TIMES = np.arange(1, T + 1)  # an example of each


@ALL
@pytest.mark.parametrize("seed", range(3))
def test_the_target_is_the_output_whose_z0_is_true(name, seed, x64):
    """For any frame f_t, and any drift."""
    process, _ = make_process()
    z0, eps, frame, *latents = draw(seed, 5)
    codes = dict(zip("ab", latents, strict=True))
    z_t = process.diffuse(z0, codes, jnp.asarray(TIMES), eps)
    step = process.transition(TIMES, TIMES - 1)
    u_t, y_t = step.to_comoving(z_t, codes), z_t - frame
    meant = prediction.build(name)
    out = meant.target(step, y_t, z0, eps)
    np.testing.assert_allclose(meant.z0(step, y_t, u_t, out), z0, atol=1e-10)
    # And of any output, the target of the z_0 that it means.
    (other,) = draw(seed + 10, 1)
    found = meant.z0(step, y_t, u_t, other)
    implied = step.eps_from_z0(u_t, found)
    again = meant.target(step, y_t, found, implied)
    np.testing.assert_allclose(again, other, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_what_they_are_defined_as(seed, x64):
    """n_t = eps + (d_t - f_t) / sigma_t, v_t = sqrt(alpha_bar_t) n_t - sigma_t z_0."""
    process, _ = make_process()
    z0, eps, frame, *latents = draw(seed, 5)
    codes = dict(zip("ab", latents, strict=True))
    z_t = process.diffuse(z0, codes, jnp.asarray(TIMES), eps)
    tilde, a_bar = process.aggregation.alpha_tilde, process.schedule.alpha_bar[TIMES]
    signal, noise = column(np.sqrt(a_bar)), column(np.sqrt(1 - a_bar))
    drift = sum(column(tilde[n][TIMES]) * codes[n] for n in codes)
    aggregate = eps + (drift - frame) / noise
    expected = {
        "aggregate": aggregate,
        "eps": eps,
        "v": signal * aggregate - noise * z0,
    }
    step = process.transition(TIMES, TIMES - 1)
    for name, right in expected.items():
        found = prediction.build(name).target(step, z_t - frame, z0, eps)
        np.testing.assert_allclose(found, right, atol=1e-10)


@pytest.mark.parametrize("adm", ["linear", "cosine"])
def test_without_frame_and_modality_all_are_ddpms(adm, x64):
    """guided-diffusion's noise and z_0, and v by Salimans & Ho's own formulas."""
    data = dict(np.load(f"tests/data/adm_diffusion_{adm}1000.npz"))
    table = schedule.build(adm, 1000)
    process = Process(table, aggregation.Aggregation({}))
    t = data["t_index"] + 1
    step = process.transition(t, t - 1)
    x0, x_t, noise, eps = (
        jnp.asarray(data[n], float) for n in ("x0", "x_t", "noise", "eps_pred")
    )
    a_bar = table.alpha_bar[t]
    signal, sigma = column(np.sqrt(a_bar)), column(np.sqrt(1 - a_bar))
    z0 = (x_t - sigma * eps) / signal
    np.testing.assert_allclose(z0, data["x0_pred"], rtol=1e-4, atol=1e-4)
    close = dict(rtol=1e-7, atol=1e-7)
    for name in ("aggregate", "eps"):
        meant = prediction.build(name)
        np.testing.assert_allclose(meant.z0(step, x_t, x_t, eps), z0, **close)
        target = meant.target(step, x_t, x0, noise)
        np.testing.assert_allclose(target, noise, rtol=1e-4, atol=1e-4)
    meant, v = prediction.build("v"), signal * eps - sigma * z0
    np.testing.assert_allclose(meant.z0(step, x_t, x_t, v), z0, **close)
    target = meant.target(step, x_t, x0, noise)
    expected = signal * noise - sigma * x0
    np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_theorem_1_of_the_aggregate_noise(seed, x64):
    """Its means differ by what is wrong in n_theta and in every guess.

    -k_t (n - n_theta) + sum_i (k_t alpha_tilde_t / sigma_t - w_t) (E(x_i) - E(x^_i)),
    k_t = (1 - alpha_t) / sqrt(alpha_t (1 - alpha_bar_t)).
    """
    process, w = make_process()
    z0, eps, frame, out, *latents = draw(seed, 8)
    codes, guesses = (
        dict(zip("ab", some, strict=True)) for some in (latents[:2], latents[2:])
    )
    z_t = process.diffuse(z0, codes, jnp.asarray(TIMES), eps)
    step = process.transition(TIMES, TIMES - 1)
    meant, y_t = prediction.build("aggregate"), z_t - frame

    def mean(z0, codes):
        u_t = step.to_comoving(z_t, codes)
        return step.from_comoving(step.posterior_mean(u_t, z0), codes)

    found = mean(z0, codes) - mean(
        meant.z0(step, y_t, step.to_comoving(z_t, guesses), out), guesses
    )
    alpha, a_bar = process.schedule.alpha[TIMES], process.schedule.alpha_bar[TIMES]
    k = (1 - alpha) / np.sqrt(alpha * (1 - a_bar))
    wrong = meant.target(step, y_t, z0, eps) - out
    expected = -column(k) * wrong
    for n in codes:
        tilde = process.aggregation.alpha_tilde[n][TIMES]
        push = column(k * tilde / np.sqrt(1 - a_bar) - w[n][TIMES])
        expected += push * (codes[n] - guesses[n])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@ALL
def test_the_z0_of_a_frame_does_not_depend_on_a_guess(name):
    """That of eps takes over its error, alpha_tilde_t / sqrt(alpha_bar_t) times it."""
    process, _ = make_process()
    z_t, out, one, other = draw(0, 4)
    step = process.transition(TIMES, TIMES - 1)
    first, second = (
        prediction.build(name).z0(step, z_t, step.to_comoving(z_t, {"a": x}), out)
        for x in (one, other)
    )
    if prediction.build(name).uses_frame:
        np.testing.assert_array_equal(first, second)
        return
    tilde, a_bar = process.aggregation.alpha_tilde["a"], process.schedule.alpha_bar
    by = column(tilde[TIMES] / np.sqrt(a_bar[TIMES]))
    np.testing.assert_allclose(first - second, by * (other - one), atol=1e-4)


@ALL
@pytest.mark.parametrize("kind", ["min_snr", "p2"])
def test_weights_are_of_the_error_of_z0_whatever_is_predicted(name, kind, x64):
    """w_t (out - target)^2 = min(SNR, gamma) (z_0 error)^2, or SNR (1 + SNR)^-gamma."""
    settings = common.digits().objective
    settings.update(weighting=kind, min_snr_gamma=0.3)
    process, _ = make_process()
    meant = prediction.build(name)
    weights = weighting.build(settings, process.schedule, meant)
    assert weights.dtype == np.float64 and weights.shape == (T + 1,)
    z0, eps, frame, code, out = draw(1, 5)
    codes = {"a": code}
    z_t = process.diffuse(z0, codes, jnp.asarray(TIMES), eps)
    step = process.transition(TIMES, TIMES - 1)
    u_t, y_t = step.to_comoving(z_t, codes), z_t - frame
    wrong = (out - meant.target(step, y_t, z0, eps)) ** 2
    of_z0 = (meant.z0(step, y_t, u_t, out) - z0) ** 2
    a_bar = process.schedule.alpha_bar[TIMES]
    snr = a_bar / (1 - a_bar)
    assert snr.min() < settings.min_snr_gamma < snr.max()
    wanted = {
        "min_snr": np.minimum(snr, settings.min_snr_gamma),
        "p2": snr * (1 + snr) ** -settings.p2_gamma,
    }[kind]
    np.testing.assert_allclose(
        column(weights[TIMES]) * wrong, column(wanted) * of_z0, rtol=1e-8
    )


def test_unknown_ones_are_refused():
    with pytest.raises(UserError, match="prediction is 'x0'.*'aggregate', 'eps', 'v'"):
        prediction.build("x0")
    config = common.digits()
    config.diffusion.prediction = "noise"
    with pytest.raises(UserError, match="prediction is 'noise'"):
        experiments.build(config)


def with_first():
    """The design that adds the code to the image, of a masked image that is read."""
    config = masked_image.get_config("smoke")
    config.modalities.masked_image.drift = "first"
    return config


@ALL
@pytest.mark.parametrize("frame", ["none", "read"])
def test_a_drift_that_outgrows_the_noise_is_for_eps_alone(name, frame):
    config = with_first()
    config.diffusion.prediction = name
    config.modalities.masked_image.frame = frame
    if name == "eps":
        assert experiments.build(config).process.aggregation.alpha_tilde
        return
    tilde = np.sqrt(schedule.cosine(1000).alpha_bar)
    shares = (tilde / np.sqrt(1 - tilde**2 + (tilde == 1)))[1:]
    times = f"masked_image.drift makes the code {shares.max():.0f} times .*t = 1, "
    with pytest.raises(UserError, match=times + ".*prediction = 'eps'"):
        experiments.build(config)
    config.modalities.masked_image.drift = "ramp"
    experiments.build(config)


def test_what_does_not_drift_is_never_refused():
    config = image_label.get_config("smoke")
    config.modalities.label.update(
        drift="none", frame="none", class_names=tuple("0123456789")
    )
    tilde = experiments.build(config).process.aggregation.alpha_tilde["label"]
    assert not np.any(tilde)
