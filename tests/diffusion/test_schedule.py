import itertools

import numpy as np
import pytest

from mt_diffusion.diffusion import schedule, spacing
from mt_diffusion.errors import UserError


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_tables_are_those_of_guided_diffusion(name):
    reference = dict(np.load(f"tests/data/adm_diffusion_{name}1000.npz"))
    table = schedule.build(name, 1000)
    np.testing.assert_allclose(1 - table.alpha[1:], reference["betas"], rtol=1e-10)
    np.testing.assert_allclose(
        table.alpha_bar[1:], reference["alphas_cumprod"], rtol=1e-10
    )
    assert table.alpha_bar[0] == 1


@pytest.mark.parametrize("word", spacing.SPACINGS)
@pytest.mark.parametrize("num_steps", [2, 7, 250, 1000])
def test_respacing_keeps_both_ends_and_decreases(num_steps, word):
    times = spacing.respaced(schedule.cosine(1000), num_steps, word)
    assert (times[0], times[-2], times[-1]) == (1000, 1, 0)
    assert len(times) == num_steps + 1
    assert np.all(np.diff(times) < 0)


@pytest.mark.parametrize("num_steps", [0, 1, 1001])
def test_respacing_refuses_what_it_cannot_do(num_steps):
    with pytest.raises(UserError, match=f"{num_steps} steps"):
        spacing.respaced(schedule.linear(1000), num_steps)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(UserError, match="'karras'.*log_snr"):
        spacing.respaced(schedule.linear(1000), 10, "karras")


@pytest.mark.parametrize("name", schedule.BY_NAME)
def test_no_other_whole_times_have_a_shorter_longest_step(name):
    """By all subsets of a small schedule."""
    table = schedule.build(name, 25)
    half = 0.5 * np.log(table.alpha_bar[1:] / (1 - table.alpha_bar[1:]))
    for num_steps in (2, 3, 5):
        inner = itertools.combinations(range(24, 1, -1), num_steps - 2)
        longest = [np.diff(half[np.array([25, *some, 1]) - 1]).max() for some in inner]
        times = spacing.respaced(table, num_steps, "log_snr")[:-1]
        np.testing.assert_allclose(np.diff(half[times - 1]).max(), min(longest))


@pytest.mark.parametrize("shift", [-2 * np.log(2), 0.0, 1.5])
def test_a_shift_is_of_log_snr_at_every_time(shift):
    """-2 log 2 is the cosine schedule of 32 pixels at 64 (simple diffusion, eq. 3)."""
    plain, moved = (schedule.build("cosine", 1000, x) for x in (0.0, shift))
    first = slice(1, -5)  # beta is capped in the last ones
    log_snr = [
        np.log(table.alpha_bar[first] / (1 - table.alpha_bar[first]))
        for table in (plain, moved)
    ]
    np.testing.assert_allclose(log_snr[1] - log_snr[0], shift, atol=1e-6)
    assert moved.alpha_bar[0] == 1 and np.all(np.diff(moved.alpha_bar) < 0)
    if not shift:
        np.testing.assert_array_equal(moved.alpha, plain.alpha)


def test_unknown_schedules_and_bad_lengths_are_refused():
    with pytest.raises(UserError, match="'quadratic'.*linear"):
        schedule.build("quadratic", 1000)
    with pytest.raises(UserError, match="num_steps is 0"):
        schedule.build("cosine", 0)
    with pytest.raises(UserError, match="beta of 1 or more"):
        schedule.build("linear", 20)
