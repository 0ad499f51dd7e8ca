"""Draws: which there are, whom they are given, and how they go on."""

import itertools
import types

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from configs import joint
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import draws
from mt_diffusion.evaluation.draws import Draw
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.files import weights
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding
from tests.evaluation import toy_evaluation

NUM = 40  # three batches of 16, the last one not full


class Setting(types.SimpleNamespace):
    """A tiny model of image, masked image and label, and test examples."""

    def carry_out(self, folder, *given, **changes):
        wishes = dict(
            draw=Draw(given), experiment=self.experiment, generator=self.generator,
            params=self.params, test=self.test, num=NUM, seed=0, folder=folder,
        )  # fmt: skip
        return draws.carry_out(**wishes | changes)


@pytest.fixture(scope="module")
def setting():
    config = toy_evaluation.shrink(joint.get_config("smoke"))
    config.sampling.batch_size = 16
    experiment = experiments.build(config)
    source = sources.open_source(config.data, "test")
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    return Setting(
        settings=config.sampling,
        experiment=experiment,
        generator=Generator(experiment, config.sampling, sharding.make_mesh()),
        params=toy_evaluation.parameters(experiment),
        test=pipeline.first_examples(source, preprocess, NUM, 0),
    )


def named(*names):
    return types.SimpleNamespace(variables=dict.fromkeys(names))


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
def test_all_proper_subsets(names):
    found = draws.every(named(*names))
    assert len(found) == len(set(found)) == 2 ** len(names) - 1
    masks = itertools.product([False, True], repeat=len(names))
    subsets = {tuple(itertools.compress(names, mask)) for mask in masks}
    assert {d.given for d in found} == subsets - {tuple(names)}
    assert [len(d.given) for d in found] == sorted(len(d.given) for d in found)
    assert found[0].name == "joint"


def test_draws_by_name():
    experiment = named("image", "label")
    assert draws.choose("", experiment) == draws.every(experiment)
    wanted = draws.choose("given_label, joint,given_label", experiment)
    assert wanted == [Draw(("label",)), Draw(())]
    assert Draw(("image", "label")).name == "given_image_label"
    with pytest.raises(UserError) as refused:
        draws.choose("joint,given_all,given_image_label", experiment)
    assert "given_all, given_image_label, which" in str(refused.value)
    assert "joint, given_image, given_label, separated" in str(refused.value)


def with_available(setting, **available):
    return setting.test.replace(available=setting.test.available | available)


def test_only_examples_that_have_what_is_to_be_given(setting):
    labelled = np.arange(NUM) % 3 == 0
    test = with_available(setting, label=labelled)
    for given, rows in [((), slice(None)), (("label",), labelled)]:
        truth, available = draws.examples_for(
            Draw(given), setting.experiment, test, NUM
        )
        assert truth.keys() == {"image", "masked_image", "label"}
        np.testing.assert_array_equal(truth["image"], test.z0[rows])
        np.testing.assert_array_equal(truth["label"], test.values["label"][rows])
        np.testing.assert_array_equal(available["label"], labelled[rows])
    few, _ = draws.examples_for(Draw(("label",)), setting.experiment, test, 5)
    np.testing.assert_array_equal(few["image"], test.z0[labelled][:5])
    test = with_available(setting, label=np.zeros(NUM, bool))
    with pytest.raises(UserError, match="no test .* label, .* leave given_label out"):
        draws.examples_for(Draw(("label",)), setting.experiment, test, NUM)
    draws.examples_for(Draw(("image",)), setting.experiment, test, NUM)  # no labels


@pytest.mark.parametrize(
    "given, fills",
    [
        ((), 1),
        (("label",), 1),
        (("image",), 1),
        (("masked_image",), 4),
        (("masked_image", "label"), 4),
        (("image", "masked_image"), 1),
    ],
)
def test_four_fills_where_some_pixels_are_known(setting, given, fills):
    truth, _ = draws.examples_for(Draw(given), setting.experiment, setting.test, NUM)
    assert len(truth["image"]) == NUM // fills
    truth, _ = draws.examples_for(Draw(given), setting.experiment, setting.test, 3)
    assert len(truth["image"]) == (1 if fills == 4 else 3)


def test_every_fill_keeps_the_seen_pixels_of_its_own_example(setting, tmp_path):
    """And each of the four is another one; the label is generated beside them."""
    drawn = setting.carry_out(tmp_path, "masked_image")
    assert (drawn.num, drawn.num_true) == (NUM, NUM // 4)
    true = drawn.true("masked_image")
    rows = np.arange(NUM) % (NUM // 4)
    np.testing.assert_array_equal(true, setting.test.values["masked_image"][rows])
    made = drawn.made["image"]
    pixels = setting.experiment.primary.postprocess(true[..., :1])
    seen = true[..., 1:] > 0
    assert 0.3 < seen.mean() < 0.95
    np.testing.assert_array_equal(made[seen], pixels[seen])
    fills = made.reshape(4, NUM // 4, *made.shape[1:])
    hidden = (~seen).reshape(fills.shape)
    for a, b in itertools.combinations(range(4), 2):
        assert np.mean((fills[a] != fills[b])[hidden[a]]) > 0.5
    assert drawn.made["label"].shape == (NUM,)


def test_vectors_keep_their_probabilities_where_generated(setting, tmp_path):
    drawn = setting.carry_out(tmp_path / "joint")
    assert drawn.values.keys() == {"label"}
    assert drawn.values["label"].shape == (NUM, 10)
    np.testing.assert_allclose(drawn.values["label"].sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        drawn.values["label"].argmax(axis=-1), drawn.made["label"]
    )
    assert drawn.made["image"].dtype == np.uint8


def test_vectors_that_are_given_are_no_answer(setting):
    values = {"image": setting.test.z0, "label": setting.test.values["label"]}
    given, made = (
        draws.as_files(values, Draw(names), setting.experiment)
        for names in (("label",), ("image",))
    )
    assert given.keys() == {"image", "label"}
    assert made.keys() == given.keys() | {"values_label"}
    np.testing.assert_array_equal(made["values_label"], values["label"])
    np.testing.assert_array_equal(made["label"], values["label"].argmax(axis=-1))


class Counted:
    """A generator that notes which rows it is asked for, and dies after `most`."""

    def __init__(self, generator, most=None):
        self.generator, self.most, self.rows = generator, most, []
        self.batch_size = generator.batch_size

    def values(self, params, seed, rows, given):
        if len(self.rows) == self.most:
            raise KeyboardInterrupt
        self.rows.append(rows)
        return self.generator.values(params, seed, rows, given)


def check_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_an_interrupted_draw_goes_on_to_the_same_bits(setting, tmp_path):
    """Parts that are there are kept, others drawn, those of other sizes not read."""
    whole = setting.carry_out(tmp_path / "whole")
    folder, dying = tmp_path / "torn", Counted(setting.generator, most=2)
    with pytest.raises(KeyboardInterrupt):
        setting.carry_out(folder, generator=dying)
    first, second = sorted((folder / "parts").iterdir())
    assert not (folder / "samples.npz").exists()
    first.unlink()
    kept = second.read_bytes()
    other = first.with_name(first.name.replace("16", "24"))
    assert other != first
    np.savez(other, image=np.zeros((24, 8, 8, 1), np.uint8))
    (folder / "parts" / "00000032_16.draft").write_bytes(kept[:100])
    going_on = Counted(setting.generator)
    found = setting.carry_out(folder, generator=going_on)
    assert [(rows.start, len(rows)) for rows in going_on.rows] == [(0, 16), (32, 16)]
    assert [p.name for p in folder.iterdir()] == ["samples.npz"]
    check_equal(found.made, whole.made)
    check_equal(found.values, whole.values)
    check_equal(
        *(weights.read_npz(f / "samples.npz") for f in (folder, tmp_path / "whole"))
    )
    assert found.num == NUM

    again = setting.carry_out(folder, generator=None)  # nothing is left to be drawn
    check_equal(again.made, whole.made)


def test_a_draw_does_not_depend_on_batches_and_devices(setting, tmp_path):
    """Of one device, 15 at a time; begun on eight, where 16 are."""
    whole = setting.carry_out(tmp_path / "whole")
    folder = tmp_path / "moved"
    with pytest.raises(KeyboardInterrupt):
        setting.carry_out(folder, generator=Counted(setting.generator, most=2))
    settings = setting.settings.copy_and_resolve_references()
    settings.batch_size = 15
    mesh = jax.make_mesh(
        (1, 1), sharding.AXES, (AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )
    moved = setting.carry_out(
        folder, generator=Generator(setting.experiment, settings, mesh)
    )
    for name, values in whole.made.items():
        assert moved.made[name].shape == values.shape
    difference = moved.made["image"].astype(int) - whole.made["image"]
    assert np.abs(difference).max() <= 1  # a level, by rounding
    np.testing.assert_allclose(moved.values["label"], whole.values["label"], rtol=1e-4)


def test_another_seed_is_another_draw(setting, tmp_path):
    one = setting.carry_out(tmp_path / "0", seed=0).made["image"]
    other = setting.carry_out(tmp_path / "1", seed=1).made["image"]
    assert np.mean(one == other) < 0.5
