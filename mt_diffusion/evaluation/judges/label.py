"""Labels: whether they fit their images, how they are spread, which are right."""

import numpy as np

from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.metrics import Mark, Metric
from mt_diffusion.evaluation.real import Real
from mt_diffusion.modalities.base import Modality

BINS = 15  # of confidence


def judge(variable: Modality, drawn: Drawn, real: Real) -> list[Metric]:
    """Coherence with the image; accuracy where the image is given; spread elsewhere."""
    primary, given = real.experiment.primary.name, drawn.draw.given
    found = []
    if not {primary, variable.name} <= set(given) and real.classifier is not None:
        found.append(coherence(drawn.made[variable.name], drawn.made[primary], real))
    if variable.name in given:
        return found
    if primary in given:
        return found + accuracy(variable, drawn, real)
    if len(real.train_labels):
        found.append(marginal(drawn.made[variable.name], real))
    return found


def coherence(labels: np.ndarray, images: np.ndarray, real: Real) -> Metric:
    """Share of the pairs on which a frozen classifier agrees with the label."""
    answers = real.classify(images, "classes")
    shuffled = np.random.default_rng(0).permutation(labels)
    return Metric(
        f"coherence_{real.classifier.name}",
        float(np.mean(answers == labels)),
        "higher",
        Mark(float(np.mean(answers == shuffled)), "shuffled labels"),
        right(real, "real test pairs"),
    )


def right(real: Real, of: str) -> Mark | None:
    """The classifier's accuracy; None without a classifier, or labels to test it on."""
    if real.classifier is None or np.isnan(real.classifier.accuracy):
        return None
    return Mark(real.classifier.accuracy, of)


def marginal(labels: np.ndarray, real: Real) -> Metric:
    """Total variation between the labels' shares and those of the training set."""
    classes = 1 + max(labels.max(), real.train_labels.max())
    true = np.bincount(real.train_labels, minlength=classes) / len(real.train_labels)
    made = np.bincount(labels, minlength=classes) / len(labels)
    drawn = np.random.default_rng(0).multinomial(len(labels), true) / len(labels)
    return Metric(
        "label_total_variation",
        total_variation(made, true),
        "lower",
        Mark(float(1 - true.max()), "always the commonest class"),
        Mark(total_variation(drawn, true), "as many draws of training labels"),
    )


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
    commonest = float(np.bincount(labels).max() / len(labels))
    floor = Mark(commonest, "always the commonest class")
    ceiling = right(real, "a supervised classifier")
    found = [
        Metric("label_top1", top(probabilities, labels, 1), "higher", floor, ceiling)
    ]
    if probabilities.shape[-1] > 5:
        found.append(Metric("label_top5", top(probabilities, labels, 5), "higher"))
    error = calibration_error(probabilities, labels)
    constant = Mark(abs(1 - commonest), "always the commonest class, and sure of it")
    found.append(Metric("label_ece", error, "lower", constant, Mark(0.0, "calibrated")))
    return found


def top(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows [N, K] whose k most probable classes hold the label."""
    best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :k]
    return float(np.mean((best == labels[:, None]).any(axis=-1)))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017)."""
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
