import math
import types

import numpy as np
import pytest

from configs import common
from mt_diffusion.diffusion import prediction, schedule
from mt_diffusion.errors import UserError
from mt_diffusion.training import weighting

NOISE = prediction.build("aggregate")
TABLES = [schedule.linear(1000), schedule.cosine(1000), schedule.cosine(7)]


def signal_to_noise(table):
    """At t = 1..T."""
    return table.alpha_bar[1:] / (1 - table.alpha_bar[1:])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_caps_the_weight_of_the_error_of_z0(table, gamma):
    """The error of z_0 is that of the noise over SNR, so SNR times these is its weight.

    Where nothing is capped the noise's own weight is 1, and it never exceeds that.
    """
    weights, snr = weighting.min_snr(table, gamma), signal_to_noise(table)
    assert weights.dtype == np.float64 and weights.shape == (table.num_steps + 1,)
    np.testing.assert_allclose(weights[1:] * snr, np.minimum(snr, gamma), rtol=1e-12)
    assert np.any(snr > gamma) and np.any(snr < gamma)
    np.testing.assert_array_equal(weights[1:][snr < gamma], 1)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_p2_is_a_power_of_the_noise(table, gamma):
    """1 / (1 + SNR)^gamma, for 1 + SNR = 1 / (1 - alpha_bar)."""
    weights, snr = weighting.p2(table, gamma), signal_to_noise(table)
    assert weights.dtype == np.float64 and weights.shape == (table.num_steps + 1,)
    np.testing.assert_allclose(weights[1:], 1 / (1 + snr) ** gamma, rtol=1e-12)
    expected = (1 - table.alpha_bar[1:]) ** gamma
    np.testing.assert_allclose(weights[1:], expected, rtol=1e-9)


def settings(name):
    config = common.digits().objective
    config.weighting = name
    return config


@pytest.mark.parametrize("bias", [-1.0, 0.0, 2.0])
def test_the_integral_over_log_snr_is_the_sum_over_times(bias):
    """Of t uniform, E[w_t f(lambda_t)] is the integral of w f over lambda, scaled."""
    table = schedule.cosine(20_000)
    log_snr = np.log(signal_to_noise(table))
    inner = np.abs(log_snr) <= weighting.OUTERMOST
    grid = np.linspace(log_snr[inner].min(), log_snr[inner].max(), 20_001)
    laws = {
        "sigmoid": (weighting.sigmoid(table, bias), 1 / (1 + np.exp(grid - bias))),
        "edm": (
            weighting.edm(table),
            np.exp(-((grid - 2.4) ** 2) / (2 * 2.4**2)) * (np.exp(-grid) + 0.5**2),
        ),
    }
    for weights, law in laws.values():
        assert weights[1:].mean() == pytest.approx(1)
        for f in (np.tanh, np.cos):
            wanted = np.trapezoid(law * f(grid), grid) / np.trapezoid(law, grid)
            some = weights[1:][inner]
            found = np.sum(some * f(log_snr[inner])) / some.sum()
            assert found == pytest.approx(wanted, abs=5e-3)


@pytest.mark.parametrize("name", ["sigmoid", "edm"])
@pytest.mark.parametrize("table", TABLES[:2])
def test_no_few_times_have_most_of_the_weight_of_log_snr(table, name):
    """The last two of a cosine's lie as far apart in log SNR as all others together."""
    weights = weighting.build(settings(name), table, NOISE)[1:]
    assert weights.sum() ** 2 / (weights**2).sum() > 0.25 * table.num_steps
    assert weights[-2:].sum() < 0.02 * weights.sum()


@pytest.mark.parametrize("of", ["aggregate", "eps"])
@pytest.mark.parametrize("name", ["sigmoid", "edm"])
def test_weights_of_log_snr_are_positive_and_finite(name, of):
    for table in TABLES:
        found = weighting.build(settings(name), table, prediction.build(of))
        assert np.all(np.isfinite(found)) and np.all(found >= 0)


@pytest.mark.parametrize("of", ["aggregate", "eps"])
@pytest.mark.parametrize("name", ["none", "min_snr", "p2"])
@pytest.mark.parametrize("table", TABLES)
def test_weights_are_finite_and_never_rise_with_the_signal(table, name, of):
    weights = weighting.build(settings(name), table, prediction.build(of))
    assert weights.shape == (table.num_steps + 1,)
    assert np.all(np.isfinite(weights)) and np.all(weights > 0)
    assert np.all(np.diff(weights[1:]) >= 0)


@pytest.mark.parametrize("of", prediction.PREDICTIONS)
def test_without_weighting_all_count_alike(of):
    found = weighting.build(settings("none"), TABLES[0], prediction.build(of))
    assert set(found) == {1.0}


def test_unknown_weights_are_refused():
    with pytest.raises(UserError, match="weighting is 'snr'.*'min_snr'"):
        weighting.build(settings("snr"), TABLES[0], NOISE)


def heads(power, **guesses):
    """What `of_heads` says of modalities with these guesses."""
    asked = common.digits().objective
    asked.last_power = power
    modalities = [
        types.SimpleNamespace(name=name, guess=guess) for name, guess in guesses.items()
    ]
    return weighting.of_heads(asked, schedule.cosine(1000), modalities)


@pytest.mark.parametrize("power", [0.5, 1.0, 4.0])
def test_heads_that_are_asked_at_last_learn_there(power):
    """alpha_bar is a squared cosine; a mean of cos^2k is a Beta function.

    But for the schedule's offset of 0.008 and its last steps, whose beta is capped.
    """
    found = heads(power, late="absent", held="held", mean="mean")
    assert found.keys() == {"late"}
    weights = found["late"]
    assert weights.shape == (1001,) and weights[1:].mean() == pytest.approx(1)
    gamma = math.gamma
    mean = gamma(power + 0.5) / (math.sqrt(math.pi) * gamma(power + 1))
    assert weights[1] == pytest.approx(1 / mean, rel=0.03)
    cos = [math.cos((t + 0.008) / 1.008 * math.pi / 2) for t in (0.001, 0.5)]
    ratio = (cos[1] / cos[0]) ** (2 * power)
    assert weights[500] / weights[1] == pytest.approx(ratio, rel=1e-9)
    assert np.all(np.diff(weights) < 0)


def test_without_a_power_all_heads_learn_alike():
    assert common.digits().objective.last_power == 0
    assert heads(0.0, late="absent") == {}
