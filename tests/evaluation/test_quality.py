"""Metrics of features against torch-fidelity's values, closed forms, brute force."""

import itertools

import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import quality
from mt_diffusion.evaluation.quality import Statistics

FIDELITY = dict(np.load("tests/data/metrics.npz", allow_pickle=False))
REFERENCE = FIDELITY["features_reference"]
GENERATED = FIDELITY["features_generated"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks, the last one not full, for what tests can afford."""
    monkeypatch.setattr(quality, "ROWS", 16)


def rotation(rng, size):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def all_distances(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def test_values_of_torch_fidelity():
    both = quality.statistics(REFERENCE), quality.statistics(GENERATED)
    expected = FIDELITY["frechet_inception_distance"]
    np.testing.assert_allclose(quality.frechet_distance(*both), expected, rtol=1e-6)

    kid = quality.kernel_distance(REFERENCE, GENERATED, num_subsets=1)
    expected = FIDELITY["kernel_inception_distance_mean"], 0
    np.testing.assert_allclose(kid, expected, rtol=1e-5)

    score = quality.inception_score(FIDELITY["logits"])
    expected = FIDELITY["inception_score_mean"], FIDELITY["inception_score_std"]
    np.testing.assert_allclose(score, expected, rtol=1e-5)

    found = quality.precision_recall(REFERENCE, GENERATED)
    expected = FIDELITY["precision"], FIDELITY["recall"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("num_null", [0, 1, 5])
def test_frechet_distance_of_covariances_with_common_axes(rng, num_null):
    """Then it is the sum of squared differences of means and of deviations."""
    turn = rotation(rng, 6)
    deviations = rng.uniform(0.1, 3, (2, 6))
    deviations[0, :num_null] = 0
    mus = rng.standard_normal((2, 6))
    a, b = (
        Statistics(mu, turn * deviation**2 @ turn.T, 0)
        for mu, deviation in zip(mus, deviations, strict=True)
    )
    expected = np.sum((mus[0] - mus[1]) ** 2)
    expected += np.sum((deviations[0] - deviations[1]) ** 2)
    for found in (quality.frechet_distance(a, b), quality.frechet_distance(b, a)):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert quality.frechet_distance(a, a) < 1e-12


def test_frechet_distance_of_two_dimensions(rng):
    """tr (A B)^(1/2) = (tr A B + 2 (det A det B)^(1/2))^(1/2) for any 2 x 2."""
    for _ in range(5):
        factors = rng.standard_normal((2, 2, 2))
        a, b = (f @ f.T for f in factors)
        root = np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b))
        expected = np.trace(a) + np.trace(b) - 2 * np.sqrt(root)
        mu = np.zeros(2)
        found = quality.frechet_distance(Statistics(mu, a, 0), Statistics(mu, b, 0))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("nums", [(20, 30), (30, 200), (2, 2)])
def test_frechet_distance_of_fewer_examples_than_features(rng, nums):
    """Without covariances: from the singular values of the examples' products."""
    x, y = (rng.standard_normal((num, 50)) @ rotation(rng, 50) for num in nums)
    y = 2 * y + 1
    roots = [(z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x, y)]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    expected = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) - 2 * cross
    expected += sum(np.sum(root**2) for root in roots)
    both = quality.statistics(x), quality.statistics(y)
    np.testing.assert_allclose(quality.frechet_distance(*both), expected, rtol=1e-6)
    assert quality.frechet_distance(both[0], both[0]) < 1e-10


def test_frechet_distance_to_a_constant():
    point = Statistics(np.ones(3), np.zeros((3, 3)), 9)
    cloud = Statistics(np.zeros(3), np.diag([1.0, 2, 3]), 9)
    assert quality.frechet_distance(point, cloud) == pytest.approx(9)
    assert quality.frechet_distance(point, point) == 0


@pytest.mark.parametrize("cuts", [[], [1], [1, 2, 90], [50]])
def test_moments_in_parts_are_those_of_the_whole(rng, cuts):
    features = (1e4 + rng.standard_normal((100, 7))).astype(np.float32)
    moments = quality.Moments()
    for part in np.split(features, cuts):
        moments.add(part)
    found, exact = moments.statistics(), features.astype(np.float64)
    np.testing.assert_allclose(found.mu, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma, np.cov(exact.T), rtol=1e-9, atol=1e-9)
    assert found.num == 100


def test_kernel_distance_by_loops(rng):
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 3)) + 1
    k = lambda a, b: (sum(a * b) / 3 + 1) ** 3  # noqa: E731
    off = [k(a, b) for z in (x, y) for a, b in itertools.permutations(z, 2)]
    cross = [k(a, b) for a, b in itertools.product(x, y)]
    expected = sum(off) / 20 - 2 * sum(cross) / 25
    found = quality.kernel_distance(x, y, num_subsets=3)
    np.testing.assert_allclose(found, (expected, 0), rtol=1e-9, atol=1e-12)


def test_kernel_distance_of_one_distribution_is_zero_on_average(rng):
    x, y = rng.standard_normal((2, 4000, 4))
    mean, std = quality.kernel_distance(x, y, 100, 200, seed=1)
    assert std > 0 and abs(mean) < 4 * std / 10
    assert quality.kernel_distance(x, y, 100, 200, seed=1) == (mean, std)
    assert quality.kernel_distance(x, y, 100, 200, seed=2) != (mean, std)


def test_inception_score_of_certain_and_of_blind_predictions():
    certain = 1e4 * np.tile(np.eye(7), (6, 1))
    np.testing.assert_allclose(quality.inception_score(certain, 6), (7, 0), rtol=1e-12)
    in_order = np.repeat(certain[:7], 6, axis=0)  # of one class in every split
    np.testing.assert_allclose(quality.inception_score(in_order, 7), (1, 0))
    blind = np.tile(np.arange(7.0), (20, 1))
    np.testing.assert_allclose(quality.inception_score(blind), (1, 0), atol=1e-12)
    assert quality.inception_score(certain[:3]) == (1, 0)  # three splits of one


def test_inception_score_of_uneven_splits(rng):
    logits = rng.standard_normal((11, 4)).astype(np.float32)
    scores = []
    for part in (logits[:3], logits[3:7], logits[7:]):
        p = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        scores.append(np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)[None]), axis=1))))
    expected = np.mean(scores), np.std(scores)
    found = quality.inception_score(logits, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def on_manifold(queries, members, k):
    radii = np.sort(all_distances(members, members), axis=1)[:, k]
    return (all_distances(queries, members) <= radii[None]).any(axis=1).mean()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("offset", [0, 1000])
def test_precision_and_recall_by_brute_force(rng, small_blocks, k, offset):
    # On grids, whose squared distances float32 has exactly: a tie is one on both sides.
    reference = np.float32(rng.integers(0, 2**10, (75, 5)) / 2**6 + offset)
    generated = np.float32(rng.integers(0, 2**10, (41, 5)) / 2**7 + offset)
    expected = (
        on_manifold(generated, reference, k),
        on_manifold(reference, generated, k),
    )
    assert 0 < expected[1] < expected[0]
    found = quality.precision_recall(reference, generated, k)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_precision_and_recall_of_extremes(rng):
    real = rng.standard_normal((60, 4)).astype(np.float32)
    assert quality.precision_recall(real, real) == (1, 1)
    assert quality.precision_recall(real, real + 100) == (0, 0)
    # Balls of no radius: a single image, always the same, which is a real one.
    assert quality.precision_recall(real, np.tile(real[:1], (9, 1))) == (1, 1 / 60)


def test_neighbours_by_brute_force(rng, small_blocks):
    references = np.float32(rng.standard_normal((40, 6)) * [100, 1, 1, 1, 1, 0.01] + 50)
    queries = np.float32(rng.standard_normal((37, 6)) * [100, 1, 1, 1, 1, 0.01] + 50)
    queries[7] = references[20]
    exact = all_distances(queries, references)
    distances, indices = quality.neighbours(queries, references, 4)
    np.testing.assert_array_equal(indices, np.argsort(exact, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(exact, axis=1)[:, :4], rtol=1e-5)
    distance, index = quality.nearest(queries, references)
    np.testing.assert_array_equal(distance, distances[:, 0])
    np.testing.assert_array_equal(index, indices[:, 0])
    assert (distance[7], index[7]) == (0, 20)


def test_copies_are_found_in_tight_clusters_far_apart(rng):
    """Products of float32 alone mistake some: spread 0.02, 57 from the centre."""
    centres = np.repeat([[20.0], [-20.0]], 100, axis=0)
    references = np.float32(centres + 0.02 * rng.standard_normal((200, 8)))
    distance, index = quality.nearest(references, references)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, np.arange(200))


def test_pixels_have_neighbours_too(rng):
    images = rng.integers(0, 256, (30, 64), np.uint8)
    distance, index = quality.nearest(images[5:8], images)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, [5, 6, 7])


def test_too_few_examples(rng):
    few = rng.standard_normal((3, 2)).astype(np.float32)
    with pytest.raises(UserError, match="covariance needs 2 .* there are 1"):
        quality.statistics(few[:1])
    with pytest.raises(UserError, match="3 neighbours needs 4 .* there are 3"):
        quality.precision_recall(few, np.tile(few, (9, 1)))
    with pytest.raises(UserError, match="KID needs 2 .* there are 1"):
        quality.kernel_distance(few, few[:1])
    with pytest.raises(UserError, match="4 neighbours needs 4 .* there are 3"):
        quality.neighbours(few, few, 4)
