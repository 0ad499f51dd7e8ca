"""The study of emoji: what it trains can be trained, and its figures are right."""

import importlib
import json

import numpy as np
import pytest

from mt_diffusion.command import overrides
from mt_diffusion.experiment import experiment as experiments
from studies import emoji, emoji_judge, emoji_pictures


@pytest.mark.parametrize("name", emoji.RUNS)
def test_what_is_trained_has_these_fields_and_modalities(name):
    run = emoji.RUNS[name]
    flags = ["", f"--config=configs/{run.config}.py:emoji", *run.options.split()]
    config = overrides.base_config(flags)
    experiments.check(config)
    given = {name for draw in run.draws for name in emoji.names_of(draw)[0]}
    assert given <= {"image", *config.modalities}
    module = importlib.import_module(f"configs.{run.config}")
    assert module.get_config("emoji").train.num_steps == config.train.num_steps


def test_recall_counts_the_right_text_among_the_first():
    texts = [str(i) for i in range(20)]
    ranked = [texts, texts, texts[::-1]]
    assert emoji_judge.recall(ranked, ["0", "9", "5"]) == {
        "recall_at_1": pytest.approx(1 / 3),
        "recall_at_10": pytest.approx(2 / 3),
    }


def test_what_is_given_is_in_the_order_of_the_held_out(tmp_path):
    class Held:
        captions, groups = ["a cat", "a dog"], ["Animals & Nature", "Flags"]
        images = {h: np.zeros((2, 8, 8, 3), np.uint8) for h in emoji_judge.HANDS}

    emoji.write_given(tmp_path, Held)
    flags = emoji.given_of(emoji.RUNS["to_b"], "image_b text label", tmp_path, Held)
    assert flags == [
        f"--given=image_b={tmp_path}/twitter",
        f"--given=text={tmp_path}/text.txt",
        "--given=label=Animals & Nature,Flags",
    ]
    flags = emoji.given_of(emoji.RUNS["text"], "text x2", tmp_path, Held)
    assert flags == [f"--given=text={tmp_path}/text.txt", "--guidance=2"]
    assert emoji.given_of(emoji.RUNS["text"], emoji.NOTHING, tmp_path, Held) == []
    assert (tmp_path / "text.txt").read_text() == "a cat\na dog\n"
    assert len(list((tmp_path / "google").glob("*.png"))) == 2


def test_pictures_are_of_what_was_drawn(tmp_path):
    class Held:
        captions = [f"thing {i}" for i in range(40)]
        groups = [f"group {i % 4}" for i in range(40)]
        images = {h: np.zeros((40, 32, 32, 3), np.uint8) for h in emoji_judge.HANDS}

    some = emoji_pictures.spread(Held, 14)
    assert len(some) == 14 and {Held.groups[i] for i in some} == set(Held.groups)
    made = np.full((40, 32, 32, 3), 200, np.uint8)
    for run, given in [("text", "text-x2"), ("transition", "image")]:
        folder = tmp_path / "draws" / f"{run}_0" / given
        folder.mkdir(parents=True)
        np.savez(folder / "samples.npz", image=made, image_b=made)
    seen = np.asarray(emoji_pictures.words(tmp_path, 0, Held))
    shown = np.mean(np.all(seen == 200, axis=-1)) * seen[..., 0].size
    assert shown == emoji_pictures.WORDS * 64**2  # as large as can be looked at
    with pytest.raises(FileNotFoundError, match="image_b"):
        emoji_pictures.hands(tmp_path, 0, Held)
    assert set(emoji_pictures.WAYS) <= set(emoji.RUNS["anything"].draws)


def test_the_table_is_of_runs_and_passes_their_curves_over(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "RESULTS", tmp_path)
    for seed, value in ((0, 0.25), (1, 0.75)):
        figures = {"nothing": {"image_frechet": value}}
        told = {"run": "ddpm", "seed": seed, "figures": figures}
        told = json.dumps(told | {"marks": {"chance": 0.5, "real": value}})
        (tmp_path / f"ddpm_{seed}.json").write_text(told)
    (tmp_path / "ddpm_0_curve.json").write_text(json.dumps({"curve": {}}))
    found = emoji.table()
    assert "| ddpm | nothing | image_frechet | 0.500 +- 0.354 | 2 |" in found
    assert "| chance | 0.500 |" in found and "| real | 0.250, 0.750 |" in found
