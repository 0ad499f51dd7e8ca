"""Standard errors of figures, and what more examples would make of them.

Examples may come in groups, such as four fillings of one image: groups are what is
independent, so groups are what is drawn anew. `groups` [N] are any integers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mt_diffusion.evaluation import quality
from mt_diffusion.evaluation.quality import Statistics

RESAMPLES = 200  # of a bootstrap: its error is then known to 5%
HALVINGS = 3  # at random, of the examples, for their Fréchet distances
LEAST = 8  # examples of which quarters have a covariance
MAX_KERNEL = 2000  # examples whose kernel, of all pairs, is held
PARTS = 5  # disjoint ones, for what resampled examples can't tell
EMPTY = 1e-10  # of the largest eigenvalue: none


class Estimate(NamedTuple):
    """A figure and its standard error; None or NaN where that is not known."""

    value: float
    error: float | None


def mean(
    values: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None = None
) -> Estimate:
    """Of single examples' values."""
    return Estimate(float(np.mean(values)), of_mean(values, groups))


def of_mean(
    values: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"] | None = None
) -> float:
    """Standard error of the mean of values: a bootstrap's after endless resamples.

    sqrt(p (1 - p) / N) for a share p of single examples.
    """
    values = np.asarray(values, np.float64)
    groups = np.arange(len(values)) if groups is None else groups
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, weights=values - values.mean())
    return float(np.sqrt(np.sum(sums**2)) / len(values))


def bootstrap(
    statistic: Callable[[Int[np.ndarray, " m"]], float],
    groups: Int[np.ndarray, " n"],
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Standard error of statistic(rows) when as many groups are drawn anew.

    rows: of the examples drawn, some of them several times.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    num, found = group.max() + 1, []
    for _ in range(num_resamples):
        times = np.bincount(rng.integers(num, size=num), minlength=num)
        found.append(statistic(np.repeat(np.arange(len(group)), times[group])))
    return float(np.std(found, ddof=1))


def of_frechet(
    features: Float[np.ndarray, "n d"],
    reference: Statistics,
    groups: Int[np.ndarray, " n"],
) -> float:
    """Standard error of the Fréchet distance to the reference, by its derivative.

    Example x moves it by 2 (mu - mu_r).(x - mu) + (x - mu)^T (1 - T) (x - mu) over N,
    where T maps N(mu, S) onto the reference. A bootstrap's repeated examples lower the
    rank of S: with 64 features of 200 examples it says three or four times too much.
    """
    own = quality.statistics(features)
    root = quality.root(reference.sigma)
    values, vectors = np.linalg.eigh(root.T @ own.sigma @ root)
    there = values > EMPTY * values.max(initial=0)
    half = root @ vectors[:, there] * values[None, there] ** -0.25  # T = half half^T
    x = np.asarray(features, np.float64) - own.mu[None]
    moved = 2 * x @ (own.mu - reference.mu)
    moved += np.sum(x**2, axis=1) - np.sum((x @ half) ** 2, axis=1)
    return of_mean(moved, groups)


class Line(NamedTuple):
    """Fréchet distance of N examples: infinity + slope / N.

    curvature: by how much infinity would change if the line were a parabola.
    """

    infinity: float
    slope: float
    curvature: float

    def at(self, num: int) -> float:
        """The distance that `num` examples would have."""
        return self.infinity + self.slope / num


def extrapolate(
    features: Float[np.ndarray, "n d"], reference: Statistics, seed: int = 0
) -> Line:
    """Fréchet distance of endless examples (FID-infinity, Chong & Forsyth 2020).

    A linear fit in 1/N of the distances of all examples and of random halves. The law
    is a series in D/N: smaller parts would tilt the line more than they steady it, so
    quarters only tell how far it bends. Raises UserError for fewer than 8 examples.
    """
    quality.check_enough(len(features), LEAST, "an extrapolation of FID")
    rng, found = np.random.default_rng(seed), []
    for num_parts, times in ((1, 1), (2, HALVINGS), (4, 1)):
        for _ in range(times):
            order = rng.permutation(len(features))
            found += [features[rows] for rows in np.array_split(order, num_parts)]
    x = np.array([1 / len(part) for part in found])
    y = np.array(distances(found, reference))
    line = slice(1 + 2 * HALVINGS)
    slope, infinity = np.polyfit(x[line], y[line], 1)
    bent = np.polyfit(x, y, 2)[-1]
    return Line(float(infinity), float(slope), float(abs(bent - infinity)))


def distances(
    sets: list[Float[np.ndarray, "n d"]], reference: Statistics
) -> list[float]:
    """Fréchet distances to one reference, by eigenvalues: 1e-8 for a fifth of the time.

    `quality.frechet_distance` is exact where covariances are singular.
    """
    root, found = quality.root(reference.sigma), []
    for features in sets:
        mu, sigma, _ = quality.statistics(features)
        cross = np.linalg.eigvalsh(root.T @ sigma @ root).clip(min=0)
        traces = np.trace(sigma) + np.trace(reference.sigma)
        cross = np.sum((mu - reference.mu) ** 2) + traces - 2 * np.sqrt(cross).sum()
        found.append(float(cross))
    return found


def of_kernel(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Standard error of KID, a bootstrap over the generated examples.

    Pairs of an example with its own copy don't count, as it is unbiased. By 2,000
    examples of each set where there are more, scaled by the root of their number.
    """
    rng = np.random.default_rng(seed)
    x, y = (
        np.asarray(z[rng.permutation(len(z))[:MAX_KERNEL]], np.float64)
        for z in (reference, generated)
    )
    among, across = quality.kernel(y, y), quality.kernel(x, y).mean(axis=0)
    np.fill_diagonal(among, 0)
    times = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), num_resamples)
    times = times[times.max(axis=1) < len(y)]  # of a single example there is no pair
    pairs = len(y) ** 2 - np.sum(times**2, axis=1)
    found = np.sum(times @ among * times, axis=1) / pairs
    found -= 2 * times @ across / len(y)
    return float(np.std(found, ddof=1) * np.sqrt(len(y) / len(generated)))


def of_recall(
    reference: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"], k: int
) -> float:
    """Standard error of recall, from its spread over five disjoint parts.

    Not a bootstrap: an example drawn twice is its own neighbour, and the manifold
    shrinks. Right within a factor of two; NaN where parts have k or fewer examples.
    """
    size = len(generated) // PARTS
    if size <= k:
        return float("nan")
    parts = np.random.default_rng(0).permutation(len(generated))[: size * PARTS]
    found = [
        quality.on_manifold(reference, generated[rows], k).mean()
        for rows in np.split(parts, PARTS)
    ]
    return float(np.std(found, ddof=1) / np.sqrt(PARTS))
