"""What judges say of samples made by hand: closed forms, brute force, real digits."""

import dataclasses
import itertools
import types

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from configs import image_cluster, image_representation, image_transition, joint
from mt_diffusion.data import pipeline, representers, sources
from mt_diffusion.evaluation import quality, reference
from mt_diffusion.evaluation import real as reals
from mt_diffusion.evaluation.draws import Draw, Drawn
from mt_diffusion.evaluation.judges import image, label, pixels, vector
from mt_diffusion.evaluation.real import Real
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.modalities import build as base
from mt_diffusion.parallel import sharding
from tests.evaluation import toy_evaluation

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def real():
    """Digits with edges, masks, labels and principal components."""
    config = joint.get_config("smoke")
    config.data.pair = "edges"
    config.modalities.image_b = image_transition.image_b(config)
    config.modalities.representation = image_representation.representation(config)
    config.presence = {"all": dict.fromkeys(config.modalities, "read") | {"share": 1.0}}
    config = toy_evaluation.shrink(config)
    train, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    network, mesh = toy_evaluation.network(), sharding.make_mesh()
    return Real(
        experiment=experiments.build(config),
        network=network,
        classifier=network,
        reference=reference.compute(train, network, 400, 512, mesh),
        train=train,
        test=test,
        num=300,
        batch_size=512,
        mesh=mesh,
    )


@pytest.fixture(scope="module")
def test_batch(real):
    """300 test examples."""
    experiment = real.experiment
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    return pipeline.first_examples(real.test, preprocess, real.num, 0)


@pytest.fixture
def perfect(real, test_batch):
    """(given, num_true, repeats, lacking) -> a draw whose answers are the truth.

    lacking: {modality: bool [num_true]}, which examples have no value.
    """

    def make(*given, num_true=300, repeats=1, lacking=None):
        truth = {"image": test_batch.z0} | dict(test_batch.values)
        truth = {n: v[:num_true] for n, v in truth.items()}
        available = {n: a[:num_true] for n, a in test_batch.available.items()}
        available |= {n: ~absent for n, absent in (lacking or {}).items()}
        values = {n: np.concatenate([v] * repeats) for n, v in truth.items()}
        variables = real.experiment.variables
        made = {n: variables[n].postprocess(v) for n, v in values.items()}
        vectors = {n: v for n, v in values.items() if v.ndim == 2 and n not in given}
        return Drawn(Draw(given), made, vectors, truth, available)

    return make


def but(drawn, **made):
    """The draw with other answers."""
    return dataclasses.replace(drawn, made=drawn.made | made)


def values(metrics):
    found = {m.name: m.value for m in metrics}
    assert len(found) == len(metrics)
    return found


def by_name(metrics):
    return {m.name: m for m in metrics}


def check_marks(metrics):
    """A ceiling is better than the floor beneath it; all are numbers."""
    for m in metrics:
        assert np.isfinite(m.value) and isinstance(m.value, float), m
        if m.floor and m.ceiling:
            order = toy_evaluation.ORDER[m.better]
            assert order(m.floor.value, m.ceiling.value), m


def test_real_images_are_read_once_and_in_order(real):
    images, labels = toy_evaluation.digits("test")
    np.testing.assert_array_equal(real.test_images, images[:300])
    assert len(dataclasses.replace(real, num=1000).test_images) == len(images) == 359
    train, labels = toy_evaluation.digits()
    np.testing.assert_array_equal(real.train_images, train)
    np.testing.assert_array_equal(real.train_labels, labels)
    np.testing.assert_allclose(real.mean_image, train.mean(axis=0))
    assert len(real.noise_features.pooled) == 300
    np.testing.assert_array_equal(reals.noise((2, 3)), reals.noise((2, 3)))


def test_examples_without_a_class_are_no_training_labels(real):
    class Some(list):
        class_names = ()

    pixel = np.zeros((8, 8, 1), np.uint8)
    examples = [{"image": pixel, "label": k} for k in (3, -1, 5)] + [{"image": pixel}]
    some = dataclasses.replace(real, train=Some(examples))
    np.testing.assert_array_equal(some.train_labels, [3, 5])


def test_real_images_are_better_than_noise_by_every_measure(real, perfect):
    found = image.judge_quality(real.experiment.primary, perfect(), real)
    assert [m.name for m in found] == [f"{n}_toy" for n in image.LIKENESS] and found
    check_marks(found)
    for m in found:  # the samples are the test images themselves
        assert m.value == pytest.approx(m.ceiling.value), m
        assert m.ceiling.of == "300 test images"


def test_what_a_space_loses_has_a_figure_of_its_own(real, perfect):
    """Of pixels there is none (above); here a space that keeps 2 bits of each."""
    coarse = types.SimpleNamespace(encode=lambda x: x // 64, decode=lambda z: z * 64)
    coarse.picture = real.experiment.space.picture
    experiment = types.SimpleNamespace(space=coarse, primary=real.experiment.primary)
    other = dataclasses.replace(real, experiment=experiment)
    found = by_name(image.judge_quality(experiment.primary, perfect(), other))
    returned = found["fid_there_and_back_toy"]
    seen = real.features(real.test_images // 64 * 64, "coarse").pooled
    wanted = quality.frechet_distance(quality.statistics(seen), real.reference.pooled)
    assert returned.value == pytest.approx(wanted)
    assert wanted > 1.2 * found["fid_toy"].value
    assert returned.ceiling == found["fid_toy"].ceiling


def test_the_reference_against_itself_is_perfect(real, perfect):
    made = but(perfect(), image=real.reference.images)
    found = values(image.judge_quality(real.experiment.primary, made, real))
    test = values(image.judge_quality(real.experiment.primary, perfect(), real))
    assert found["fid_toy"] < 1e-6 < test["fid_toy"]
    assert found["sfid_toy"] < 1e-6 < test["sfid_toy"]
    assert found["precision_toy"] == found["recall_toy"] == 1


def test_images_of_one_class_alone_are_precise(real, perfect):
    ones = real.reference.images[real.reference.labels == 1]
    made = but(perfect(), image=ones)
    found = values(image.judge_quality(real.experiment.primary, made, real))
    assert found["precision_toy"] == 1 > 0.9 > found["recall_toy"] > 0
    assert found["inception_score_toy"] < real_score(real) - 0.5


def real_score(real):
    return quality.inception_score(real.test_features.logits).mean


def test_copies_of_training_images_are_found(real, perfect):
    primary = real.experiment.primary
    copies, test = (
        by_name(image.judge_memory(primary, but(perfect(), image=made), real))
        for made in (real.train_images[500:600], real.test_images)
    )
    distance, close = "nearest_train_distance_toy", "closer_than_1_percent_of_test_toy"
    assert copies[distance].value < 1e-6 and copies[close].value == 1
    assert test[distance].value == 1 and 0 < test[close].value <= 0.01
    check_marks([*copies.values(), *test.values()])
    noise = but(perfect(), image=reals.noise((50, 8, 8, 1)))
    found = values(image.judge_memory(primary, noise, real))
    assert found[distance] > 2 and found[close] == 0


def test_given_images_are_not_judged(real, perfect):
    for judge in (image.judge_quality, image.judge_memory):
        assert judge(real.experiment.primary, perfect("image"), real) == []


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_by_ranks(k):
    p, labels = RNG.dirichlet(np.ones(7), 200), RNG.integers(7, size=200)
    ranks = [sum(row > row[y]) for row, y in zip(p, labels, strict=True)]
    np.testing.assert_array_equal(label.top(p, labels, k), [r < k for r in ranks])


def rows(confidence, num, num_right):
    """(probabilities [num, 4], labels) of that confidence in class 0."""
    p = np.full((num, 4), (1 - confidence) / 3)
    p[:, 0] = confidence
    return p, np.where(np.arange(num) < num_right, 0, 2)


def both(*parts):
    return (np.concatenate(x) for x in zip(*parts, strict=True))


@pytest.mark.parametrize("confidence", [0.3, 0.55, 0.9, 1.0])
@pytest.mark.parametrize("right", [0, 3, 10])
def test_calibration_of_a_constant_confidence(confidence, right):
    found = label.calibration_error(*rows(confidence, 10, right))
    assert found == pytest.approx(abs(confidence - right / 10))


def test_calibration_error_is_by_bins():
    """Perfect ones have none; errors of two bins add up, of one bin they cancel."""
    perfect = both(rows(0.6, 10, 6), rows(0.9, 10, 9))
    assert label.calibration_error(*perfect) == pytest.approx(0)
    wrong = both(rows(0.5, 10, 9), rows(0.8, 30, 18))
    expected = (10 * 0.4 + 30 * 0.2) / 40
    assert label.calibration_error(*wrong) == pytest.approx(expected)
    together = both(rows(0.81, 10, 10), rows(0.85, 10, 7))
    expected = 0.85 - (0.81 + 0.85) / 2
    assert label.calibration_error(*together) == pytest.approx(expected)


def test_calibration_error_by_brute_force():
    p = RNG.dirichlet(np.ones(4) / 2, 500)  # right as often, whatever the confidence
    labels = np.where(RNG.random(500) < 0.6, p.argmax(axis=1), p.argmin(axis=1))
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (p.max(1) >= low) & ((p.max(1) < low + 1 / 15) | (low == 14 / 15))
        if inside.any():
            right = np.mean(p.argmax(1)[inside] == labels[inside])
            total += inside.mean() * abs(right - p.max(1)[inside].mean())
    assert label.calibration_error(p, labels) == pytest.approx(total)


def test_total_variation_is_the_largest_difference_of_an_event():
    p, q = RNG.dirichlet(np.ones(5), 2)
    events = itertools.product([0, 1], repeat=5)
    largest = max(abs(np.dot(event, p - q)) for event in events)
    assert label.total_variation(p, q) == pytest.approx(largest)


def test_coherence_is_the_share_of_agreeing_pairs(real):
    images = real.train_images[:400]
    answers = real.classify(images, "classes")
    found = label.coherence(answers, images, real, np.arange(400))
    assert (found.name, found.value) == ("coherence_toy", 1.0)
    assert 0.02 < found.floor.value < 0.2  # of ten classes
    assert found.ceiling.value == real.classifier.accuracy
    wrong = np.where(np.arange(400) < 100, (answers + 1) % 10, answers)
    assert label.coherence(wrong, images, real, np.arange(400)).value == 0.75
    shuffled = label.coherence(RNG.permutation(answers), images, real, np.arange(400))
    assert 0.02 < shuffled.value < 0.2


def test_marginal_by_its_marks(real):
    true = real.train_labels

    def marginal(labels):
        return label.marginal("label_shares", labels, true, np.arange(len(labels)))

    assert marginal(true).value == pytest.approx(0)
    one = marginal(np.full(50, np.bincount(true).argmax()))
    assert one.value == pytest.approx(one.floor.value)
    assert one.floor.value == pytest.approx(1 - np.bincount(true).max() / len(true))
    drawn = marginal(RNG.choice(true, 300))
    assert 0.2 < drawn.value / drawn.ceiling.value < 5  # as much by chance
    check_marks([one, drawn])
    assert marginal(np.full(50, 12)).value == 1  # a class it doesn't have


@pytest.mark.parametrize(
    "given, names",
    [
        ((), {"coherence_toy", "label_total_variation"}),
        (("masked_image",), {"coherence_toy", "label_total_variation"}),
        (("label",), {"coherence_toy"}),
        (("image",), {"coherence_toy", "label_top1", "label_top5", "label_ece"}),
        (("image", "label"), set()),
    ],
)
def test_what_is_asked_about_a_label(real, perfect, given, names):
    variable = real.experiment.variables["label"]
    found = label.judge(variable, perfect(*given), real)
    check_marks(found)
    assert values(found).keys() == names
    without = dataclasses.replace(real, classifier=None)
    found = label.judge(variable, perfect(*given), without)
    assert values(found).keys() == names - {"coherence_toy"}


def test_clusters_are_judged_by_their_centroids(real):
    """Real images are of their own; a class for a cluster is seldom right."""
    images, digits = real.train_images, real.train_labels
    means = [images[digits == k].mean(axis=0).ravel() / 255 for k in range(10)]
    fields = image_cluster.get_config("smoke").modalities.cluster.to_dict()
    fields["centroids"] = tuple(map(tuple, means))
    fields["class_names"] = tuple("0123456789")
    cluster = base.build("cluster", fields, real.experiment.shape)
    flat = images.reshape(len(images), -1) / 255
    own = ((flat[:, None] - np.stack(means)) ** 2).sum(-1).argmin(1)

    def judge(made, *given):
        shown = {"image": images, "cluster": made}
        drawn = Drawn(Draw(given), shown, {}, {"image": images}, {})
        return by_name(label.judge_clusters(cluster, drawn, real))

    found = judge(own)
    assert found["cluster_coherence"].value == 1
    assert found["cluster_total_variation"].value == 0
    check_marks(found.values())
    some = np.where(np.arange(len(own)) % 4 == 0, (own + 1) % 10, own)
    wrong = judge(some)
    assert wrong["cluster_coherence"].value == pytest.approx(0.75, abs=1e-3)
    assert judge(some, "cluster").keys() == {"cluster_coherence"}
    assert not judge(some, "image", "cluster")


def test_accuracy_is_of_the_examples_that_have_a_label(real, perfect):
    """Row i answers for example i mod M; what lacks a label does not count."""
    lacking = np.arange(50) % 5 == 0
    drawn = perfect("image", num_true=50, repeats=3, lacking={"label": lacking})
    variable = real.experiment.variables["label"]
    found = by_name(label.accuracy(variable, drawn, real))
    assert found["label_top1"].value == found["label_top5"].value == 1
    assert found["label_ece"].value == 0
    true = drawn.truth["label"][~lacking].argmax(axis=-1)
    commonest = np.bincount(true).max() / len(true)
    assert found["label_top1"].floor.value == pytest.approx(commonest)
    assert found["label_ece"].floor.value == pytest.approx(1 - commonest)

    changed = np.tile(lacking | (np.arange(50) == 1), 3)[:, None]
    zero = 0.9 * np.eye(10)[0] + 0.1 * drawn.values["label"]
    wrong = {"label": np.where(changed, zero, drawn.values["label"])}
    found = values(
        label.accuracy(variable, dataclasses.replace(drawn, values=wrong), real)
    )
    assert drawn.truth["label"][1].argmax() != 0
    assert found["label_top1"] == pytest.approx(39 / 40) and found["label_top5"] == 1
    assert found["label_ece"] == pytest.approx(0.9 / 40)


def test_test_sets_without_labels_have_no_accuracy_and_no_marks(real, perfect):
    nan = real.classifier.replace(accuracy=float("nan"))
    unlabelled = dataclasses.replace(real, classifier=nan)
    lacking = {"label": np.ones(300, bool)}
    variable = real.experiment.variables["label"]
    (found,) = label.judge(variable, perfect("image", lacking=lacking), unlabelled)
    assert found.name == "coherence_toy" and found.ceiling is None


def test_training_sets_without_labels_have_no_marginal(real, perfect):
    class Some(list):
        class_names = ()

    images = Some([{"image": x} for x in real.train_images[:5]])
    unlabelled = dataclasses.replace(real, train=images)
    variable = real.experiment.variables["label"]
    found = values(label.judge(variable, perfect(), unlabelled))
    assert found.keys() == {"coherence_toy"}


def test_psnr_by_hand():
    true = RNG.integers(20, 200, (3, 8, 8, 2)).astype(np.uint8)
    where = np.zeros((3, 8, 8, 1), bool)
    where[:, :4] = True
    made = np.where(where, true + 10, true - 20).astype(np.uint8)  # no wrapping around
    for mask, error in [(where, 10), (~where, 20)]:
        expected = 20 * np.log10(255 / error)
        assert pixels.psnr(made, true, mask) == pytest.approx(expected)
    everywhere = np.ones(true.shape, bool)
    expected = 10 * np.log10(255**2 / ((100 + 400) / 2))
    assert pixels.psnr(made, true, everywhere) == pytest.approx(expected)
    assert 100 < pixels.psnr(true, true, everywhere) < np.inf


def test_ssim_of_equal_flat_and_other_images():
    images = RNG.integers(0, 256, (4, 9, 9, 3)).astype(np.uint8)
    assert pixels.ssim(images, images) == pytest.approx(1)
    a, b, c = 50, 90, (0.01 * 255) ** 2
    flat, other = (np.full((2, 5, 5, 1), x, np.uint8) for x in (a, b))  # a small window
    expected = (2 * a * b + c) / (a**2 + b**2 + c)
    assert pixels.ssim(flat, other) == pytest.approx(expected)
    expected = structural_similarity(
        images[0, ..., 0], images[1, ..., 0], data_range=255
    )
    grey = images[..., :1]
    assert pixels.ssim(grey[:1], grey[1:2]) == pytest.approx(expected)


@pytest.mark.parametrize("num", [12, 14])  # two more that are no whole fill
def test_diversity_by_brute_force(num):
    features = RNG.normal(size=(num, 5))
    found = [
        np.sqrt(np.sum((features[i + 3 * a] - features[i + 3 * b]) ** 2))
        for i in range(3)
        for a, b in itertools.combinations(range(4), 2)
    ]
    assert pixels.diversity(features, 3).value == pytest.approx(np.mean(found))
    assert pixels.diversity(np.tile(features[:3], (4, 1)), 3).value == 0
    assert pixels.diversity(features, 100) == (0, None)


def restoration(drawn, real):
    variable = real.experiment.variables["masked_image"]
    return by_name(pixels.judge_restoration(variable, drawn, real))


@pytest.fixture
def restored(perfect):
    """Four perfect fills of 20 images, and where their pixels are seen."""
    drawn = perfect("masked_image", num_true=20, repeats=4)
    return drawn, np.tile(drawn.truth["masked_image"][..., 1:] > 0, (4, 1, 1, 1))


def test_a_perfect_restoration(real, restored):
    found = restoration(restored[0], real)
    check_marks(found.values())
    assert found["restoration_ssim"].value == pytest.approx(1)
    assert found["restoration_distance_toy"].value == 0
    assert found["restoration_diversity_toy"].value == 0
    assert found["seen_pixels_identical"].value == 1
    floor = found["restoration_hidden_psnr"].floor.value
    assert found["restoration_hidden_psnr"].value > 100 > floor > 5


def test_one_seen_pixel_that_differs_is_noticed(real, restored):
    drawn, seen = restored
    made = drawn.made["image"].copy()
    i, y, x, _ = np.argwhere(seen)[-1]
    made[i, y, x] ^= 1
    hidden = drawn.made["image"] + 7 * ~seen.astype(bool)
    assert restoration(but(drawn, image=made), real)[
        "seen_pixels_identical"
    ].value == pytest.approx(79 / 80)
    found = restoration(but(drawn, image=hidden.astype(np.uint8)), real)
    assert found["seen_pixels_identical"].value == 1


def test_hidden_pixels_alone_have_a_psnr(real, restored):
    drawn, seen = restored
    true = drawn.made["image"]
    off = np.where(true < 128, true + 5, true - 5).astype(np.uint8)
    for made in (off, np.where(seen, true, off)):
        found = restoration(but(drawn, image=made), real)
        expected = 20 * np.log10(255 / 5)
        value = found["restoration_hidden_psnr"].value
        assert value == pytest.approx(expected)


def test_filling_with_the_mean_is_the_floor(real, restored):
    drawn, seen = restored
    mean = np.round(real.train_images.mean(axis=0)).astype(np.uint8)
    filled = np.where(seen, drawn.made["image"], mean)
    found = restoration(but(drawn, image=filled), real)
    for name in ("hidden_psnr", "ssim", "distance_toy"):
        m = found[f"restoration_{name}"]
        assert m.value == pytest.approx(m.floor.value)


def test_fills_that_differ_are_diverse(real, restored):
    drawn, seen = restored
    noise = reals.noise(drawn.made["image"].shape)
    noise[20:] = np.where(seen, drawn.made["image"], noise)[20:]
    found = restoration(but(drawn, image=noise), real)["restoration_diversity_toy"]
    pooled = real.features(noise, "brute force").pooled.reshape(4, 20, -1)
    distances = [
        np.linalg.norm(pooled[a] - pooled[b], axis=-1)
        for a, b in itertools.combinations(range(4), 2)
    ]
    assert found.value == pytest.approx(np.mean(distances), rel=1e-5)


def test_what_is_no_restoration_is_not_judged(real, perfect, restored):
    assert restoration(perfect(), real) == {}
    assert restoration(perfect("label"), real) == {}
    assert restoration(perfect("image", "masked_image"), real) == {}
    assert restoration(perfect("masked_image", "label"), real) != {}
    drawn, _ = restored
    unmasked = drawn.truth["masked_image"].copy()
    unmasked[..., 1:] = 1
    all_seen = dataclasses.replace(
        drawn, truth=drawn.truth | {"masked_image": unmasked}
    )
    assert restoration(all_seen, real) == {}


def pair(drawn, real):
    return by_name(pixels.judge_pair(real.experiment.variables["image_b"], drawn, real))


@pytest.mark.parametrize("given, made", [("image", "image_b"), ("image_b", "image")])
def test_pairs_in_both_directions(real, perfect, given, made):
    drawn = perfect(given, num_true=60, repeats=2)
    found = pair(drawn, real)
    names = [f"pair_psnr_{made}", f"pair_ssim_{made}", f"pair_frechet_{made}_toy"]
    assert list(found) == names
    check_marks(found.values())
    assert found[names[0]].value > 100 > found[names[0]].floor.value
    assert found[names[1]].value == pytest.approx(1)
    assert found[names[2]].value < 1e-6
    mean = np.round(drawn.made[made].mean(axis=0)).astype(np.uint8)
    flat = np.broadcast_to(mean, drawn.made[made].shape)
    m = pair(but(drawn, **{made: flat}), real)[names[0]]
    assert m.value == pytest.approx(m.floor.value)
    rolled = np.roll(drawn.made[made], 1, axis=0)
    m = pair(but(drawn, **{made: rolled}), real)[names[1]]
    assert m.value == pytest.approx(m.floor.value)
    noise = reals.noise(drawn.made[made].shape)
    m = pair(but(drawn, **{made: noise}), real)[names[2]]
    assert m.value == pytest.approx(m.floor.value)


def test_pairs_that_are_not_there_do_not_count(real, perfect):
    lacking = np.arange(60) % 2 == 0
    drawn = perfect("image", num_true=60, repeats=2, lacking={"image_b": lacking})
    made = drawn.made["image_b"].copy()
    made[np.tile(lacking, 2)] = 99
    drawn.truth["image_b"][lacking] = 0.5
    found = pair(but(drawn, image_b=made), real)
    assert found["pair_ssim_image_b"].value == pytest.approx(1)
    assert found["pair_frechet_image_b_toy"].value < 1e-6
    for absent in (np.ones(60, bool), np.arange(60) > 0):
        drawn = perfect("image", num_true=60, lacking={"image_b": absent})
        assert pair(drawn, real) == {}


def test_pairs_are_judged_where_one_side_is_made_for_the_other(real, perfect):
    for given in [(), ("label",), ("image", "image_b")]:
        assert pair(perfect(*given), real) == {}
    assert pair(perfect("image_b", "label"), real).keys() == {
        "pair_psnr_image",
        "pair_ssim_image",
        "pair_frechet_image_toy",
    }


def test_equal_vectors_and_those_of_others():
    own = RNG.normal(size=(40, 6))
    cosine, recall = vector.compare(3 * own, own, "v")
    assert (cosine.name, recall.name) == ("v_cosine", "v_recall_at_1_of_40")
    assert cosine.value == pytest.approx(1) and recall.value == 1
    assert recall.floor.value == 1 / 40
    check_marks([cosine, recall])
    cosine, recall = vector.compare(np.roll(own, 1, axis=0), own, "v")
    assert cosine.value != pytest.approx(1) and recall.value == 0
    order = np.arange(40)
    order[10:] = RNG.permutation(order[10:])
    _, recall = vector.compare(own[order], own, "v")
    assert recall.value == pytest.approx(np.mean(order == np.arange(40)))
    assert recall.value >= 10 / 40


def test_cosine_by_hand():
    own, made = np.array([[1.0, 0], [0, 2]]), np.array([[1.0, 1], [0, -1]])
    cosine, recall = vector.compare(made, own, "v")
    assert cosine.value == pytest.approx((np.sqrt(0.5) - 1) / 2)
    assert cosine.floor.value == pytest.approx((0 + np.sqrt(0.5)) / 2)
    assert recall.value == 0.5


def test_equal_vectors_are_no_feat():
    """One vector for all is as good as chance."""
    _, recall = vector.compare(np.ones((20, 3)), RNG.normal(size=(20, 3)), "v")
    assert recall.name == "v_recall_at_1_of_1"
    assert recall.value == recall.floor.value == 1


def represented(drawn, real):
    variable = real.experiment.variables["representation"]
    found = vector.judge(variable, drawn, real)
    return {n.removeprefix("representation_"): v for n, v in values(found).items()}


@pytest.mark.parametrize("given", [(), ("image",), ("representation",), ("label",)])
def test_true_vectors_belong_to_their_images(real, perfect, given):
    drawn = perfect(*given)
    found = represented(drawn, real)
    cosine, recall = found.values()
    assert cosine == pytest.approx(1, abs=1e-4) and recall == 1
    name = "representation" if given != ("representation",) else "image"
    rolled = but(drawn, **{name: np.roll(drawn.made[name], 1, axis=0)})
    cosine, recall = represented(rolled, real).values()
    assert abs(cosine) < 0.5 and recall < 0.1


def test_the_first_answers_stand_for_all_where_examples_repeat(real, perfect):
    """And those without a true vector are left out."""
    for given, made in [("image", "representation"), ("representation", "image")]:
        drawn = perfect(given, num_true=50, repeats=3)
        drawn.made[made][50:] = 7
        assert represented(drawn, real)["recall_at_1_of_50"] == 1
    lacking = {"representation": np.arange(50) < 20}
    drawn = perfect("image", num_true=50, repeats=3, lacking=lacking)
    drawn.made["representation"][:20] = 7
    found = represented(drawn, real)
    assert found["recall_at_1_of_30"] == 1
    lacking = {"representation": np.ones(50, bool)}
    assert represented(perfect("image", num_true=50, lacking=lacking), real) == {}


def test_where_vectors_can_not_be_told_they_are_not_judged(real, perfect):
    """Both are known already, or those of images made are not, as of a feature."""
    assert represented(perfect("image", "representation"), real) == {}
    variable = real.experiment.variables["representation"]
    told = dataclasses.replace(variable, vectors=f"{representers.FEATURE}vector")
    for given, num in [((), 0), (("representation",), 0), (("image",), 2)]:
        assert len(vector.judge(told, perfect(*given), real)) == num


def test_figures_are_the_same_whatever_the_batch(real):
    small = dataclasses.replace(real, batch_size=24)
    a, b = (r.features(real.test_images, "test").pooled for r in (real, small))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert quality.frechet_distance(*map(quality.statistics, (a, b))) < 1e-6
