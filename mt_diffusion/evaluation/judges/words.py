"""Words: whether those that are made for an image are its own, among all of the test.

Of words that are given nothing is asked here: who but the model itself could say that
an image is what they say. How good such images are stands among the image's figures.
"""

import numpy as np

from mt_diffusion.evaluation import uncertainty
from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.figures import Mark, Metric
from mt_diffusion.evaluation.judges import vector
from mt_diffusion.evaluation.real import Real
from mt_diffusion.modalities.text import Text

FIRST = (1, 10)  # of the captions, in order of their cosines


def judge(variable: Text, drawn: Drawn, real: Real) -> list[Metric]:
    """Cosine with the true caption, and its place among those of all test images given.

    Each of these has one of its captions; equal ones are one.
    """
    name, given = variable.name, drawn.draw.given
    if real.experiment.primary.name not in given or name in given:
        return []
    num = min(drawn.num, drawn.num_true, vector.MAX_ROWS)
    rows = np.flatnonzero(drawn.available[name][:num])
    if not len(rows):
        return []
    made = np.asarray(variable.comparable(drawn.values[name][rows]))
    return compare(made, np.asarray(variable.comparable(drawn.true(name)[rows])), name)


def compare(made: np.ndarray, own: np.ndarray, name: str) -> list[Metric]:
    """Of vectors [N, D] that were made, and the true ones: cosines and places."""
    captions, true = np.unique(own, axis=0, return_inverse=True)
    places = ranks(made, captions, true.reshape(-1))
    num, found = len(captions), [vector.cosine(made, own, name)]
    for k in FIRST:
        share = uncertainty.mean(places <= k)
        floor = Mark(k / num, "chance")
        if k < num:
            figure = f"{name}_recall_at_{k}_of_{num}"
            ceiling = Mark(1.0, "all")
            found.append(
                Metric(figure, share.value, "higher", floor, ceiling, share.error)
            )
    middle = lambda rows: float(np.median(places[rows]))  # noqa: E731
    every, mean = np.arange(len(places)), uncertainty.mean(places)
    median = middle(every), uncertainty.bootstrap(middle, every)
    marks = Mark((num + 1) / 2, "chance"), Mark(1.0, "always the first")
    for of, (value, error) in (("mean", mean), ("median", median)):
        figure = f"{name}_{of}_rank_of_{num}"
        found.append(Metric(figure, value, "lower", *marks, error))
    return found


def ranks(made: np.ndarray, captions: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The place of each true caption by its cosine, from 1 on, [N]; equals share.

    made: [N, D]. captions: [K, D]. true: which of them, [N].
    """
    cosines = vector.unit(made) @ vector.unit(captions).T
    own = cosines[np.arange(len(made)), true][:, None]
    before = np.sum(cosines > own, axis=1)
    return before + (1 + np.sum(cosines == own, axis=1)) / 2
