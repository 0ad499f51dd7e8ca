"""Marks that a perfect model reaches with as many examples as the figure beside it."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from mt_diffusion.evaluation import figures, quality
from mt_diffusion.evaluation import real as reals
from mt_diffusion.evaluation.draws import Draw, Drawn
from mt_diffusion.evaluation.figures import Mark, Metric
from mt_diffusion.evaluation.judges import image, label, pixels
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.report import tables


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def answers(rng, num):
    """Of a model that is calibrated, and the labels: (probabilities, labels)."""
    p = rng.dirichlet(np.ones(4) / 2, num)
    return p, np.array([rng.choice(4, p=row) for row in p])


@pytest.mark.parametrize("num", [100, 359, 1000])
def test_a_calibrated_model_reaches_the_mark_of_calibration(rng, num):
    """0 it can't reach: by chance alone its error is 0.12 at 100 examples."""
    found = [
        label.calibration(*answers(rng, num), np.arange(num), 0.25) for _ in range(10)
    ]
    off = [(m.value - m.ceiling.value) / m.ceiling.spread for m in found]
    assert np.abs(np.mean(off)) < 1.5 and np.max(np.abs(off)) < 4
    assert min(m.value for m in found) > 0.02 and f"{num:,} " in found[0].ceiling.of
    p, labels = answers(rng, num)
    sure = p**4 / np.sum(p**4, axis=1, keepdims=True)
    sure = label.calibration(sure, labels, np.arange(num), 0.25)
    assert sure.value > sure.ceiling.value + 5 * sure.ceiling.spread
    assert sure.value > 3 * sure.standard_error


def test_answers_for_one_example_count_as_one(rng):
    """Each test example three times: the mark is that of the examples."""
    p, labels = answers(rng, 120)
    once = label.calibration(p, labels, np.arange(120), 0.25)
    three = label.calibration(
        np.tile(p, (3, 1)), np.tile(labels, 3), np.tile(np.arange(120), 3), 0.25
    )
    assert three.ceiling == once.ceiling
    assert three.value == pytest.approx(once.value)
    assert three.standard_error == pytest.approx(once.standard_error, rel=1e-6)


def test_the_mark_of_class_shares_is_the_law_of_coins():
    """Of n coins, the mean of |heads - n / 2| / n, and its deviation, by binomials."""
    known = np.arange(1000) % 2
    for num in (10, 101):
        chances = [math.comb(num, k) / 2**num for k in range(num + 1)]
        off = np.abs(np.arange(num + 1) / num - 0.5)
        mean = np.dot(chances, off)
        spread = np.sqrt(np.dot(chances, off**2) - mean**2)
        found = label.marginal(
            "label_shares", np.arange(num) % 2, known, np.arange(num)
        )
        assert found.ceiling.spread == pytest.approx(spread, rel=0.25)
        off = found.ceiling.value - mean
        assert abs(off) < 4 * spread / np.sqrt(label.SIMULATIONS)
        assert found.ceiling.of == f"{num} draws of training labels"


def test_error_of_class_shares_where_they_are_far_off():
    """Then it is that of the one share: 0.9 of two classes against a half."""
    known = np.arange(1000) % 2
    labels = (np.arange(400) % 10 == 0).astype(int)
    found = label.marginal("label_shares", labels, known, np.arange(400))
    assert found.value == pytest.approx(0.4)
    assert found.standard_error == pytest.approx(np.sqrt(0.9 * 0.1 / 400), rel=0.15)
    tiled, fours = np.tile(labels[:100], 4), np.arange(400) % 100
    in_fours = label.marginal("label_shares", tiled, known, fours)
    assert in_fours.standard_error == pytest.approx(2 * found.standard_error, rel=0.2)


def test_equal_images_are_as_close_as_the_mark_says(rng):
    """Whatever the law: 2,000 experiments with 150 samples and 80 test images."""
    of_test, of_made = np.split(rng.random((2000, 230)), [80], axis=1)
    close = np.quantile(of_test, 0.01, axis=1)[:, None]
    shares = np.mean(of_made < close, axis=1)
    mark = image.share_below_quantile(80, 150)
    assert mark.value == pytest.approx(shares.mean(), rel=0.05) and mark.value > 0.02
    assert mark.spread == pytest.approx(shares.std(), rel=0.1)


def test_the_error_of_a_median_of_uniform_distances(rng):
    """1 / (2 sqrt(n)) of n, here as a share of the median 1.5."""
    distances = 1 + rng.random(4000)
    found = image.median_error(distances, np.arange(4000))
    assert found == pytest.approx(1 / (2 * np.sqrt(4000)) / 1.5, rel=0.2)
    assert image.median_error(np.zeros(9), np.arange(9)) == 0


SIZE = 8  # of features


class Reality(SimpleNamespace):
    """That a cache can tell from others."""

    __hash__ = object.__hash__


def reality(rng, num_test, num):
    """What judges ask of real images, all features of one Gaussian law."""

    def features(count):
        x = rng.standard_normal((count, SIZE))
        return Features(x, None, x)

    reference = SimpleNamespace(
        pooled=quality.Statistics(np.zeros(SIZE), np.eye(SIZE), None), spatial=None
    )
    sets = [features(min(num, num_test)) for _ in range(max(num_test // num, 1))]
    return Reality(
        num=num,
        reference=reference,
        reference_features=features(300).pooled,
        test_sets=sets,
        test_images=sets[0].pooled,
    ), features


@pytest.mark.parametrize("num_test", [100, 400, 1600])
def test_samples_of_the_true_law_reach_the_mark_of_fid(rng, monkeypatch, num_test):
    """Also where there are fewer test images than samples, 400."""
    monkeypatch.setattr(image, "compare", image.frechet)  # the others take their time
    real, features = reality(rng, num_test, 400)
    marks = image.test_marks(real)
    found = [image.frechet(features(400), real, np.arange(400)) for _ in range(20)]
    for name in ("fid", "fid_inf"):
        values = [f[name].value for f in found]
        assert abs(marks[name].value - np.mean(values)) < 4 * marks[name].spread
        assert marks[name].spread > np.std(values) / 2
    words = {
        100: "100 test images, extrapolated to 400",
        400: "400 test images",
        1600: "4 sets of 400 test images",
    }
    assert marks["fid"].of == words[num_test]
    if num_test == 100:  # as they are, they are further
        at_100 = quality.frechet_distance(
            quality.statistics(real.test_images), real.reference.pooled
        )
        assert at_100 > 2 * marks["fid"].value


def test_pairs_of_the_true_law_reach_the_mark_of_their_distance(rng):
    """Another 200 true images, by halves of the first."""
    found = [
        quality.frechet_distance(*map(quality.statistics, rng.normal(size=(2, 200, 5))))
        for _ in range(300)
    ]
    marks = [pixels.two_halves(rng.standard_normal((200, 5))) for _ in range(40)]
    assert np.mean([m.value for m in marks]) == pytest.approx(np.mean(found), rel=0.1)
    assert pixels.two_halves(np.ones((3, 5))) == Mark(0.0, "the true images")


def test_sets_of_test_images_are_disjoint(monkeypatch):
    test = [{"image": np.full((1, 1, 1), i, np.uint8)} for i in range(23)]
    real = reals.Real(*(None,) * 5, test=test, num=5, batch_size=8, mesh=None)
    monkeypatch.setattr(
        reals.Real, "features", lambda self, x, what: Features(x[:, 0, 0], None, x)
    )
    sets = [part.pooled[:, 0].tolist() for part in real.test_sets]
    assert sets == [list(range(i, i + 5)) for i in (0, 5, 10, 15)]
    few = dataclasses.replace(real, num=12)
    assert [len(part.pooled) for part in few.test_sets] == [12]


def test_psnr_error_is_the_spread_of_psnrs(rng):
    def draw():
        true = rng.integers(60, 190, (50, 4, 4, 1))
        off = rng.normal(size=true.shape) * rng.uniform(2, 20, (50, 1, 1, 1))
        where = rng.random(true.shape) < 0.5
        made = np.round(true + off).astype(np.uint8)
        return made, true.astype(np.uint8), where, np.arange(50)

    found = [pixels.psnr_estimate(*draw()) for _ in range(200)]
    spread = np.std([f.value for f in found])
    assert np.mean([f.error for f in found]) == pytest.approx(spread, rel=0.15)
    made, true, where, _ = draw()
    same = pixels.psnr_estimate(true, true, where, np.arange(50))
    assert same.error == 0 and same.value > 100


def test_rows_that_hang_together():
    made = {"image": np.zeros((7, 1, 1, 1), np.uint8)}
    truth = {"image": np.zeros((3, 1, 1, 1))}
    given = Drawn(Draw(("label",)), made, {}, truth, {})
    np.testing.assert_array_equal(given.groups, [0, 1, 2, 0, 1, 2, 0])
    joint = dataclasses.replace(given, draw=Draw(()))
    np.testing.assert_array_equal(joint.groups, np.arange(7))


def test_errors_and_spreads_are_said_everywhere(capsys):
    mark, exact = Mark(1.5, "test", 0.25), Mark(80.0, "noise")
    metric = Metric("fid", 3.25, "lower", exact, mark, 0.125).as_json("joint")
    assert metric["standard_error"] == 0.125
    assert metric["ceiling"] == {"value": 1.5, "of": "test", "spread": 0.25}
    figures.tell([metric])
    words = "fid 3.25 ± 0.12 80 1.5 ± 0.25"
    assert " ".join(capsys.readouterr().out.split()).endswith(words)
    ((row,),) = tables.metrics({"metrics": [metric]}).values()
    assert (row.value, row.floor, row.ceiling) == ("3.25 ± 0.12", "80", "1.5 ± 0.25")
    unknown = Metric("m", 1.0, "lower", None, mark._replace(spread=np.nan), np.nan)
    found = unknown.as_json("joint")
    assert found["standard_error"] is None and found["ceiling"]["spread"] is None
    older = {k: v for k, v in metric.items() if k != "standard_error"}
    older["floor"] = {"value": 80.0, "of": "noise"}
    ((row,),) = tables.metrics({"metrics": [older]}).values()
    assert (row.value, row.floor) == ("3.25", "80")
