"""Image quality by features: FID, sFID, KID, Inception Score, precision and recall.

As guided-diffusion's evaluator and torch-fidelity define them. What is small is float64
on the host; distances between all pairs are on the device, a block of rows at a time.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import special
from scipy.linalg import lapack

from mt_diffusion.errors import UserError
from mt_diffusion.parallel import batches

# As everyone reports them.
NUM_NEIGHBOURS = 3  # of precision and recall
NUM_SPLITS = 10  # of the Inception Score
NUM_SUBSETS, SUBSET_SIZE = 100, 1000  # of KID

SPARE = 4  # candidates beyond those asked for, as rounding may swap close ones
ROWS = 512  # of a block: it holds ROWS x N distances


class Statistics(NamedTuple):
    """A Gaussian fitted to features: mean [D] and unbiased covariance [D, D], float64.

    num: of how many examples; None where that is not known.
    """

    mu: Float[np.ndarray, " d"]
    sigma: Float[np.ndarray, "d d"]
    num: int | None


class Score(NamedTuple):
    """Mean and (population) standard deviation over splits or subsets."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1."""

    precision: float
    recall: float


class Moments:
    """First and second moments of features that come in parts, in float64."""

    def __init__(self):
        self.num = 0

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        """Counts n more examples, n >= 1."""
        features = np.asarray(features, np.float64)
        if not self.num:
            # Near the mean, so that no digits cancel in `statistics`.
            self._origin = features.mean(axis=0)
            self._sum, self._products = np.zeros_like(self._origin), 0.0
        features = features - self._origin
        self.num += len(features)
        self._sum += features.sum(axis=0)
        self._products += features.T @ features

    def statistics(self) -> Statistics:
        """Of all examples so far; UserError where these are fewer than two."""
        check_enough(self.num, 2, "a covariance")
        mean = self._sum / self.num
        scatter = self._products - self.num * np.outer(mean, mean)
        return Statistics(self._origin + mean, scatter / (self.num - 1), self.num)


def check_enough(num: int, least: int, what: str) -> None:
    """Raises UserError where `num` examples are too few for `what`."""
    if num < least:
        raise UserError(
            f"{what} needs {least:,} examples or more, but there are {num:,}; evaluate "
            "with more."
        )


def statistics(features: Float[np.ndarray, "n d"]) -> Statistics:
    """Mean and covariance of features; UserError for fewer than two examples."""
    moments = Moments()
    moments.add(features)
    return moments.statistics()


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): FID, sFID (Heusel 2017).

    With S = R R^T the trace of the root is the sum of the singular values of R_a^T R_b,
    to which singular covariances do no harm, unlike to a root of their product.
    """
    cross = np.linalg.svd(root(a.sigma).T @ root(b.sigma), compute_uv=False).sum()
    distance = np.sum((a.mu - b.mu) ** 2) + np.trace(a.sigma + b.sigma) - 2 * cross
    return max(float(distance), 0.0)  # below zero by rounding alone


def root(sigma: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """R with R R^T = sigma, r the rank: Cholesky's factor, pivoted."""
    factor, pivots, rank, _ = lapack.dpstrf(sigma, lower=1)
    found = np.empty((len(sigma), rank))
    found[pivots - 1] = np.tril(factor)[:, :rank]
    return found


def kernel_distance(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> Score:
    """KID: the unbiased MMD^2 under the kernel (x.y / D + 1)^3 (Binkowski 2018).

    Over subsets of both, drawn without replacement, of subset_size or of all of the
    smaller set. Raises UserError for sets of a single example.
    """
    subset_size = min(subset_size, len(reference), len(generated))
    check_enough(subset_size, 2, "KID")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_subsets):
        subsets = [
            features[rng.choice(len(features), subset_size, replace=False)]
            for features in (reference, generated)
        ]
        found.append(_squared_mmd(*(np.asarray(x, np.float64) for x in subsets)))
    return Score(float(np.mean(found)), float(np.std(found)))


def _squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    """Unbiased MMD^2 of two sets of one size."""

    def among(x):
        values = kernel(x, x)
        return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

    return among(x) + among(y) - 2 * kernel(x, y).mean()


def kernel(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "n m"]:
    """That of KID between all pairs."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def inception_score(
    logits: Float[np.ndarray, "n k"], num_splits: int = NUM_SPLITS
) -> Score:
    """Of classes: exp E[KL(p(y|x) || p(y))] (Salimans 2016).

    Over consecutive splits, as many as there are examples where these are fewer.
    """
    num_splits = min(num_splits, len(logits))
    p = special.softmax(np.asarray(logits, np.float64), axis=1)
    bounds = np.arange(num_splits + 1) * len(p) // num_splits
    scores = []
    for part in np.split(p, bounds[1:-1]):
        divergence = special.rel_entr(part, part.mean(axis=0, keepdims=True))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def precision_recall(
    reference: Float[np.ndarray, "n d"],
    generated: Float[np.ndarray, "m d"],
    k: int = NUM_NEIGHBOURS,
) -> PrecisionRecall:
    """Shares of one set on the manifold of the other (Kynkäänniemi 2019).

    The manifold of a set: balls around its members up to the k-th nearest other one.
    Raises UserError for k or fewer examples in either set.
    """
    num = min(len(reference), len(generated))
    check_enough(num, k + 1, f"precision and recall by {k} neighbours")
    return PrecisionRecall(
        precision=float(on_manifold(generated, reference, k).mean()),
        recall=float(on_manifold(reference, generated, k).mean()),
    )


def nearest(
    queries: Float[np.ndarray, "n d"], references: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """(distance, index) of the reference nearest to each query, Euclidean."""
    distances, indices = neighbours(queries, references, 1)
    return distances[:, 0], indices[:, 0]


def neighbours(
    queries: Float[np.ndarray, "n d"], references: Float[np.ndarray, "m d"], num: int
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """(distances, indices) of the k = `num` nearest references, nearest first.

    Raises UserError for fewer references.
    """
    check_enough(len(references), num, f"{num} neighbours")
    references, queries = _centred(references, queries)
    found = _closest(queries, references, np.zeros(len(references)), num)
    order = np.argsort(found[0], axis=1, kind="stable")[:, :num]
    nearest, indices = (np.take_along_axis(x, order, axis=1) for x in found)
    return nearest, indices


def _centred(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32 about one centre: products of distant vectors lose digits."""
    centre = np.mean(reference, axis=0, dtype=np.float64).astype(np.float32)
    first, second = (np.asarray(x, np.float32) for x in (reference, other))
    return first - centre, second - centre


def on_manifold(
    queries: Float[np.ndarray, "n d"], members: Float[np.ndarray, "m d"], k: int
) -> np.ndarray:
    """Which queries lie in a ball of the members' manifold. bool [N]."""
    members, queries = _centred(members, queries)
    distances, _ = _closest(members, members, np.zeros(len(members)), k + 1)
    radii = np.partition(distances, k, axis=1)[:, k]  # the first is the member itself
    distances, indices = _closest(queries, members, radii, 1)
    return (distances <= radii[indices]).any(axis=1)


def _closest(
    queries: Float[np.ndarray, "n d"],
    members: Float[np.ndarray, "m d"],
    radii: Float[np.ndarray, " m"],
    num: int,
) -> tuple[Float[np.ndarray, "n c"], Int[np.ndarray, "n c"]]:
    """Distances and indices of the members with the least |q - m|^2 - radius^2.

    Unsorted, c = num + SPARE of them where there are as many.
    """
    num = min(num + SPARE, len(members))
    rows = min(ROWS, len(queries))
    bias = np.sum(members**2, axis=1) - radii**2
    there, less = jnp.asarray(members), jnp.asarray(bias, jnp.float32)

    def closest(some):
        return _closest_block(queries[some % len(queries)], there, less, num)

    return batches.through(closest, range(len(queries)), rows)


@functools.partial(jax.jit, static_argnames="num")
def _closest_block(
    queries: Float[Array, "b d"],
    members: Float[Array, "m d"],
    bias: Float[Array, " m"],
    num: int,
) -> tuple[Float[Array, "b c"], Int[Array, "b c"]]:
    """Chosen by |m|^2 - radius^2 - 2 q.m, then measured without its cancellation."""
    products = jnp.matmul(queries, members.T, precision="highest")
    _, indices = jax.lax.top_k(2 * products - bias[None], num)
    differences = queries[:, None] - members[indices]
    return jnp.linalg.norm(differences, axis=-1), indices
