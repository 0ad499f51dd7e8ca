"""Both sides of the race have one network, and its table says what its files say."""

import argparse
import json

import pytest

from configs import common
from studies.race import __main__ as race
from studies.race import runs


def test_the_other_side_builds_the_presets_network():
    config, other = common.get_config("fashion_small"), runs.STUDY
    unet = config.unet
    assert (other.size, other.channels) == (
        config.data.image_size,
        config.data.channels,
    )
    assert (other.model_channels, other.channel_mult, other.num_res_blocks) == (
        unet.model_channels,
        unet.channel_mult,
        unet.num_res_blocks,
    )
    levels = zip(other.channel_mult, other.attends, strict=True)
    for level, (mult, attends) in enumerate(levels):
        assert attends == (2**level in unet.attention_resolutions)
        if attends:
            width = mult * unet.model_channels
            assert width == unet.num_heads * other.head_channels
    assert other.num_groups == unet.num_groups
    assert other.batch_size == config.train.batch_size
    assert runs.STEPS == config.train.num_steps


def test_what_is_judged_is_at_the_end_of_a_training_or_kept_on_its_way():
    for run in runs.RUNS.values():
        asked = [x for x in run.options.split() if "num_steps=" in x]
        total = int(asked[0].split("=")[1]) if asked else runs.STEPS
        assert max(run.keep) == total
        assert all(step % min(run.keep) == 0 for step in run.keep)


def test_a_config_comes_before_what_changes_it(monkeypatch, tmp_path):
    """As the command wants it; a training that was cut off begins anew."""
    called, leftover = [], tmp_path / "run" / "checkpoints" / "5"
    leftover.mkdir(parents=True)

    def call(command):
        assert not leftover.exists()
        called.append([flag for flag in command if flag.startswith("--config")])
        for step in (2, 4):
            (tmp_path / "run" / "checkpoints" / str(step)).mkdir(parents=True)

    monkeypatch.setattr(race, "call", call)
    monkeypatch.setattr(race, "draw", lambda folder, step, seed: step)
    run = runs.Run(True, f"{runs.PAIRS} --config.train.num_steps=4", (2, 4))
    found = race.ours(run, 0, tmp_path, argparse.Namespace(data_dir="data"))
    assert {step: images for step, (_, images) in found.items()} == {2: 2, 4: 4}
    ((first, *others),) = called
    assert first == runs.PAIRS and all(x.startswith("--config.") for x in others)


def measured(name, seed, *points):
    """A run's file."""
    keys = ("step", "seconds", "fid")
    points = [dict(zip(keys, point, strict=True)) for point in points]
    return {"run": name, "seed": seed, "points": points}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with two runs, of which one has two seeds."""
    monkeypatch.setattr(race, "RESULTS", tmp_path)
    files = {
        "a": measured("diffusers", 1, (750, 100.4, 9.0), (3000, 400, 4.444)),
        "b": measured("diffusers", 2, (3000, 401, 4.1)),
        "c": measured("image and label", 1, (3000, 600, 0.8)),
    }
    for name, found in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    return tmp_path


def test_the_table_has_a_row_of_each_point(results):
    found = race.read()
    assert list(found) == ["image and label", "diffusers"]
    rows = race.table(found).splitlines()
    assert len(rows) == 2 + 4
    assert "| diffusers | 1 | 3000 | 400 | 4.44 |" in rows


def test_the_plot_has_a_curve_of_each_seed_and_a_name_of_each_run(results):
    race.plot(race.read(), results / "race.svg")
    text = (results / "race.svg").read_text()
    assert text.count(">diffusers<") == text.count(">image and label<") == 1
    assert "seconds from the command on" in text
