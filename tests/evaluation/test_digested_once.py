"""The digest of a model's parameters, all of whose bytes it reads, is taken once."""

import types

import pytest

from mt_diffusion.evaluation import evaluate
from mt_diffusion.experiment import exported
from mt_diffusion.inference import sampling
from mt_diffusion.report import export


class Enough(Exception):
    """All that the test looks at is done."""


def enough(*args, **settings):
    raise Enough


@pytest.fixture
def taken(monkeypatch):
    """The digests that were taken."""
    found, take = [], exported.digest

    def counted(params):
        found.append(take(params))
        return found[-1]

    monkeypatch.setattr(exported, "digest", counted)
    return found


DIGITS = exported.SHIPPED / "digits"


def test_by_sampling(taken, monkeypatch, tmp_path):
    monkeypatch.setattr(sampling, "in_parts", enough)
    with pytest.raises(Enough):
        sampling.sample(DIGITS, tmp_path / "out", 2, 0, [], {}, True)
    assert taken == [exported.facts(DIGITS)["digest"]]


def test_by_an_evaluation(taken, monkeypatch, tmp_path):
    real = types.SimpleNamespace(test=[])
    monkeypatch.setattr(evaluate, "open_real", lambda *_: real)
    monkeypatch.setattr(evaluate, "describe", lambda *_: {})
    monkeypatch.setattr(evaluate, "test_examples", lambda *_: None)
    monkeypatch.setattr(evaluate.drawing, "examples_for", lambda *_: None)
    monkeypatch.setattr(evaluate.drawing, "carry_out", enough)
    settings = evaluate.Settings(8, "joint", "convnet", "", "", "", 0)
    with pytest.raises(Enough):
        evaluate.evaluate(DIGITS, tmp_path / "out", settings, 0, {}, True)
    assert len(taken) == 1


def test_by_an_export(taken, tmp_path):
    model = export.of_workdir(DIGITS, {})
    export.export(model, tmp_path / "out")
    assert taken == []  # what is written has its own, by its dotted names
    found = exported.facts(tmp_path / "out")["digest"]
    assert found == exported.digest(model.params)
