"""`--mode=read`: noise levels by brute force, what a head is shown, and the command."""

import functools
import itertools
import json

import jax
import numpy as np
import PIL.Image
import pytest

from configs import common, image_label
from mt_diffusion.data import pipeline, sources
from mt_diffusion.diffusion import aggregation, prediction, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import presence
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.inference import reading
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import Output
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Modality, Variable

SHAPE = (2, 2, 1)
NUM = 4096


def test_levels_are_the_best_there_are():
    """Errors of opposite sign cancel; of all subsets none is better here."""
    value = np.zeros((6, 2))
    rows = np.array([True] * 4 + [False] * 2)
    offsets = {10: 0.5, 20: -0.4, 30: 3.0, 40: -2.0}
    means = {t: value + offset for t, offset in offsets.items()}
    for mean in means.values():
        mean[~rows] = 100 * np.random.default_rng(0).normal(size=(2, 2))
    subsets = [
        list(ts) for num in (1, 2, 3, 4) for ts in itertools.combinations(means, num)
    ]

    def squared(ts):
        return np.mean(np.mean([means[t][rows] for t in ts], axis=0) ** 2)

    assert reading.best_levels(means, value, rows) == min(subsets, key=squared)
    assert reading.best_levels(means, value, rows) == [10, 20]


@pytest.mark.parametrize("seed", range(4))
def test_no_single_level_nor_all_are_better(seed):
    rng = np.random.default_rng(seed)
    value, rows = rng.normal(size=(8, 3)), np.arange(8) % 2 == 0
    means = {t: value + t / 3 * rng.normal(size=value.shape) for t in range(1, 8)}
    found = reading.best_levels(means, value, rows)
    assert found == sorted(set(found)) and found

    def error(ts):
        return np.mean((np.mean([means[t] for t in ts], axis=0) - value)[rows] ** 2)

    for other in [*([t] for t in means), list(means)]:
        assert error(found) <= error(other)


def test_the_error_is_of_these_rows():
    mean, value = np.array([[1.0, 2], [5, 5]]), np.array([[0.0, 4], [0, 0]])
    assert reading.error(mean, value, np.array([True, False])) == 2.5


class Shown(Modality):
    """Its head repeats what it is shown."""

    def mean(self, prediction):
        return prediction


class Mirror:
    """A network whose head gives z_t itself, and which must be told nothing else."""

    def apply(self, params, y_t, t, codes, known, evidence, deterministic, rngs):
        assert not codes and not known and not evidence
        assert deterministic and not rngs
        return Output(y_t, None, {"shown": y_t}, {})


def mirror_reader(batch_size=NUM):
    """With a drift that would be seen, were there any."""
    table = schedule.cosine(100)
    weights = {"shown": aggregation.weights("shown", "ramp", 3.0, table)}
    shown = Shown(
        name="shown", shape=SHAPE, drift="ramp", loss_weight=0.1, conditions=False,
        frame="read", guess="mean",
    )  # fmt: skip
    experiment = experiments.Experiment(
        shape=SHAPE,
        primary=Variable(name="image", shape=SHAPE),
        denoiser=Denoiser(
            modalities=(shown,),
            process=Process(table, aggregation.Aggregation(weights)),
            network=Mirror(),
            prediction=prediction.build("aggregate"),
        ),
        presence=presence.build(
            {"present": {"share": 1.0, "shown": "unread"}}, {"shown": False}
        ),
    )
    mesh = sharding.make_mesh()
    return table, reading.build_reader(experiment, {}, batch_size, mesh)


def test_a_head_is_shown_the_image_at_that_level_without_drift():
    """Mean and variance of DDPM to 4 standard errors, and fresh noise everywhere."""
    table, reader = mirror_reader()
    z0 = np.linspace(-1, 1, 4, dtype=np.float32).reshape(SHAPE)
    levels = [1, 40, 90]
    found = reader(np.broadcast_to(z0, (NUM, *SHAPE)), levels, 0)
    assert list(found) == levels
    noises = []
    for t in levels:
        z_t = np.asarray(found[t]["shown"], np.float64)
        signal, variance = np.sqrt(table.alpha_bar[t]), 1 - table.alpha_bar[t]
        noise = (z_t - signal * z0) / np.sqrt(variance)
        assert np.abs(noise.mean(axis=0)).max() < 4 / np.sqrt(NUM)
        assert np.abs(noise.var(axis=0) - 1).max() < 4 * np.sqrt(2 / NUM)
        noises.append(noise.reshape(NUM, -1))
    correlation = np.corrcoef(np.concatenate(noises, axis=1).T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(NUM)
    neighbours = np.mean(noises[0][1:] * noises[0][:-1], axis=0)
    assert np.abs(neighbours).max() < 4 / np.sqrt(NUM)


def test_an_image_is_read_the_same_in_any_company():
    """Of any batch size, number of images and set of levels; but by another seed."""
    images = np.random.default_rng(0).normal(size=(21, *SHAPE)).astype(np.float32)
    _, whole = mirror_reader()
    _, small = mirror_reader(batch_size=8)
    expected = whole(images, [3, 50], 0)
    assert expected[3]["shown"].shape == images.shape
    for t in (3, 50):
        for reader in (whole, small):
            found = reader(images[:18], [t], 0)[t]["shown"]
            np.testing.assert_allclose(found, expected[t]["shown"][:18], rtol=1e-6)
    assert not np.any(whole(images, [50], 1)[50]["shown"] == expected[50]["shown"])


def get_config():
    config = image_label.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 6
    config.modalities.label.energy = 400.0  # of which six steps leave little at T
    config.sampling.update(num_steps=2, batch_size=64)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


def save(folder, config):
    """A run with one checkpoint, of noise."""
    experiment = experiments.build(config)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda x: draw(x.shape, np.float32) / 4, shapes)
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(3, {"ema_params": params}, config)
    checkpoints.close()
    return experiment, params


def test_levels_are_chosen_on_even_examples_and_reported_on_odd(capsys):
    """By a reader that is right about the one half at 2, about the other at 5."""
    config = get_config()
    experiment = experiments.build(config)
    source = sources.open_source(config.data, "test")
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    right = pipeline.first_examples(source, preprocess, len(source), 0).values["label"]
    wrong = np.roll(right, 1, axis=-1)
    even = (np.arange(len(right)) % 2 == 0)[:, None]
    seen = []

    def reader(images, levels, seed):
        seen.append((images.shape, levels))
        found = {t: {"label": wrong} for t in levels}
        found[2] = {"label": np.where(even, right, wrong)}
        return found | {5: {"label": np.where(even, wrong, right)}}

    assert reading.choose(config, experiment, reader, 0) == {"label": [2]}
    printed = capsys.readouterr().out
    assert "label: mean squared error 0.2 on 179 test examples" in printed
    assert "right: 0.0%" in printed
    assert seen == [((359, 8, 8, 1), [1, 2, 3, 4, 5, 6])]


def test_modalities_that_no_test_example_has_are_passed_over(capsys, monkeypatch):
    config = get_config()
    monkeypatch.setattr(
        type(sources.open_source(config.data, "test")),
        "__getitem__",
        lambda self, i: {"image": np.zeros((8, 8, 1), np.uint8)},
    )
    nothing = {"label": np.zeros((359, 10))}
    reader = lambda images, levels, seed: dict.fromkeys(levels, nothing)  # noqa: E731
    assert reading.choose(config, experiments.build(config), reader, 0) == {}
    assert "label: no test example" in capsys.readouterr().out


def test_the_command_chooses_then_reads(tmp_path, capsys):
    workdir, folder = tmp_path / "run", tmp_path / "images"
    experiment, params = save(workdir, get_config())
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8)).astype(np.uint8)
    for i, image in enumerate(pixels):
        PIL.Image.fromarray(image).save(folder / f"{i}.png")
    here = functools.partial(
        reading.read, workdir, seed=0, overrides={"batch_size": 128}, use_ema=True
    )
    given = [f"image={folder}"]
    with pytest.raises(
        UserError, match="reading.json has no noise levels.*without --given"
    ):
        here(tmp_path / "out", given)
    for wrong in (["label=3"], [*given, "label=3"]):
        with pytest.raises(UserError, match="takes --given=image=.*--mode=sample"):
            here(tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()

    here(None, [])
    chosen = json.loads((workdir / "reading.json").read_text())
    assert (chosen["step"], chosen["averaged"]) == (3, True)
    levels = chosen["levels"]
    assert levels.keys() == {"label"} and set(levels["label"]) <= set(range(1, 7))
    assert "test examples" in capsys.readouterr().out
    here(tmp_path / "out", given)
    found = dict(np.load(tmp_path / "out" / "samples.npz"))
    np.testing.assert_array_equal(found["image"][..., 0], pixels)
    mesh = sharding.make_mesh()
    reader = reading.build_reader(experiment, params, 8, mesh)
    means = reader(experiment.variables["image"].read(str(folder)), levels["label"], 0)
    expected = np.mean([x["label"] for x in means.values()], axis=0).argmax(axis=-1)
    np.testing.assert_array_equal(found["label"], expected)
    assert f"label: {', '.join(map(str, expected))}\n" in capsys.readouterr().out
    assert (tmp_path / "out" / "grid.png").is_file()
    with pytest.raises(UserError, match="holds samples already"):
        here(tmp_path / "out", given)


def test_models_without_a_head_are_refused(tmp_path):
    config = common.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    save(tmp_path, config)
    with pytest.raises(UserError, match="has no head"):
        reading.read(tmp_path, None, [], 0, {}, True)
    assert not (tmp_path / "reading.json").exists()
