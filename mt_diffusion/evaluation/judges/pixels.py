"""Pixels against true ones: restorations of an image, and pairs of images."""

import itertools

import numpy as np
from skimage.metrics import structural_similarity

from mt_diffusion.evaluation import quality
from mt_diffusion.evaluation.draws import Drawn, fixes_pixels
from mt_diffusion.evaluation.metrics import Mark, Metric
from mt_diffusion.evaluation.real import Real, noise
from mt_diffusion.modalities.base import Modality, Variable

LEVELS = 255
WINDOW = 7  # of SSIM


def judge_restoration(variable: Modality, drawn: Drawn, real: Real) -> list[Metric]:
    """Of images of which this variable gave some pixels.

    PSNR is that of the mean squared error over all hidden pixels of all images.
    """
    experiment = real.experiment
    if variable.name not in drawn.draw.given:
        return []
    if not fixes_pixels(drawn.draw, experiment, drawn.truth):
        return []
    known = variable.known(drawn.true(variable.name))
    seen = np.asarray(known.mask) > 0
    if seen.all():
        return []
    primary = experiment.primary
    true = primary.postprocess(drawn.true(primary.name))
    made = drawn.made[primary.name]
    mean = np.where(seen, true, np.round(real.mean_image).astype(np.uint8))
    filler = "the training mean in the hidden pixels"
    both = {"made": made, "mean": mean, "true": true}
    features = {n: real.features(x, f"restored, {n}").pooled for n, x in both.items()}
    identical = float(np.mean(((made == true) | ~seen).all(axis=(1, 2, 3))))
    return [
        Metric(
            "restoration_hidden_psnr",
            psnr(made, true, ~seen),
            "higher",
            Mark(psnr(mean, true, ~seen), filler),
        ),
        Metric(
            "restoration_ssim",
            ssim(made, true),
            "higher",
            Mark(ssim(mean, true), filler),
            Mark(1.0, "the true image"),
        ),
        Metric(
            f"restoration_distance_{real.network.name}",
            distance(features["made"], features["true"]),
            "lower",
            Mark(distance(features["mean"], features["true"]), filler),
            Mark(0.0, "the true image"),
        ),
        Metric(
            f"restoration_diversity_{real.network.name}",
            diversity(features["made"], drawn.num_true),
            "higher",
            Mark(0.0, "one filling for all"),
        ),
        Metric("seen_pixels_identical", identical, "higher", None, Mark(1.0, "all")),
    ]


def judge_pair(variable: Modality, drawn: Drawn, real: Real) -> list[Metric]:
    """Of one image of a pair that was generated for the other one."""
    primary = real.experiment.primary
    given = set(drawn.draw.given) & {primary.name, variable.name}
    if len(given) != 1:
        return []
    made_one = variable if primary.name in given else primary
    return compare_pair(made_one, variable, drawn, real)


def compare_pair(
    made_one: Variable, variable: Modality, drawn: Drawn, real: Real
) -> list[Metric]:
    """PSNR, SSIM and the distance of distributions to the true images of that side."""
    rows = drawn.available[variable.name][np.arange(drawn.num) % drawn.num_true]
    if rows.sum() < 2:
        return []
    true = made_one.postprocess(drawn.true(made_one.name))[rows]
    made = drawn.made[made_one.name][rows]
    everywhere = np.ones(true.shape, bool)
    mean = np.broadcast_to(np.round(true.mean(axis=0)).astype(np.uint8), true.shape)
    of, other = f"the mean of {made_one.name}", np.roll(true, 1, axis=0)
    found, target, random = (
        quality.statistics(real.features(x, made_one.name).pooled)
        for x in (made, true, noise(true.shape))
    )
    return [
        Metric(
            f"pair_psnr_{made_one.name}",
            psnr(made, true, everywhere),
            "higher",
            Mark(psnr(mean, true, everywhere), of),
        ),
        Metric(
            f"pair_ssim_{made_one.name}",
            ssim(made, true),
            "higher",
            Mark(ssim(other, true), "images of other pairs"),
            Mark(1.0, "the true image"),
        ),
        Metric(
            f"pair_frechet_{made_one.name}_{real.network.name}",
            quality.frechet_distance(found, target),
            "lower",
            Mark(quality.frechet_distance(random, target), "uniform noise"),
            Mark(0.0, "the true images"),
        ),
    ]


def psnr(made: np.ndarray, true: np.ndarray, where: np.ndarray) -> float:
    """Decibels, of the mean squared error over `where`; 8 bits."""
    error = (made.astype(np.float64) - true) ** 2
    mean = np.mean(error, where=np.broadcast_to(where, error.shape))
    return float(10 * np.log10(LEVELS**2 / max(mean, 1e-10)))


def ssim(made: np.ndarray, true: np.ndarray) -> float:
    """Mean structural similarity of uint8 [N, H, W, C] (Wang et al., 7 x 7 windows)."""
    size = min(WINDOW, *made.shape[1:3])
    size -= 1 - size % 2
    values = [
        structural_similarity(a, b, win_size=size, data_range=LEVELS, channel_axis=-1)
        for a, b in zip(made, true, strict=True)
    ]
    return float(np.mean(values))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Euclidean distance of features row by row."""
    return float(np.linalg.norm(a - b, axis=-1).mean())


def diversity(features: np.ndarray, num_examples: int) -> float:
    """Mean distance between the fills i, i + M, i + 2 M, ... of the same example."""
    fills = [
        features[start : start + num_examples]
        for start in range(0, len(features), num_examples)
    ]
    fills = [f for f in fills if len(f) == num_examples]
    pairs = [distance(a, b) for a, b in itertools.combinations(fills, 2)]
    return float(np.mean(pairs)) if pairs else 0.0
