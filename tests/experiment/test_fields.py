"""Fields that nothing reads, types, ranges, and what is dropped of stored configs."""

import importlib
import math

import jax
import pytest
from ml_collections import ConfigDict

from configs import common, image_label
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import fields
from mt_diffusion.training import loop
from mt_diffusion.training.optimizer import build_optimizer


def with_field(name, value, config=None):
    """A config with that field, whatever its type."""
    config = (config or image_label.get_config("smoke")).copy_and_resolve_references()
    *sections, last = name.split(".")
    with config.unlocked(), config.ignore_type():
        part = config
        for section in sections:
            part = part[section]
        if last in part:
            del part[last]
        part[last] = value
    return config


@pytest.mark.parametrize(
    "name, words",
    [
        ("train.batchsize", "nothing would read config.train.batchsize; .*batch_size"),
        ("sed", "nothing would read config.sed; .*config.seed"),
        ("data.image_siz", "nothing would read config.data.image_siz"),
    ],
)
def test_what_nothing_reads_is_refused(name, words):
    with pytest.raises(UserError, match=words):
        experiments.check(with_field(name, 3))


@pytest.mark.parametrize(
    "name", ["label.batch", "label.codes.sead", "label.tokens.a", "label.heads.M.w"]
)
def test_what_no_modality_reads_is_refused(name):
    config = with_field(f"modalities.{name}", 3)
    experiments.check(config)
    section = name.rpartition(".")[0]
    with pytest.raises(UserError, match=f"config.modalities.{section} must have exact"):
        initialised(config)


def test_states_that_nothing_is_in_are_refused():
    config = common.get_config("smoke")
    config.presence = ConfigDict({"read": {"share": 1.0}})
    with pytest.raises(UserError, match="states read, but there is no modality"):
        experiments.build(config)


@pytest.mark.parametrize("preset", [f.__name__ for f in common.PRESETS])
def test_presets_have_the_fields_that_there_are(preset):
    experiments.check(image_label.get_config(preset))


def test_every_number_of_ours_has_a_range():
    for name, value in fields.known().items():
        values = value if isinstance(value, tuple) else (value,)
        if any(map(fields.is_number, values)):
            parent = name.rpartition(".")[0]
            assert name in fields.RANGES or parent in fields.RANGES, name


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("train.batch_size", "64", "batch_size is '64', a str; it takes a int, such"),
        ("train.batch_size", 6.5, "is 6.5, a float; it takes a int"),
        ("train.batch_size", True, "is True, a bool"),
        ("data.random_flip", 1, "is 1, a int; it takes a bool"),
        ("unet.channel_mult", (1, 1.5), "channel_mult is"),
        ("unet.channel_mult", 2, "channel_mult is 2, a int; it takes a tuple"),
        ("train", 3, "nothing would read config.train"),
        ("modalities.label", 3, "config.modalities.label is 3, and no section"),
        ("sampling.guidance", math.nan, "guidance is nan"),
        ("sampling.eta", math.inf, "eta is inf; it must be 0 to 1"),
        (
            "sampling.autoguidance",
            1e300,
            "autoguidance is 1e.300; it must be 0 to 1000",
        ),
        ("modalities.label.energy", math.nan, "energy is nan"),
        ("optimizer.b2", 1.0, "b2 is 1.0; it must be 0 to 0.99"),
        ("data.keep.label", "all", "keep.label is 'all'"),
        ("presence.read.share", "x", "read.share is 'x', no number"),
    ],
)
def test_types_and_ranges(name, value, words):
    with pytest.raises(UserError, match=words):
        config = with_field(name, value)
        experiments.check(config)
        experiments.build(config)


def test_what_is_not_clipped_may_be_infinite():
    experiments.check(with_field("optimizer.clip_norm", math.inf))


def test_a_missing_field_is_named():
    config = image_label.get_config("smoke").unlock()
    del config.train.batch_size
    with pytest.raises(UserError, match="config.train.batch_size is missing"):
        experiments.check(config)


def test_what_is_dropped_of_a_stored_config_is_said(capsys):
    config = with_field("train.variance_weight", 0.5)
    found = fields.of_this_version(with_field("old", "x", config), "the config there")
    assert "variance_weight" not in found.train and "old" not in found
    out = capsys.readouterr().out
    assert "of the config there this version does not read, and drops" in out
    assert "config.train.variance_weight = 0.5" in out and "config.old = 'x'" in out
    fields.of_this_version(image_label.get_config("smoke"), "it")
    assert not capsys.readouterr().out


ODD = ["x", "", None, True, -1, 0, 10**30, 1.5, math.nan, -1.0, 1e300, math.inf]
ODD += [(), (math.nan,), ("x",), {}, {"x": 1}]


def initialised(config):
    """As far as training goes before it compiles its step."""
    experiments.check(config)
    loop.check(config)
    source = [sources.open_source(config.data, s) for s in ("train", "test")][0]
    resolved = experiments.resolve(config, source)
    experiment = experiments.build(resolved)
    build_optimizer(resolved)
    jax.eval_shape(lambda: experiments.init_params(jax.random.key(0), experiment))


def never_a_traceback(setting, pick):
    """Each field of a config with each odd value is taken, or refused in words."""
    config = importlib.import_module(f"configs.{setting}").get_config("smoke")
    found = dict(fields.leaves(config))
    for name, value in pick([(name, x) for name in found for x in ODD]):
        if isinstance(found[name], float) and type(value) is int:
            value = float(value)  # beartype, of these tests alone, knows no other
        try:
            initialised(with_field(name, value, config))
        except UserError as error:
            assert "\n" not in str(error)
        except Exception as error:
            raise AssertionError(f"config.{name} = {value!r}") from error


def test_some_odd_values_of_fields_are_taken_or_refused_in_words():
    """Every 101st, which meets all kinds of values."""
    never_a_traceback("image_label", lambda cases: cases[::101])


SETTINGS = ("image_label", "image_representation", "image_cluster")
SETTINGS += ("masked_image", "image_transition", "joint")


@pytest.mark.wide
@pytest.mark.parametrize("setting", SETTINGS)
def test_odd_values_of_fields_are_taken_or_refused_in_words(setting):
    never_a_traceback(setting, lambda cases: cases)
