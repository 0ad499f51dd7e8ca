"""Generated images: as good and as varied as real ones, and no copies of these."""

import functools

import numpy as np

from mt_diffusion.evaluation import quality
from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.features import Features
from mt_diffusion.evaluation.metrics import Mark, Metric
from mt_diffusion.evaluation.real import Real
from mt_diffusion.modalities.base import Variable

LIKENESS = {  # name: better
    "fid": "lower",
    "sfid": "lower",
    "kid": "lower",
    "inception_score": "higher",
    "precision": "higher",
    "recall": "higher",
}


def judge_quality(variable: Variable, drawn: Drawn, real: Real) -> list[Metric]:
    """FID, sFID, KID, Inception Score, precision and recall against the reference."""
    if variable.name in drawn.draw.given:
        return []
    made = compare(features_of(variable, drawn, real), real)
    noise, test = marks(real)
    of = f"{len(real.test_images):,} test images"
    return [
        Metric(
            f"{name}_{real.network.name}",
            made[name],
            better,
            Mark(noise[name], "uniform noise"),
            Mark(test[name], of),
        )
        for name, better in LIKENESS.items()
        if name in made
    ]


# Two judges ask for the features of a draw, and every draw for the marks.
@functools.lru_cache(maxsize=1)
def features_of(variable: Variable, drawn: Drawn, real: Real) -> Features:
    """Of the images of a draw."""
    return real.features(drawn.made[variable.name], drawn.draw.name)


@functools.lru_cache(maxsize=1)
def marks(real: Real) -> tuple[dict[str, float], dict[str, float]]:
    """What is said of noise, and of test images."""
    return compare(real.noise_features, real), compare(real.test_features, real)


def compare(found: Features, real: Real) -> dict[str, float]:
    """All that is said of one set of images against the reference."""
    pooled = quality.statistics(found.pooled)
    kept = real.reference_features
    precision, recall = quality.precision_recall(kept, found.pooled)
    values = {
        "fid": quality.frechet_distance(pooled, real.reference.pooled),
        "kid": quality.kernel_distance(kept, found.pooled)[0],
        "inception_score": quality.inception_score(found.logits)[0],
        "precision": precision,
        "recall": recall,
    }
    if found.spatial is not None and real.reference.spatial is not None:
        spatial = quality.statistics(found.spatial)
        values["sfid"] = quality.frechet_distance(spatial, real.reference.spatial)
    return values


def judge_memory(variable: Variable, drawn: Drawn, real: Real) -> list[Metric]:
    """How far the nearest training image is, as a multiple of test images' distance.

    About 1 is right: far below, images are copies; far above, they are no such images.
    Distances are those of features, medians.
    """
    if variable.name in drawn.draw.given:
        return []
    made = features_of(variable, drawn, real).pooled
    of_made, _ = quality.nearest(made, real.train_features)
    of_test = real.test_distances
    close = np.quantile(of_test, 0.01)
    name = real.network.name
    return [
        Metric(
            f"nearest_train_distance_{name}",
            float(np.median(of_made) / np.median(of_test)),
            "near",
            Mark(0.0, "copies of training images"),
            Mark(1.0, "test images"),
        ),
        Metric(
            f"closer_than_1_percent_of_test_{name}",
            float(np.mean(of_made < close)),
            "near",
            Mark(1.0, "copies of training images"),
            Mark(0.01, "test images"),
        ),
    ]
