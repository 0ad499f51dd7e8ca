"""The study of latents: both models can be trained, by what they are told."""

import argparse
import pathlib

import numpy as np
import pytest

from configs import autoencoder
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.modalities import codes
from studies import latents


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(
        data=pathlib.Path("data"), out=tmp_path, seed=3, probe=4, seconds=10.0
    )


@pytest.mark.parametrize("name", ["latents", "pixels"])
def test_both_models_are_of_the_same_images_and_words(name, args):
    _, make, changes = latents.stages(args)[name].args[:3]
    config = latents.changed(make(), changes)
    experiments.check(config)
    space = experiments.space_of(config)
    assert space.picture == (64, 64, 3)
    assert space.shape == ((8, 8, 4) if name == "latents" else (64, 64, 3))
    text = config.modalities.text.to_dict()
    codes.check(text["codes"], text["num_components"], space.shape, "text")
    other = latents.text.get_config("emoji")
    assert text == other.modalities.text.to_dict() | {"head_width": text["head_width"]}
    assert config.train.batch_size == other.train.batch_size
    assert config.data.path == "data/64/twitter"


def test_the_autoencoder_is_the_one_that_latents_are_of(args):
    config = latents.changed(autoencoder.get_config("emoji"), latents.on(args.data))
    assert (config.data.image_size, config.data.path) == (64, "data/64/twitter")
    space = latents.changed(latents.latent_representation.emoji(), {}).primary.space
    assert space.factor == autoencoder.factor(config)
    assert space.channels == config.autoencoder.latent_channels


def test_pixels_have_the_seconds_of_all_that_latents_had(args, tmp_path):
    args.results = tmp_path
    with pytest.raises(SystemExit, match=r"come first: \['autoencoder_3', 'pre"):
        latents.seconds_for("pixels", args)
    for name, seconds in (("autoencoder", 20.0), ("precompute", 3.0)):
        took = {"took": {"processor_seconds": seconds}}
        latents.writing.as_json(tmp_path / f"{name}_3.json", took)
    assert latents.seconds_for("pixels", args) == 33
    assert latents.seconds_for("latents", args) == 10


def test_steps_are_as_many_as_the_seconds_hold(args, monkeypatch):
    """By the speed after the first look, which waits for the program."""
    used = iter([100.0, 101.0, 103.0, 105.0])

    def train(config, workdir, look):
        assert (config.train.num_steps, config.watch.log_every) == (4, 1)
        for step in range(1, 5):
            assert look(step, {}) is False

    monkeypatch.setattr(latents.mt_diffusion, "train", train)

    def getrusage(who):
        return argparse.Namespace(ru_utime=next(used), ru_stime=0.0)

    monkeypatch.setattr(latents.resource, "getrusage", getrusage)
    found = latents.seconds_of_a_step(latents.text.get_config("emoji"), {}, args)
    assert found == pytest.approx(5 / 3)


def test_a_call_says_what_it_took_and_a_failure_ends_the_script(monkeypatch):
    monkeypatch.setattr(latents.sys, "executable", "true")
    took = latents.call("--mode=sample")
    assert 0 <= took["seconds"] < 60 and took["peak_bytes"] > 2**10
    monkeypatch.setattr(latents.sys, "executable", "false")
    with pytest.raises(SystemExit, match="ended with 1: --mode=sample"):
        latents.call("--mode=sample")


def test_the_judge_sees_pictures_at_its_own_size():
    class Judge:
        def beside_truth(self, made, hand):
            assert made.shape == (2, 32, 32, 3)
            return {"level": float(made.mean())}

        def of_all(self, made, hand):
            return {"number": float(len(made))}

    made = np.full((2, 64, 64, 3), 7, np.uint8)
    assert latents.judged(Judge(), made, True) == {"level": 7.0, "number": 2.0}
    assert latents.judged(Judge(), made, False) == {"number": 2.0}
    assert latents.leaves({"a": {"b": 1.23456}, "c": "x"}) == [
        ("a, b", "1.235"),
        ("c", "x"),
    ]
