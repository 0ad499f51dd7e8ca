"""Programs of data that are not here have the shapes of those that are."""

import importlib

import jax
import pytest

from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.parallel import sharding
from mt_diffusion.preflight import program
from mt_diffusion.training.step import abstract_batch


def config_of(name, **data):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.data.update(data)
    return config


def shapes(config):
    """Of parameters and of a batch."""
    experiment = experiments.build(config)
    init = lambda: experiments.init_params(jax.random.key(0), experiment)  # noqa: E731
    batch = abstract_batch(experiment, 8, sharding.make_mesh(1))
    both = jax.eval_shape(init), jax.tree.map(lambda x: x, batch)
    return jax.tree.map(lambda x: (x.shape, x.dtype), both)


GONE = dict(source="folder", path="gone")


@pytest.mark.parametrize(
    "name, data, fields",
    [
        ("text", GONE | {"captions": "gone.csv"}, {"encoder": "gone"}),
        ("text", {"captions": "gone.csv"}, {}),
        ("image_representation", GONE, {}),
        (
            "image_representation",
            GONE | {"vectors": "gone_{split}.npy"},
            {"vectors": "feature:vector", "clip": "gone"},
        ),
        ("image_transition", GONE | {"pair": "folders", "pair_path": "gone_too"}, {}),
    ],
)
def test_noise_stands_for_data_that_are_not_here(name, data, fields, capsys):
    here = config_of(name)
    source = sources.open_source(here.data, "train")
    away = config_of(name, **data)
    for section in away.modalities.values():
        section.update(fields)
    with pytest.raises(UserError):
        sources.open_source(away.data, "train")
    found = program.resolve(away)
    assert shapes(found) == shapes(experiments.resolve(here, source))
    told = capsys.readouterr().out
    assert "noise stands for data that are not here" in told and "gone" in told
    wants_size = name == "text" or "vectors" in data
    assert ("num_components numbers each" in told) == wants_size


def test_how_many_classes_there_are_has_to_be_said():
    config = config_of("image_label", **GONE)
    with pytest.raises(UserError, match="'gone' is no folder.*config.data.class_names"):
        program.resolve(config)
    config.data.class_names = ("cat", "dog", "owl")
    assert program.resolve(config).modalities.label.class_names == ("cat", "dog", "owl")


def test_what_is_known_of_data_stays(capsys):
    """Of a run, that has found it."""
    config = config_of("text")
    known = experiments.resolve(config, sources.open_source(config.data, "train"))
    config.modalities.text = known.modalities.text
    config.data.update(GONE)
    found = program.resolve(config).modalities.text
    assert found.vector_mean == known.modalities.text.vector_mean
    assert found.captions == known.modalities.text.captions


def test_data_that_are_here_and_broken_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    config = config_of("image_label", source="folder", path=str(tmp_path))
    with pytest.raises(UserError, match="no image"):
        program.resolve(config)
