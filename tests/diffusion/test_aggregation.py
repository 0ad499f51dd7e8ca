import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import aggregation, schedule
from mt_diffusion.errors import UserError


def step_weights(alpha_tilde, table):
    """w_t = alpha_tilde_t / sqrt(alpha_t) - alpha_tilde_{t-1}, the inverse."""
    previous = np.concatenate([[0.0], alpha_tilde[:-1]])
    return alpha_tilde / np.sqrt(table.alpha) - previous


SCHEDULES = [schedule.linear(1000), schedule.cosine(1000)]


@pytest.mark.parametrize("table", SCHEDULES, ids=["linear", "cosine"])
def test_accumulation_has_the_papers_closed_form(table):
    w = np.random.default_rng(0).uniform(-1, 1, 1001)
    root = np.sqrt(table.alpha_bar)
    closed = root[1:] * np.cumsum(w[1:] / root[:-1])
    np.testing.assert_allclose(aggregation.accumulate(w, table)[1:], closed, rtol=1e-10)


@pytest.mark.parametrize("table", SCHEDULES, ids=["linear", "cosine"])
@pytest.mark.parametrize("design", aggregation.DESIGNS)
def test_step_weights_invert_accumulation(table, design):
    alpha_tilde = aggregation.DESIGNS[design](table, 2.0)
    w = step_weights(alpha_tilde, table)
    np.testing.assert_allclose(
        aggregation.accumulate(w, table), alpha_tilde, rtol=1e-9, atol=1e-12
    )


def test_designs_have_the_weights_they_are_named_for():
    table = SCHEDULES[1]
    time = np.arange(1, 1001)
    ramp = step_weights(aggregation.ramp(table, 3.0), table)[1:]
    expected = 3 * np.sqrt(table.alpha_bar[:-1]) / 1000
    np.testing.assert_allclose(ramp, expected, rtol=1e-6, atol=1e-12)
    first = aggregation.first(table, 3.0)
    np.testing.assert_allclose(first[time], 3 * np.sqrt(table.alpha_bar[time]))


def test_none_is_no_weight_whatever_its_scale():
    for scale in (0.0, 3.0):
        found = aggregation.weights("x", "none", scale, SCHEDULES[0])
        np.testing.assert_array_equal(found, np.zeros(1001))


def test_drifts_are_bounded_by_the_noise_or_refused():
    """The ramp's d_t / sigma_t is at most 2 c / pi (with cosine betas 0.6 c).

    That of `first` is that of the signal: sqrt(SNR_t), the most at t = 1.
    """
    linear, cosine = SCHEDULES
    for c in (1.0, 5.0, 33.0):
        for table in SCHEDULES:
            tilde = aggregation.ramp(table, c)
            assert (tilde[1:] / np.sqrt(1 - table.alpha_bar[1:])).max() < 2 * c / np.pi
            if 2 * c / np.pi < aggregation.MAX_NOISE_SHARE:
                aggregation.check_bounded("x", tilde, table)
    snr = cosine.alpha_bar[1] / (1 - cosine.alpha_bar[1])
    for sign in (1, -1):
        tilde = aggregation.first(cosine, sign * 2.0)
        times = f"{2 * np.sqrt(snr):.0f} times .* at t = 1,"
        with pytest.raises(UserError, match=f"x.drift makes the code {times}"):
            aggregation.check_bounded("x", tilde, cosine)
    with pytest.raises(UserError, match="as strong as the noise at t = "):
        aggregation.check_bounded("x", aggregation.ramp(cosine, 40.0), cosine)
    # Just below the limit, and just above.
    shares = aggregation.ramp(linear, 1.0)[1:] / np.sqrt(1 - linear.alpha_bar[1:])
    limit = aggregation.MAX_NOISE_SHARE / shares.max()
    aggregation.check_bounded("x", aggregation.ramp(linear, 0.999 * limit), linear)
    with pytest.raises(UserError, match="config.modalities.x.drift"):
        aggregation.check_bounded("x", aggregation.ramp(linear, 1.001 * limit), linear)


def test_a_table_is_used_as_it_is():
    table = schedule.cosine(4)
    w = (0.1, 0.0, -0.1, 0.02)
    alpha_tilde = aggregation.weights("x", w, 1.0, table)
    np.testing.assert_allclose(step_weights(alpha_tilde, table)[1:], w)


def test_designs_that_reach_the_last_step_are_refused():
    # By hand: constant weights leave 0.114 with linear betas, 2.4e-4 with
    # cosine ones, and w_t = 1 reaches 114.
    linear, cosine = SCHEDULES
    with pytest.raises(UserError, match="0.114"):
        aggregation.weights("label", "constant", 1.0, linear)
    left = aggregation.weights("label", "constant", 1.0, cosine)[-1]
    assert left == pytest.approx(2.4e-4, rel=0.05)
    with pytest.raises(UserError, match="114"):
        aggregation.weights("label", (1.0,) * 1000, 1.0, linear)
    with pytest.raises(UserError, match="nan"):
        aggregation.weights("label", (float("nan"),) * 1000, 1.0, linear)


def test_what_is_left_counts_in_nats():
    """By hand: c = 2.5 at 128x128x3 leaves 6.2 nats with linear betas, c = 7.5 56."""
    linear, cosine = SCHEDULES
    for scale, words in ((2.5, "6.2 nats"), (7.5, "55.8 nats")):
        left = aggregation.weights("label", "ramp", scale, linear)
        with pytest.raises(UserError, match=f"{words}.*cosine"):
            aggregation.check_forgotten("label", left, 128 * 128 * 3)
        left = aggregation.weights("label", "ramp", scale, cosine)
        aggregation.check_forgotten("label", left, 128 * 128 * 3)
        assert aggregation.final_nats(left[-1], 128 * 128 * 3) < 0.01


def test_unknown_designs_and_short_tables_are_refused():
    with pytest.raises(UserError, match="'rampp'"):
        aggregation.weights("label", "rampp", 1.0, SCHEDULES[0])
    with pytest.raises(UserError, match="table of 3"):
        aggregation.weights("label", (0.1, 0.1, 0.1), 1.0, SCHEDULES[0])


def test_drift_adds_each_code_with_the_weight_of_its_example():
    tables = {"a": np.array([0.0, 1.0, 2.0]), "b": np.array([0.0, 10.0, 20.0])}
    ones = jnp.ones((2, 2, 2, 1))
    drift = aggregation.Aggregation(tables).drift(
        {"a": ones, "b": 3 * ones}, jnp.array([1, 2])
    )
    np.testing.assert_allclose(drift[0], 31.0)
    np.testing.assert_allclose(drift[1], 62.0)
    assert aggregation.Aggregation(tables).drift({}, jnp.array([1, 2])) == 0


@pytest.mark.parametrize("name", sorted(schedule.BY_NAME))
def test_a_vanishing_ramp_leaves_nothing_on_any_schedule(name):
    """And is the ramp, where the schedule's own signal vanishes."""
    table = schedule.build(name, 1000)
    found = aggregation.weights("x", "vanishing_ramp", 100.0, table)
    assert found[0] == found[-1] == 0 and (found[1:-1] > 0).all()
    ramp = aggregation.ramp(table, 100.0)
    assert (found <= ramp).all()
    most = 100 * np.sqrt(table.alpha_bar[-1])  # which is what the ramp leaves
    assert np.abs(found - ramp).max() == pytest.approx(most)
