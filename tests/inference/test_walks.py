"""What the steps of a walk saw: samples stay as they are, and the walk ends there."""

import csv

import numpy as np
import PIL.Image
import pytest

import mt_diffusion
from mt_diffusion.experiment import exported
from mt_diffusion.inference import sampling

SETTINGS = [{"sampler": n} for n in ("ddim", "dpmpp_2m", "dpmpp_2s")]
SETTINGS += [{"guess": f"label={word}"} for word in ("mean", "fresh", "absent")]
SETTINGS += [{"clip": "dynamic"}]
GUIDED = [{"guidance": 2.0}, {"head_guidance": 1.0}]


@pytest.fixture(scope="module")
def model():
    return mt_diffusion.load("digits")


def compare(model, num, given, steps=4, **settings):
    """The trajectory of samples that are the same with it and without."""
    plain = model.sample(num, given, steps=steps, **settings)
    drawn, walk = model.sample(num, given, steps=steps, trajectory=True, **settings)
    assert plain.keys() == drawn.keys()
    for name, values in plain.items():
        np.testing.assert_array_equal(drawn[name], values)
    # A walk ends in what its last step saw, but for rounding.
    last = walk.values["image"][-1].astype(int)
    assert np.abs(last - drawn["image"]).max() <= 1
    return drawn, walk


def test_samples_are_the_same_and_each_step_is_kept(model):
    drawn, walk = compare(model, 3, None, seed=4)
    assert walk.values["image"].shape == (4, 3, 8, 8, 1)
    assert walk.values["image"].dtype == np.uint8
    chances = walk.values["label"]
    assert chances.shape == (4, 3, 10) and chances.dtype == np.float32
    np.testing.assert_allclose(chances.sum(axis=-1), 1, rtol=1e-5)
    # Held from the first step on, and then found in z_t.
    np.testing.assert_array_equal(chances[-1].argmax(axis=-1), drawn["label"])
    schedule = model.process.schedule
    assert walk.t[0] == schedule.num_steps and np.all(np.diff(walk.t) < 0)
    signal = schedule.alpha_bar[walk.t]
    np.testing.assert_allclose(walk.noise**2 + signal, 1, rtol=1e-5)
    # Steps differ, and so do examples.
    assert np.all(np.any(np.diff(walk.values["image"], axis=0), axis=(1, 2, 3, 4)))


def test_what_is_given_is_told_as_it_was_given(model):
    _, walk = model.sample(2, {"label": ["3", "5"]}, steps=4, trajectory=True)
    np.testing.assert_array_equal(walk.values["label"], [np.eye(10)[[3, 5]]] * 4)


def test_too_many_examples_are_refused(model):
    with pytest.raises(ValueError, match="64 examples at most, and not of 65"):
        model.sample(65, trajectory=True)


@pytest.mark.wide
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_samples_are_the_same_by_every_sampler(model, settings):
    compare(model, 3, None, **settings)


@pytest.mark.wide
@pytest.mark.parametrize("settings", GUIDED, ids=str)
def test_samples_are_the_same_with_guidance(model, settings):
    compare(model, 3, {"label": "3"}, **settings)


def test_the_command_writes_the_walk_beside_the_same_samples(model, tmp_path):
    """And of given images prints what it read, which stands in the table as well."""
    folder = exported.find("digits")
    sampling.sample(folder, tmp_path, 3, 4, [], {"num_steps": 4}, True, trajectory=True)
    drawn, walk = model.sample(3, steps=4, seed=4, trajectory=True)
    with np.load(tmp_path / "samples.npz") as written:
        for name, values in drawn.items():
            np.testing.assert_array_equal(written[name], values)
    with np.load(tmp_path / "trajectory.npz") as written:
        assert set(written) == {"t", "noise", "image", "label"}
        np.testing.assert_array_equal(written["image"], walk.values["image"])
    names = {p.name for p in tmp_path.iterdir()}
    assert {"trajectory.gif", "trajectory.png", "grid.png", "samples.csv"} <= names
    files = sorted(p.stem for p in (tmp_path / "samples").iterdir())
    assert files == [f"{i:05d}_{label}" for i, label in enumerate(drawn["label"])]


def test_what_given_images_were_read_as_is_beside_the_samples(tmp_path, capsys):
    image = np.zeros((8, 8), np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    given = [f"image={tmp_path / 'a.png'}"]
    out = tmp_path / "out"
    folder = exported.find("digits")
    sampling.sample(folder, out, 2, 0, given, {"num_steps": 2}, True)
    (row, _) = csv.DictReader((out / "samples.csv").read_text().splitlines())
    assert row["input"] == str(tmp_path / "a.png") and row["label"] in "0123456789"
    assert row["file"] == f"samples/00000_{row['label']}.png"
    assert f"label: {row['label']}, " in capsys.readouterr().out
