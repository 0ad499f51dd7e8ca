"""Pixels against true ones: restorations of an image, and pairs of images."""

import itertools

import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import needs
from mt_diffusion.evaluation import quality, uncertainty
from mt_diffusion.evaluation.draws import Drawn, fixes_pixels
from mt_diffusion.evaluation.figures import Mark, Metric
from mt_diffusion.evaluation.real import Real, noise
from mt_diffusion.evaluation.uncertainty import Estimate
from mt_diffusion.protocol import Modality, Variable

with needs("eval", "an evaluation"):
    from skimage.metrics import structural_similarity

LEVELS = 255
WINDOW = 7  # of SSIM
LEAST_ERROR = 1e-10  # mean square, of images that are equal
HALVINGS = 10


def judge_restoration(variable: Modality, drawn: Drawn, real: Real) -> list[Metric]:
    """Of images of which this variable gave some pixels.

    PSNR is that of the mean squared error over all hidden pixels of all images; where
    those that were seen have changed, there is one of them as well.
    """
    experiment = real.experiment
    if variable.name not in drawn.draw.given:
        return []
    if not fixes_pixels(drawn.draw, experiment, drawn.truth):
        return []
    known = variable.known(jnp.asarray(drawn.true(variable.name)))
    assert known is not None  # for it fixes pixels
    seen = experiment.space.seen(np.asarray(known.mask)) > 0
    if seen.all():
        return []
    primary = experiment.primary
    true = primary.postprocess(drawn.true(primary.name))
    made = drawn.made[primary.name]
    mean = np.where(seen, true, np.round(real.mean_image).astype(np.uint8))
    filler = "the training mean in the hidden pixels"
    both = {"made": made, "mean": mean, "true": true}
    features = {n: real.features(x, f"restored, {n}").pooled for n, x in both.items()}
    far, far_mean = (distances(features[n], features["true"]) for n in ("made", "mean"))
    groups = drawn.groups
    same = ((made == true) | ~seen).all(axis=(1, 2, 3))
    seam = []
    if not same.all():  # as of latents, whose decoder looks around
        kept = psnr_estimate(made, true, seen, groups)
        seam = [measured("restoration_seen_psnr", kept, None)]
    return [
        *seam,
        measured(
            "restoration_hidden_psnr",
            psnr_estimate(made, true, ~seen, groups),
            Mark(psnr(mean, true, ~seen), filler),
        ),
        measured(
            "restoration_ssim",
            uncertainty.mean(ssims(made, true), groups),
            Mark(ssim(mean, true), filler),
            Mark(1.0, "the true image"),
        ),
        measured(
            f"restoration_distance_{real.network.name}",
            uncertainty.mean(far, groups),
            Mark(float(far_mean.mean()), filler),
            Mark(0.0, "the true image"),
            better="lower",
        ),
        measured(
            f"restoration_diversity_{real.network.name}",
            diversity(features["made"], drawn.num_true),
            Mark(0.0, "one filling for all"),
        ),
        measured(
            "seen_pixels_identical",
            uncertainty.mean(same, groups),
            None,
            Mark(1.0, "all"),
        ),
    ]


def measured(
    name: str,
    found: Estimate,
    floor: Mark | None,
    ceiling: Mark | None = None,
    better: str = "higher",
) -> Metric:
    """A metric by its estimate."""
    return Metric(name, found.value, better, floor, ceiling, found.error)


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
    groups = drawn.groups[rows]
    everywhere = np.ones(true.shape, bool)
    mean = np.broadcast_to(np.round(true.mean(axis=0)).astype(np.uint8), true.shape)
    of, other = f"the mean of {made_one.name}", np.roll(true, 1, axis=0)
    return [
        measured(
            f"pair_psnr_{made_one.name}",
            psnr_estimate(made, true, everywhere, groups),
            Mark(psnr(mean, true, everywhere), of),
        ),
        measured(
            f"pair_ssim_{made_one.name}",
            uncertainty.mean(ssims(made, true), groups),
            Mark(ssim(other, true), "images of other pairs"),
            Mark(1.0, "the true image"),
        ),
        pair_frechet(made_one.name, made, true, groups, real),
    ]


def pair_frechet(
    name: str, made: np.ndarray, true: np.ndarray, groups: np.ndarray, real: Real
) -> Metric:
    """Distance of distributions to the true images, one of which each group has."""
    own, features, random = (
        real.features(x, name).pooled for x in (made, true, noise(true.shape))
    )
    target = quality.statistics(features)
    distance = quality.frechet_distance(quality.statistics(own), target)
    of_noise = quality.frechet_distance(quality.statistics(random), target)
    _, first = np.unique(groups, return_index=True)
    return measured(
        f"pair_frechet_{name}_{real.network.name}",
        Estimate(distance, uncertainty.of_frechet(own, target, groups)),
        Mark(of_noise, "uniform noise"),
        two_halves(features[first]),
        better="lower",
    )


def two_halves(features: np.ndarray) -> Mark:
    """What as many other true images would have, by random halves of these.

    The distance of two sets falls as the sum of 1/N of both: of halves it is twice that
    of the whole set to another one.
    """
    if len(features) < 4:
        return Mark(0.0, "the true images")
    rng, found = np.random.default_rng(0), []
    for _ in range(HALVINGS):
        halves = np.array_split(features[rng.permutation(len(features))], 2)
        found.append(quality.frechet_distance(*map(quality.statistics, halves)) / 2)
    of = f"{len(features):,} other true images, by halves of these"
    return Mark(float(np.mean(found)), of, float(np.std(found, ddof=1)))


def psnr(made: np.ndarray, true: np.ndarray, where: np.ndarray) -> float:
    """Decibels, of the mean squared error over `where`; 8 bits."""
    error = (made.astype(np.float64) - true) ** 2
    mean = np.mean(error, where=np.broadcast_to(where, error.shape))
    return float(10 * np.log10(LEVELS**2 / max(mean, LEAST_ERROR)))


def psnr_estimate(
    made: np.ndarray, true: np.ndarray, where: np.ndarray, groups: np.ndarray
) -> Estimate:
    """PSNR, and its error by that of the mean over images that hang together."""
    where = np.broadcast_to(where, true.shape)
    errors = np.where(where, (made.astype(np.float64) - true) ** 2, 0)
    sums, nums = (x.sum(axis=(1, 2, 3)) for x in (errors, where))
    mean = sums.sum() / nums.sum()
    error = uncertainty.of_mean((sums - mean * nums) / nums.mean(), groups)
    decibels = 10 / np.log(10) * error / max(mean, LEAST_ERROR)
    return Estimate(psnr(made, true, where), float(decibels))


def ssim(made: np.ndarray, true: np.ndarray) -> float:
    """Mean structural similarity of uint8 [N, H, W, C]."""
    return float(ssims(made, true).mean())


def ssims(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Structural similarity of each image [N] (Wang et al., 7 x 7 windows)."""
    size = min(WINDOW, *made.shape[1:3])
    size -= 1 - size % 2
    values = [
        structural_similarity(a, b, win_size=size, data_range=LEVELS, channel_axis=-1)
        for a, b in zip(made, true, strict=True)
    ]
    return np.array(values)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Euclidean distance of features row by row."""
    return float(distances(a, b).mean())


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distance of features [N, D], of each row."""
    return np.linalg.norm(a - b, axis=-1)


def diversity(features: np.ndarray, num_examples: int) -> Estimate:
    """Mean distance between the fills i, i + M, i + 2 M, ... of the same example."""
    fills = [
        features[start : start + num_examples]
        for start in range(0, len(features), num_examples)
    ]
    fills = [f for f in fills if len(f) == num_examples]
    pairs = [distances(a, b) for a, b in itertools.combinations(fills, 2)]
    return uncertainty.mean(np.mean(pairs, axis=0)) if pairs else Estimate(0.0, None)
