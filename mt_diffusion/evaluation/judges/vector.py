"""Representations: whether image and vector belong together."""

import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import uncertainty
from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.figures import Mark, Metric
from mt_diffusion.evaluation.real import Real
from mt_diffusion.modalities.representation import Representation

MAX_ROWS = 5000  # vectors that one is looked for among


def judge(variable: Representation, drawn: Drawn, real: Real) -> list[Metric]:
    """Cosine and R@1 between vectors and what their images are represented by.

    Of an image that is given the true vector is known; else it is computed, where the
    encoder is known (vectors of a data set's feature can't be).
    """
    primary, given = real.experiment.primary.name, drawn.draw.given
    if {primary, variable.name} <= set(given):
        return []
    num = min(drawn.num, drawn.num_true if given else drawn.num, MAX_ROWS)
    vectors = variable.normalise(drawn.made[variable.name][:num])
    if primary in given:
        rows = np.flatnonzero(drawn.available[variable.name][:num])
        if not len(rows):
            return []
        vectors, own = vectors[rows], drawn.true(variable.name)[rows]
    else:
        try:
            own = variable.representer.represent(drawn.made[primary][:num])
        except UserError:
            return []
        own = variable.normalise(own)
    return compare(vectors, own, variable.name)


def compare(vectors: np.ndarray, own: np.ndarray, name: str) -> list[Metric]:
    """Cosine with the own one, and whether it is the nearest of all [N, D]."""
    similarity = unit(own) @ unit(vectors).T
    nearest = np.all(vectors[similarity.argmax(axis=1)] == vectors, axis=1)
    nearest = uncertainty.mean(nearest)
    different = len(np.unique(vectors, axis=0))
    return [
        cosine(vectors, own, name),
        Metric(
            f"{name}_recall_at_1_of_{different}",
            nearest.value,
            "higher",
            Mark(1 / different, "chance"),
            Mark(1.0, "all"),
            nearest.error,
        ),
    ]


def cosine(vectors: np.ndarray, own: np.ndarray, name: str) -> Metric:
    """Of each vector with its own one, beside that with another's."""
    made, true = unit(vectors), unit(own)
    found = uncertainty.mean(np.sum(true * made, axis=1))
    others = uncertainty.mean(np.sum(true * np.roll(made, 1, axis=0), axis=1))
    return Metric(
        f"{name}_cosine",
        found.value,
        "higher",
        Mark(others.value, "vectors of others", others.error),
        Mark(1.0, "equal"),
        found.error,
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
