"""Words made for images, judged by their place among the captions of the test."""

import types

import numpy as np
import pytest

from mt_diffusion.evaluation import judging
from mt_diffusion.evaluation.draws import Draw, Drawn
from mt_diffusion.evaluation.judges import words
from mt_diffusion.experiment import experiment as experiments
from tests.evaluation import toy_evaluation
from tests.modalities.test_text import Source, config_of, resolve

RNG = np.random.default_rng(0)
REAL = types.SimpleNamespace(
    experiment=types.SimpleNamespace(primary=types.SimpleNamespace(name="image"))
)


def test_ranks_by_brute_force():
    made, captions = RNG.normal(size=(20, 5)), RNG.normal(size=(12, 5))
    true = RNG.integers(12, size=20)
    for vector, right, rank in zip(
        made, true, words.ranks(made, captions, true), strict=True
    ):
        near = [
            vector @ c / np.linalg.norm(vector) / np.linalg.norm(c) for c in captions
        ]
        order = sorted(range(12), key=lambda k: -near[k])
        assert rank == order.index(right) + 1
    # One that says nothing is in the middle of all.
    assert words.ranks(np.zeros((1, 5)), captions, true[:1]) == 6.5


def named(found):
    return {m.name: m for m in found}


def test_true_words_are_first_and_those_of_others_are_not():
    own = np.repeat(RNG.normal(size=(30, 6)), 4, axis=0)  # each of four images
    found = named(words.compare(3 * own, own, "text"))
    assert list(found) == [
        "text_cosine",
        "text_recall_at_1_of_30",
        "text_recall_at_10_of_30",
        "text_mean_rank_of_30",
        "text_median_rank_of_30",
    ]
    for metric in found.values():
        assert metric.value == pytest.approx(metric.ceiling.value)
        ends = metric.floor.value, metric.ceiling.value
        assert toy_evaluation.ORDER[metric.better](*ends)
        assert metric.standard_error == pytest.approx(0)
    assert found["text_recall_at_10_of_30"].floor.value == 10 / 30
    assert found["text_median_rank_of_30"].floor.value == 15.5
    # Chance, of vectors that know nothing: within four standard errors.
    several = np.repeat(RNG.normal(size=(30, 6)), 40, axis=0)
    by_chance = words.compare(RNG.normal(size=several.shape), several, "text")
    for metric in by_chance[:-1]:
        assert abs(metric.value - metric.floor.value) < 4 * np.hypot(
            metric.standard_error, metric.floor.spread or 0
        )
    assert len(words.compare(own[:40], own[:40], "text")) == 4  # ten captions: no @10


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        config = resolve(config_of())
        (found,) = experiments.build(config).modalities
        yield found


def drawn(text, given, made, rows=8, lacking=()):
    """A draw whose test images have these captions."""
    true = text.values_of([caption for caption, _ in Source.captions[:rows]])
    there = ~np.isin(np.arange(rows), lacking)
    vectors = np.concatenate([made, np.zeros_like(true[:, text.size :])], axis=1)
    return Drawn(
        draw=Draw(given),
        made={"image": np.zeros((rows, 8, 8, 1)), "text": text.postprocess(vectors)},
        values={} if "text" in given else {"text": vectors},
        truth={"image": np.zeros((rows, 8, 8, 1)), "text": true},
        available={"text": there},
    )


def test_it_is_asked_where_words_are_made_for_an_image(text):
    (judge,) = judging.of(text)
    true = text.values_of([c for c, _ in Source.captions[:8]])[:, : text.size]
    found = named(judge(text, drawn(text, ("image",), true), REAL))
    assert found["text_recall_at_1_of_8"].value == 1
    rolled = named(judge(text, drawn(text, ("image",), np.roll(true, 1, 0)), REAL))
    assert rolled["text_recall_at_1_of_8"].value == 0
    assert rolled["text_mean_rank_of_8"].value > 1
    some = drawn(
        text, ("image",), np.where(np.arange(8)[:, None] < 2, 7, true), 8, (0, 1)
    )
    assert named(judge(text, some, REAL))["text_recall_at_1_of_6"].value == 1
    none = drawn(text, ("image",), true, 8, range(8))
    for other in (drawn(text, (), true), drawn(text, ("text",), true), none):
        assert judge(text, other, REAL) == []
