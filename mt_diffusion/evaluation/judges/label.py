"""Labels and clusters: do they fit images, how are they spread, which are right."""

import numpy as np

from mt_diffusion.data.rows import spread
from mt_diffusion.evaluation import uncertainty
from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.figures import Mark, Metric
from mt_diffusion.evaluation.real import Real
from mt_diffusion.modalities.cluster import Cluster
from mt_diffusion.protocol import Modality

BINS = 15  # of confidence
MAX_CLUSTERED = 10_000  # training examples whose clusters are found, at most
SIMULATIONS = 200  # of what a perfect model would have by as many examples


def judge(variable: Modality, drawn: Drawn, real: Real) -> list[Metric]:
    """Coherence with the image; accuracy where the image is given; spread elsewhere."""
    primary, given = real.experiment.primary.name, drawn.draw.given
    found = []
    if not {primary, variable.name} <= set(given) and real.classifier is not None:
        labels, images = drawn.made[variable.name], drawn.made[primary]
        found.append(coherence(labels, images, real, drawn.groups))
    if variable.name in given:
        return found
    if primary in given:
        return found + accuracy(variable, drawn, real)
    if len(real.train_labels):
        made, true = drawn.made[variable.name], real.train_labels
        found.append(marginal("label_total_variation", made, true, drawn.groups))
    return found


def judge_clusters(variable: Cluster, drawn: Drawn, real: Real) -> list[Metric]:
    """Whether an image is of its cluster, by centroids; how clusters are spread."""
    primary, given = real.experiment.primary.name, set(drawn.draw.given)
    made, found = drawn.made[variable.name], []
    if not {primary, variable.name} <= given:
        own = variable.clusters_of([{"image": image} for image in drawn.made[primary]])
        if (own >= 0).all():  # else they are of a feature that images don't have
            name = "cluster_coherence"
            found.append(agreement(name, "clusters", own, made, drawn.groups))
    if not {primary, variable.name} & given:
        chosen = spread(len(real.train), MAX_CLUSTERED)
        true = variable.clusters_of([real.train[i] for i in chosen])
        known = true[true >= 0]
        found.append(marginal("cluster_total_variation", made, known, drawn.groups))
    return found


def agreement(
    name: str,
    what: str,
    answers: np.ndarray,
    made: np.ndarray,
    groups: np.ndarray,
    ceiling: Mark | None = None,
) -> Metric:
    """Share of the images of which the judge's answer is what stands beside them.

    name: of the figure. what: 'labels' or 'clusters'. groups: which pairs hang
    together.
    """
    agreeing = uncertainty.mean(answers == made, groups)
    chance = uncertainty.mean(answers == np.random.default_rng(0).permutation(made))
    floor = Mark(chance.value, f"shuffled {what}", chance.error)
    return Metric(name, agreeing.value, "higher", floor, ceiling, agreeing.error)


def coherence(
    labels: np.ndarray, images: np.ndarray, real: Real, groups: np.ndarray
) -> Metric:
    """Share of the pairs on which a frozen classifier agrees with the label.

    groups: which pairs hang together.
    """
    answers = real.classify(images, "classes")
    ceiling = right(real, "real test pairs", len(np.unique(groups)))
    name = f"coherence_{real.classifier.name}"
    return agreement(name, "labels", answers, labels, groups, ceiling)


def right(real: Real, of: str, num: int) -> Mark | None:
    """The classifier's accuracy, its spread by `num` examples.

    None without a classifier, or labels to test it on.
    """
    if real.classifier is None or np.isnan(real.classifier.accuracy):
        return None
    share = real.classifier.accuracy
    return Mark(share, of, float(np.sqrt(share * (1 - share) / num)))


def marginal(
    name: str, labels: np.ndarray, known: np.ndarray, groups: np.ndarray
) -> Metric:
    """Total variation between the labels' shares and those of known training ones.

    name: of the figure, 'label_...' or 'cluster_...'. groups: which labels hang
    together. A perfect model draws as many from the shares.
    """
    classes = 1 + max(labels.max(), known.max())
    true = np.bincount(known, minlength=classes) / len(known)

    def distance(rows):
        made = np.bincount(labels[rows], minlength=classes) / len(rows)
        return total_variation(made, true)

    num = len(np.unique(groups))
    draws = np.random.default_rng(0).multinomial(num, true, SIMULATIONS) / num
    by_chance = [total_variation(draw, true) for draw in draws]
    return Metric(
        name,
        distance(np.arange(len(labels))),
        "lower",
        Mark(float(1 - true.max()), "always the commonest class"),
        simulated(by_chance, f"{num:,} draws of training {name.split('_')[0]}s"),
        uncertainty.bootstrap(distance, groups),
    )


def simulated(values: list[float], of: str) -> Mark:
    """Mean and deviation of simulations."""
    return Mark(float(np.mean(values)), of, float(np.std(values, ddof=1)))


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Half the sum of absolute differences, of probabilities [K]."""
    return float(np.abs(p - q).sum() / 2)


def accuracy(variable: Modality, drawn: Drawn, real: Real) -> list[Metric]:
    """Top-1, top-5 and calibration of labels that were generated for test images."""
    rows = drawn.available[variable.name][np.arange(drawn.num) % drawn.num_true]
    if not rows.any():
        return []
    probabilities = drawn.values[variable.name][rows]
    labels = drawn.true(variable.name)[rows].argmax(axis=-1)
    groups = drawn.groups[rows]
    num = len(np.unique(groups))
    commonest = float(np.bincount(labels).max() / len(labels))
    floor = Mark(commonest, "always the commonest class")
    ceiling = right(real, "a supervised classifier", num)
    first, five = (
        uncertainty.mean(top(probabilities, labels, k), groups) for k in (1, 5)
    )
    found = [Metric("label_top1", first.value, "higher", floor, ceiling, first.error)]
    if probabilities.shape[-1] > 5:
        top5 = Metric("label_top5", five.value, "higher", standard_error=five.error)
        found.append(top5)
    return [*found, calibration(probabilities, labels, groups, commonest)]


def calibration(
    probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, commonest: float
) -> Metric:
    """Expected calibration error beside that of a calibrated model of as many examples.

    groups: which rows have one example. commonest: share of the commonest class.
    """
    _, own = np.unique(groups, return_index=True)
    return Metric(
        "label_ece",
        calibration_error(probabilities, labels),
        "lower",
        Mark(abs(1 - commonest), "always the commonest class, and sure of it"),
        simulated(calibrated(probabilities[own]), f"{len(own):,} calibrated answers"),
        uncertainty.bootstrap(
            lambda rows: calibration_error(probabilities[rows], labels[rows]), groups
        ),
    )


def calibrated(probabilities: np.ndarray) -> list[float]:
    """Errors of these answers [N, K] to labels that are drawn from them.

    So by chance alone: 0 is out of reach for N examples.
    """
    rng = np.random.default_rng(0)
    bounds, num = np.cumsum(probabilities, axis=-1), len(probabilities)
    bounds /= bounds[:, -1:]
    return [
        calibration_error(probabilities, (rng.random((num, 1)) >= bounds).sum(axis=-1))
        for _ in range(SIMULATIONS)
    ]


def top(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the k most probable classes hold the label, of rows [N, K]."""
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=-1)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017)."""
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
