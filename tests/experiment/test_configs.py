"""Every config and preset describes a network that can be built."""

import importlib
import itertools
import math
import re

import jax
import numpy as np
import pytest

from configs import common
from mt_diffusion.command import overrides
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment
from mt_diffusion.training import loop
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import init_state

SETTINGS = [
    "masked_image",
    "image_transition",
    "image_label",
    "image_representation",
]
PRESETS = [preset.__name__ for preset in common.PRESETS]


def built(setting, preset):
    """ADM's networks take a second or two each, so one setting stands for all."""
    is_wide = preset.startswith("imagenet") and setting != "image_label"
    return pytest.param(setting, preset, marks=[pytest.mark.wide] if is_wide else [])


class Source:
    """Ten classes; ImageNet's thousand would only make this slower. Noisy images."""

    class_names = [str(i) for i in range(10)]

    def __init__(self, config):
        size = config.data.image_size
        self.shape = (size, size, config.data.channels)

    def __len__(self):
        return 40  # a representation needs 32

    def __getitem__(self, i):
        image = np.random.default_rng(i).integers(256, size=self.shape, dtype=np.uint8)
        return {"image": image, "pair": image}


def get_config(setting, preset):
    config = importlib.import_module(f"configs.{setting}").get_config(preset)
    return experiment.resolve(config.lock(), Source(config))


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "setting, preset",
    [built(*both) for both in itertools.product(SETTINGS, PRESETS)],
)
def test_presets_build(setting, preset):
    config = get_config(setting, preset)
    loop.check(config)
    parts = experiment.build(config)
    optimizer = build_optimizer(config)
    state = jax.eval_shape(lambda: init_state(jax.random.key(0), parts, optimizer))
    assert count(state.params) > 100_000
    assert jax.tree.structure(state.params) == jax.tree.structure(state.ema_params)


@pytest.mark.parametrize(
    "preset, published", [("imagenet64", 295.9e6), ("imagenet128", 421.5e6)]
)
def test_imagenet_unets_have_adms_size(preset, published):
    """ADM's table of hyper-parameters gives 296M and 422M, with a class embedding."""
    config = get_config("masked_image", preset)
    unet = experiment.build_network(config, ()).unet
    size = config.data.image_size
    x = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    t = jax.ShapeDtypeStruct((1,), "float32")
    shapes = jax.eval_shape(lambda x, t: unet.init(jax.random.key(0), x, t), x, t)
    classes = 1000 * 4 * config.unet.model_channels
    assert count(shapes) + classes == pytest.approx(published, rel=0.005)


def test_unknown_presets_are_refused():
    with pytest.raises(UserError, match="'mnist'.*digits"):
        common.get_config("mnist")


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("data.image_size", 9, "not divisible by 2"),
        ("data.image_size", 6, "divisible by patches_per_side = 4"),
        ("data.channels", 2, "use 1 or 3"),
        ("unet.dtype", "float16", "bfloat16"),
        ("unet.num_groups", 7, "num_groups"),
        ("unet.num_heads", 5, "num_heads"),
        ("unet.num_heads", 0, "num_heads is 0"),
        ("unet.channel_mult", (), "channel_mult is"),
        ("unet.dropout", 1.0, "dropout is 1.0"),
    ],
)
def test_impossible_networks_are_refused(field, value, words):
    config = get_config("masked_image", "digits")
    part, name = field.split(".")
    with config.ignore_type():
        config[part][name] = value
    with pytest.raises(UserError, match=words):
        experiment.check(config)
        experiment.build(config)


@pytest.mark.parametrize("field", experiment.CHOICES)
def test_unknown_choices_are_refused(field):
    config = get_config("masked_image", "digits")
    part, name = field.split(".")
    config[part][name] = "other"
    choices = " or ".join(experiment.CHOICES[field])
    with pytest.raises(UserError, match=f"{field} is 'other'; choose {choices}"):
        experiment.check(config)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("train.num_steps", 0, "1 or more"),
        ("train.batch_size", 12, "multiple of the 8 devices"),
        ("train.num_microbatches", 0, "num_microbatches is 0; it must be 1 or more"),
        ("objective.p2_gamma", -1.0, "gamma is -1.0"),
        ("objective.min_snr_gamma", 0.0, "gamma is 0.0"),
        ("objective.bare_every", -1, "bare_every is -1; it must be 0 or more"),
        ("objective.variance_weight", -0.1, "variance_weight is -0.1"),
        ("watch.log_every", 0, "log_every"),
        ("watch.num_pictures", 0, "num_pictures is 0"),
        ("optimizer.learning_rate", float("nan"), "learning_rate is nan"),
        ("train.ema_decay", 1.5, "0 to 1"),
        ("sampling.sampler", "euler", "'euler'"),
        ("sampling.num_steps", 1001, "1001 steps"),
        ("sampling.clip", "soft", "'soft'.*dynamic"),
        ("sampling.guidance", -1.0, "guidance is -1.0; it must be 0 or more"),
        ("sampling.head_guidance", float("nan"), "head_guidance is nan"),
        ("sampling.guidance_interval", (0.5, 0.4), "the lower first"),
        ("sampling.guidance_interval", (0.5, 1.4), "two shares of T from 0 to 1"),
        ("sampling.guidance_interval", (0.5,), "two shares of T"),
    ],
)
def test_impossible_runs_are_refused(field, value, words):
    config = get_config("masked_image", "digits")
    part, name = field.split(".")
    config[part][name] = value
    with pytest.raises(UserError, match=words):
        loop.check(config)


def test_derived_fields_follow_what_they_derive_from():
    for setting, part, name in [
        ("masked_image", "masked_image", "num_groups"),
        ("image_label", "label", "tokens.size"),
    ]:
        config = importlib.import_module(f"configs.{setting}").get_config("digits")
        config.unet.update(num_groups=4, model_channels=4)
        resolved = experiment.resolve(config, Source(config))
        found = overrides.fields(resolved.modalities[part])[name]
        assert found == {"num_groups": 4, "tokens.size": 16}[name]
    heads = resolved.modalities.label.heads
    assert heads.M.width == 16
    assert (heads.E.width, heads.E.num_groups) == (4, 4)


def test_head_e_goes_down_as_the_unet_does():
    config = get_config("image_label", "imagenet64")
    config.modalities.label.head_kind = "E"
    head = experiment.build(config).modalities[0].head()
    assert tuple(head.channel_mult) == config.unet.channel_mult
    assert head.num_head_channels == config.unet.num_head_channels


def test_rates_that_are_no_shares_are_refused():
    """Of states that are drawn for each modality by itself."""
    config = get_config("image_label", "digits").unlock()
    rates = {"absent": 0.9, "unread": 0.3}
    config.presence = {"independent": {"label": rates}}
    with pytest.raises(UserError, match="together at most 1"):
        experiment.build(config)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("diffusion.prediction", "epsilon", "prediction is 'epsilon'; .*'aggregate'"),
        ("modalities.label.guess", "best", "label.guess is 'best'; .*'coherent'"),
        ("modalities.label.frame", "moving", "label.frame is 'moving'; .*'evidence'"),
        ("modalities.label.codes.family", "pink", "codes.family is 'pink'; .*'white'"),
        ("modalities.label.codes.version", 9, "codes.version is 9; .* 0 to 2"),
        ("modalities.label.tokens.version", 9, "tokens.version is 9; .* 0 to 1"),
        ("modalities.label.tokens.size", 0, "tokens.size is 0; .*1 number or more"),
        ("modalities.label.drift", "sudden", "label.drift .*'sudden'"),
        ("modalities.label.drift", "first", "label.drift makes .*at t = 1,.*'ramp'"),
        ("modalities.label.energy", 0.0, "label.energy is 0.0; .*above 0"),
        ("modalities.label.energy", -1.0, "label.energy is -1.0; .*above 0"),
        ("modalities.label.energy", 1.0, "label.energy = 1 is too little.*or more"),
        ("modalities.label.kind", "label.SharedUNet", "'evidence'.*SharedUNet, has no"),
        ("presence.read.share", 0.6, r"add up to 1.1 \(.*read 0.6"),
        ("presence.read.share", -0.1, "each 0 or more, together 1"),
        ("presence.read.label", "seen", "presence.read.label is 'seen'; .*'unread'"),
    ],
)
def test_what_can_not_be_is_refused_in_a_paragraph(field, value, words):
    """Before the training data are looked at for what a modality measures."""

    class Unread(Source):
        def __getitem__(self, i):
            raise AssertionError("an example was read")

    config = importlib.import_module("configs.image_label").get_config()
    shares = {"read": 0.5, "unread": 0.35, "absent": 0.15}
    config.presence = {n: {"share": x, "label": n} for n, x in shares.items()}
    *parts, name = field.split(".")
    part = config
    for inner in parts:
        part = part[inner]
    part[name] = value
    with pytest.raises(UserError, match=words) as refused:
        experiment.resolve(config.lock(), Unread(config))
    assert "\n" not in str(refused.value)


def test_an_energy_that_is_said_to_be_enough_is():
    config = importlib.import_module("configs.image_label").get_config()
    config.modalities.label.energy = 1.0
    with pytest.raises(UserError, match="too little") as refused:
        experiment.resolve(config, Source(config))
    enough = float(re.search(r"use (\d+) or more", str(refused.value))[1])
    config.modalities.label.energy = enough
    experiment.resolve(config, Source(config))
    config.modalities.label.energy = enough - 1
    with pytest.raises(UserError, match="too little"):
        experiment.resolve(config, Source(config))


def test_states_must_say_of_each_modality_what_it_is():
    config = importlib.import_module("configs.joint").get_config()
    del config.presence.label.masked_image
    with pytest.raises(UserError, match=r"presence.label.*\['masked_image'\] are miss"):
        experiment.resolve(config, Source(config))
    config = importlib.import_module("configs.joint").get_config()
    config.presence.label.sound = "read"
    with pytest.raises(UserError, match=r"presence.label.*\['sound'\] are missing or"):
        experiment.resolve(config, Source(config))


def test_the_primary_variable_is_called_as_the_config_says():
    config = get_config("image_label", "smoke")
    config.primary.name = "photo"
    assert [*experiment.build(config).variables] == ["photo", "label"]
    config.primary.name = "label"
    with pytest.raises(UserError, match="config.primary.name is 'label', as a mod"):
        experiment.build(config)
