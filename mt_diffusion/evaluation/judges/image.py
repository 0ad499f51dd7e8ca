"""Generated images: as good and as varied as real ones, and no copies of these."""

import functools

import numpy as np

from mt_diffusion.evaluation import quality, uncertainty
from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.figures import Mark, Metric
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.evaluation.quality import Statistics
from mt_diffusion.evaluation.real import Real
from mt_diffusion.evaluation.uncertainty import Estimate
from mt_diffusion.protocol import Variable

LIKENESS = {  # name: better
    "fid": "lower",
    "fid_inf": "lower",
    "sfid": "lower",
    "kid": "lower",
    "inception_score": "higher",
    "precision": "higher",
    "recall": "higher",
}
CLOSE = 0.01  # share of test images that are closer to a training image
Estimates = dict[str, Estimate]


def judge_quality(variable: Variable, drawn: Drawn, real: Real) -> list[Metric]:
    """FID, sFID, KID, Inception Score, precision and recall against the reference.

    fid_inf: FID as endless examples would have it, so without the bias of their number.
    fid_there_and_back: of test images as the diffusion's space has them, where that
    loses something; no model of latents can be expected below.
    """
    if variable.name in drawn.draw.given:
        return []
    made = compare(features_of(variable, drawn, real), real, drawn.groups)
    noise, test = noise_marks(real), test_marks(real)
    return [
        Metric(
            f"{name}_{real.network.name}",
            made[name].value,
            better,
            noise[name],
            test.get(name),
            made[name].error,
        )
        for name, better in LIKENESS.items()
        if name in made
    ] + there_and_back(real)


# Two judges ask for the features of a draw, and every draw for the marks.
@functools.lru_cache(maxsize=1)
def features_of(variable: Variable, drawn: Drawn, real: Real) -> Features:
    """Of the images of a draw."""
    return real.features(drawn.made[variable.name], drawn.draw.name)


@functools.lru_cache(maxsize=1)
def noise_marks(real: Real) -> dict[str, Mark]:
    """What noise has."""
    found = compare(real.noise_features, real, np.arange(real.num))
    return {n: Mark(x.value, "uniform noise", x.error) for n, x in found.items()}


@functools.lru_cache(maxsize=1)
def test_marks(real: Real) -> dict[str, Mark]:
    """What test images reach: the mean over sets of as many as there are samples.

    Where there are fewer, FID and sFID, whose bias falls as 1/N, are moved to N along
    their line, whose curvature is then part of the spread; the others are those of the
    images that there are.
    """
    sets, num = real.test_sets, len(real.test_images)
    of = f"{num:,} test images"
    many = of if len(sets) == 1 else f"{len(sets)} sets of {of}"
    found = [compare(features, real, np.arange(num)) for features in sets]
    marks = {
        name: Mark(float(np.mean([f[name].value for f in found])), many, x.error)
        for name, x in found[0].items()
    }
    if uncertainty.LEAST <= num < real.num:
        for name, pair in frechet_pairs(sets[0], real).items():
            line = uncertainty.extrapolate(*pair)
            spread = float(np.hypot(marks[name].spread or 0.0, line.curvature))
            value = max(line.at(real.num), 0.0)  # no distance is below
            marks[name] = Mark(value, f"{of}, extrapolated to {real.num:,}", spread)
    return marks


@functools.lru_cache(maxsize=1)
def there_and_back(real: Real) -> list[Metric]:
    """FID of test images that went into the space and back; none where none changed."""
    found, name = real.returned_features, f"fid_there_and_back_{real.network.name}"
    if found is None:
        return []
    fid = frechet(found, real, np.arange(len(found.pooled)))["fid"]
    marks = noise_marks(real)["fid"], test_marks(real)["fid"]
    return [Metric(name, fid.value, "lower", *marks, fid.error)]


def frechet_pairs(
    found: Features, real: Real
) -> dict[str, tuple[np.ndarray, Statistics]]:
    """Features, and the statistics that a Fréchet distance compares them with."""
    pairs = {"fid": (found.pooled, real.reference.pooled)}
    if found.spatial is not None and real.reference.spatial is not None:
        pairs["sfid"] = found.spatial, real.reference.spatial
    return pairs


def compare(found: Features, real: Real, groups: np.ndarray) -> Estimates:
    """All that is said of one set of images against the reference, which is fixed.

    groups: which images hang together. Of a reference without images there are the
    Fréchet distances alone, beside the Inception Score, which needs none.
    """
    made, k = found.pooled, quality.NUM_NEIGHBOURS
    score = quality.inception_score(found.logits)
    splits = min(quality.NUM_SPLITS, len(made))  # disjoint, so their spread tells
    error = score.std / np.sqrt(splits - 1)
    figures = {"inception_score": Estimate(score.mean, error)}
    figures |= frechet(found, real, groups)
    if real.reference.images is None:
        return figures
    kept = real.reference_features
    quality.check_enough(min(len(kept), len(made)), k + 1, "recall")
    kid = quality.kernel_distance(kept, made).mean
    recall = float(quality.on_manifold(kept, made, k).mean())
    return figures | {
        "kid": Estimate(kid, uncertainty.of_kernel(kept, made)),
        "precision": uncertainty.mean(quality.on_manifold(made, kept, k), groups),
        "recall": Estimate(recall, uncertainty.of_recall(kept, made, k)),
    }


def frechet(found: Features, real: Real, groups: np.ndarray) -> Estimates:
    """FID and sFID, and FID of endless examples where there are enough for a line."""
    values = {}
    for name, (features, target) in frechet_pairs(found, real).items():
        distance = quality.frechet_distance(quality.statistics(features), target)
        error = uncertainty.of_frechet(features, target, groups)
        values[name] = Estimate(distance, error)
    if len(found.pooled) >= uncertainty.LEAST:
        line = uncertainty.extrapolate(found.pooled, real.reference.pooled)
        error = float(np.hypot(values["fid"].error or 0.0, line.curvature))
        values["fid_inf"] = Estimate(line.infinity, error)
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
    of_test, name = real.test_distances, real.network.name
    close = uncertainty.mean(of_made < np.quantile(of_test, CLOSE), drawn.groups)
    ratio = float(np.median(of_made) / np.median(of_test))
    own = median_error(of_made, drawn.groups)
    test = median_error(of_test, np.arange(len(of_test)))
    as_many = test * np.sqrt(len(of_test) / drawn.num)
    return [
        Metric(
            f"nearest_train_distance_{name}",
            ratio,
            "near",
            Mark(0.0, "copies of training images"),
            Mark(1.0, "test images", float(np.hypot(as_many, test))),
            float(ratio * np.hypot(own, test)),
        ),
        Metric(
            f"closer_than_1_percent_of_test_{name}",
            close.value,
            "near",
            Mark(1.0, "copies of training images"),
            share_below_quantile(len(of_test), drawn.num),
            close.error,
        ),
    ]


def median_error(distances: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of a median, as a share of it; 0 where it is 0, as of copies."""
    median = np.median(distances)
    error = uncertainty.bootstrap(lambda rows: np.median(distances[rows]), groups)
    return float(error / median) if median else 0.0


def share_below_quantile(num_known: int, num: int) -> Mark:
    """How many of `num` draws lie below the 1% quantile of `num_known` equal ones.

    The r-th smallest has r / (num_known + 1) below it on average, by Beta's law; the
    quantile, which numpy interpolates, is the one with r = 1 + 0.01 (num_known - 1).
    """
    share = (1 + CLOSE * (num_known - 1)) / (num_known + 1)
    spread = np.sqrt(share * (1 - share) * (1 / num + 1 / (num_known + 2)))
    return Mark(share, "test images", float(spread))
