"""Standard errors against known laws and against what many draws really spread by."""

import itertools

import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import quality, uncertainty
from mt_diffusion.evaluation.quality import Statistics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def standard(size):
    """The law N(0, 1) as it is, not as some examples have it."""
    return Statistics(np.zeros(size), np.eye(size), None)


def frechet(features, reference):
    return quality.frechet_distance(quality.statistics(features), reference)


@pytest.mark.parametrize("num, right", [(10, 3), (400, 399), (50, 0)])
def test_error_of_a_share_is_the_binomial_one(num, right):
    p = right / num
    found = uncertainty.mean(np.arange(num) < right)
    assert found == pytest.approx((p, np.sqrt(p * (1 - p) / num)))


def test_copies_of_an_example_tell_nothing_more(rng):
    """Four fillings of an image, all alike, in the order that draws have them."""
    values, groups = rng.standard_normal(50), np.arange(50)
    error = uncertainty.of_mean(values)
    assert uncertainty.of_mean(np.tile(values, 4), np.tile(groups, 4)) == pytest.approx(
        error
    )
    assert uncertainty.of_mean(np.tile(values, 4)) == pytest.approx(error / 2)


def test_error_of_groups_of_several_sizes(rng):
    """Of a mean of means: by what 4,000 experiments spread."""
    sizes = np.array([1, 2, 3, 4] * 15)
    groups = np.repeat(np.arange(60), sizes)
    drawn = rng.standard_normal((4000, 60))[:, groups]
    drawn += rng.standard_normal(drawn.shape)
    spread = np.std(drawn.mean(axis=1))
    found = np.mean([uncertainty.of_mean(values, groups) for values in drawn[:200]])
    assert found == pytest.approx(spread, rel=0.05)
    by_bootstrap = [
        uncertainty.bootstrap(lambda rows, v=values: v[rows].mean(), groups)
        for values in drawn[:10]
    ]
    assert np.mean(by_bootstrap) == pytest.approx(spread, rel=0.15)


def test_bootstrap_of_a_deviation(rng):
    """Of n normal values it spreads by 1 / sqrt(2 n)."""
    values = rng.standard_normal(2000)
    found = uncertainty.bootstrap(lambda rows: values[rows].std(), np.arange(2000))
    assert found == pytest.approx(1 / np.sqrt(4000), rel=0.2)
    assert found == uncertainty.bootstrap(
        lambda rows: values[rows].std(), np.arange(2000)
    )


def test_bootstrap_draws_whole_groups():
    groups, drawn = np.array([7, 3, 7, 3, 9]), []
    uncertainty.bootstrap(lambda rows: drawn.append(rows) or 0.0, groups, 50)
    for rows in drawn:
        times = np.bincount(rows, minlength=5)
        assert times[0] == times[2] and times[1] == times[3]
        assert times[0] + times[1] + times[4] == 3
    assert len({tuple(rows) for rows in drawn}) > 5


def test_frechet_error_in_one_dimension(rng):
    """(m - a)^2 + (s - b)^2 of n values.

    m spreads by s / sqrt(n), s by s / sqrt(2 n).
    """
    num, m, s, a, b = 40_000, 1.0, 2.0, 0.25, 0.5
    features = m + s * rng.standard_normal((num, 1))
    reference = Statistics(np.array([a]), np.array([[b**2]]), None)
    found = uncertainty.of_frechet(features, reference, np.arange(num))
    variance = (2 * (m - a) * s) ** 2 / num + (2 * (s - b) * s) ** 2 / (2 * num)
    assert found == pytest.approx(np.sqrt(variance), rel=0.03)


def test_frechet_error_is_the_spread_of_distances(rng):
    """With axes that turn, and by groups of equal rows."""
    factor = rng.standard_normal((5, 5))
    target = Statistics(np.zeros(5), factor @ factor.T, None)
    draws = rng.standard_normal((200, 300, 5)) * [1, 2, 1, 0.5, 1] + 0.5
    spread = np.std([frechet(x, target) for x in draws])
    errors = [uncertainty.of_frechet(x, target, np.arange(300)) for x in draws[:20]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)
    twice = uncertainty.of_frechet(
        np.tile(draws[0], (2, 1)), target, np.tile(np.arange(300), 2)
    )
    assert twice == pytest.approx(errors[0], rel=0.02)


def test_frechet_error_is_not_a_bootstraps_where_examples_are_few(rng):
    """That of 200 examples of one law in 64 dimensions, whose bias is 5.8."""
    draws = rng.standard_normal((30, 200, 64))
    spread = np.std([frechet(x, standard(64)) for x in draws])
    found = uncertainty.of_frechet(draws[0], standard(64), np.arange(200))
    assert spread < found < 2 * spread


def test_distances_by_eigenvalues_are_those_by_singular_values(rng):
    target = quality.statistics(
        rng.standard_normal((90, 12)) @ rng.normal(size=(12,) * 2)
    )
    sets = [rng.standard_normal((num, 12)) + 1 for num in (5, 40, 300)]
    exact = [frechet(x, target) for x in sets]
    np.testing.assert_allclose(uncertainty.distances(sets, target), exact, rtol=1e-6)


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (0.25, 1.25)])
def test_fid_infinity_is_the_true_distance(rng, shift, scale):
    """|mu|^2 + D (scale - 1)^2 of Gaussians; FID of 400 examples has a bias."""
    size, num = 16, 400
    true = size * (shift**2 + (scale - 1) ** 2)
    plain, lines, errors = [], [], []
    for _ in range(25):
        x = shift + scale * rng.standard_normal((num, size))
        plain.append(frechet(x, standard(size)))
        lines.append(uncertainty.extrapolate(x, standard(size)))
        error = uncertainty.of_frechet(x, standard(size), np.arange(num))
        errors.append(np.hypot(error, lines[-1].curvature))
    found = np.array([line.infinity for line in lines])
    off = abs(found.mean() - true)
    assert off < 3 * found.std() / 5 + 0.01
    assert np.mean(plain) - true > 10 * off
    assert np.mean(abs(found - true) < 2 * np.array(errors)) > 0.9
    at_num = np.mean([line.at(num) for line in lines])
    assert at_num == pytest.approx(np.mean(plain), rel=1e-6)
    # Other sizes lie on the line as well.
    more = shift + scale * rng.standard_normal((25, 2 * num, size))
    more = np.mean([frechet(x, standard(size)) for x in more])
    at_more = [line.at(2 * num) for line in lines]
    assert abs(np.mean(at_more) - more) < 3 * np.std(at_more) / 5 + 0.01


def test_where_fid_infinity_can_not_be_told_its_error_says_so(rng):
    """200 examples of 64 features: the line still bends."""
    line = uncertainty.extrapolate(rng.standard_normal((200, 64)), standard(64))
    assert abs(line.infinity) < line.curvature < 3
    plain = frechet(rng.standard_normal((200, 64)), standard(64))
    assert plain > 5 * abs(line.infinity)


def test_too_few_examples_have_no_line(rng):
    with pytest.raises(UserError, match="extrapolation of FID needs 8 .* there are 7"):
        uncertainty.extrapolate(rng.standard_normal((7, 2)), standard(2))


def test_kid_error_by_loops(rng):
    """By every resample of three examples, but for those of one alone."""
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((3, 2))
    k = lambda a, b: (sum(a * b) / 2 + 1) ** 3  # noqa: E731
    found = []
    for rows in itertools.product(range(3), repeat=3):
        pairs = [k(y[i], y[j]) for i, j in itertools.product(rows, rows) if i != j]
        if pairs:
            across = np.mean([k(a, y[i]) for a in x for i in rows])
            found.append(np.mean(pairs) - 2 * across)
    error = uncertainty.of_kernel(x, y, num_resamples=20_000)
    assert error == pytest.approx(np.std(found), rel=0.02)


def test_kid_error_is_the_spread_of_distances(rng, monkeypatch):
    reference = rng.standard_normal((200, 4))
    draws = 1.2 * rng.standard_normal((60, 200, 4)) + 0.3
    spread = np.std([quality.kernel_distance(reference, x, 1, 200).mean for x in draws])
    errors = [uncertainty.of_kernel(reference, x) for x in draws[:10]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)
    monkeypatch.setattr(uncertainty, "MAX_KERNEL", 100)  # a part stands for all
    errors = [uncertainty.of_kernel(reference, x) for x in draws[:10]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)


def test_recall_error_is_the_spread_of_recalls(rng):
    reference = rng.standard_normal((300, 5)).astype(np.float32)
    draws = np.float32(0.3 + rng.standard_normal((20, 250, 5)))
    spread = np.std([quality.on_manifold(reference, x, 3).mean() for x in draws])
    errors = [uncertainty.of_recall(reference, x, 3) for x in draws]
    assert 0.5 < np.mean(errors) / spread < 2
    assert np.isnan(uncertainty.of_recall(reference, draws[0][:19], 3))


def test_images_that_are_all_the_same_have_no_error(rng):
    """Of a model that has collapsed, and against a reference that has."""
    same, point = np.ones((20, 3)), Statistics(np.zeros(3), np.zeros((3, 3)), None)
    groups = np.arange(20)
    assert uncertainty.of_frechet(same, standard(3), groups) == pytest.approx(0)
    assert uncertainty.of_frechet(same, point, groups) == 0
    line = uncertainty.extrapolate(same, standard(3))
    assert (line.infinity, line.curvature) == pytest.approx((6, 0), abs=1e-9)
    # From a point: (m - 0)^2 + s^2, of one dimension, spreads by that of 2 m x + x^2.
    x = 1 + rng.standard_normal((40_000, 1))
    point = Statistics(np.zeros(1), np.zeros((1, 1)), None)
    found = uncertainty.of_frechet(x, point, np.arange(40_000))
    assert found == pytest.approx(np.sqrt((4 + 2) / 40_000), rel=0.03)
