"""Captions of examples, as modalities that read words take them from a data set.

And what their vectors are whitened by.
"""

from typing import Any

import numpy as np

from mt_diffusion.data import views
from mt_diffusion.data.rows import spread
from mt_diffusion.errors import UserError

DIGITS = 5  # of whitening, in a config
MOST_KNOWN = 10_000  # captions of the training set that are encoded ahead, and compared


def known(source: Any, feature: str) -> list[str]:
    """Captions of a source, each once; UserError where it has none."""
    of_all = captions_of(source, feature)
    found = list(dict.fromkeys(text for texts in of_all for text in texts))
    return [found[i] for i in spread(len(found), MOST_KNOWN)]


def as_texts(found: Any) -> list[str]:
    """The texts of an example: one or several, as text or bytes; no empty ones."""
    several = [found] if isinstance(found, str | bytes) else list(found)
    texts = [
        t.decode("utf8", "replace") if isinstance(t, bytes) else t for t in several
    ]
    return [text for text in map(str, texts) if text.strip()]


def captions_of(source: Any, feature: str) -> list[list[str]]:
    """Of each example of a source. Raises UserError where none has any."""
    found = getattr(source, views.CAPTIONS, None)
    if found is None or feature != views.CAPTION:
        chosen = (source[i] for i in spread(len(source), MOST_KNOWN))
        found = [as_texts(example.get(feature, ())) for example in chosen]
    if not any(found):
        raise UserError(
            f"the data has no {feature!r}, so it can't train a text; name a table of "
            "them with --config.data.captions=FILE.csv, or say --config.data.captions="
            "classes for the names of classes, or set config.modalities...feature to "
            "one that examples have."
        )
    return list(found)


def whiten(
    vectors: np.ndarray, num: int
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """The mean [E], and [num, E] that makes vectors [N, E] less it of unit covariance.

    Their `num` principal components.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    most = min(len(vectors) - 1, int(np.sum(variances > 1e-9 * variances[-1])))
    if num > most:
        mend = f"add --config.modalities...num_components={most}, or " if most else ""
        raise UserError(
            f"config.modalities...num_components is {num}, but the {len(vectors)} "
            f"different captions, vectors of {vectors.shape[1]} numbers, differ in "
            f"{most} directions: {mend}give others that say different things."
        )
    rows = (axes[:, -num:] / np.sqrt(variances[-num:])).T[::-1]
    rounded = lambda row: tuple(float(f"{x:.{DIGITS}g}") for x in row)  # noqa: E731
    return rounded(mean), tuple(map(rounded, rows))
