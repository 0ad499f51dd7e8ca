"""The programs of a config, lowered with their shardings for any devices."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion.data import classes, latents, pairs, sources
from mt_diffusion.data.kinds import tfds
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state
from mt_diffusion.training.step import abstract_batch, lower_step

NUM_NOISE = 64  # examples in place of a data set that is not here


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered program.

    images: of one run of it, on all devices. held: bytes per device of its arguments,
    by what they are.
    """

    name: str
    lowered: jax.stages.Lowered
    images: int
    held: dict[str, int]


class Noise:
    """Random images with the classes of a data set that is not here."""

    def __init__(self, data: ConfigDict, class_names: list[str]):
        self.class_names = class_names
        shape = (NUM_NOISE, data.image_size, data.image_size, data.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def __len__(self) -> int:
        return NUM_NOISE

    def __getitem__(self, i: int) -> dict:
        classes = max(len(self.class_names), 1)
        return {"image": self._images[i], sources.CLASS: i % classes}


def find_source(data: ConfigDict) -> sources.Source:
    """The training data; noise in its place where TFDS describes what is not here."""
    try:
        return sources.open_source(data, "train")
    except UserError:
        if data.source != "tfds" or data.vectors:
            raise
        features = tfds.find_builder(data).info.features
        names = list(features[sources.CLASS].names) if sources.CLASS in features else []
        return pairs.add(Noise(data, classes.in_order(names, data)), data)


def without(data: ConfigDict) -> ConfigDict:
    """config.data without latents, which need not be here."""
    data = data.copy_and_resolve_references()
    data.latents = ""
    return data


def resolve(config: ConfigDict) -> ConfigDict:
    """The config with what its modalities take from the data, which need not be here.

    Raises UserError for what can't be, as training does.
    """
    experiments.check(config)
    config = config.copy_and_resolve_references()
    space, source = experiments.space_of(config), find_source(without(config.data))
    if space.stand_in:
        with config.unlocked():
            config.primary.space.update(space.stand_in)
        source = latents.Noise(source, space.shape)
    return experiments.resolve(config, source)


def lower_training(config: ConfigDict, mesh: Mesh, images: int, parts: int) -> Program:
    """The training step on a global batch of `images` in `parts` microbatches."""
    config = config.copy_and_resolve_references()
    config.train.update(batch_size=images, num_microbatches=parts)
    experiment, optimizer = experiments.build(config), build_optimizer(config)
    state = abstract_state(experiment, optimizer, mesh)
    batch = abstract_batch(experiment, images, mesh)
    return Program(
        name="training step",
        lowered=lower_step(config, experiment, optimizer, mesh, state),
        images=images,
        held={
            "parameters": held(state.params),
            "average": held(state.ema_params),
            "optimizer": held(state.opt_state),
            "codes": held(state.tables),
            "batch": held(batch),
        },
    )


def lower_sampling(config: ConfigDict, mesh: Mesh) -> Program:
    """The whole sampler of config.sampling, nothing given, one batch of it."""
    experiment = experiments.build(config)
    generator = Generator(experiment, config.sampling, mesh)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    shapes = shapes | jax.eval_shape(lambda: experiment.tables)
    params = sharding.placed(shapes, sharding.replicated(mesh))
    images = generator.batch_size(config.sampling.batch_size)
    rows = jax.ShapeDtypeStruct((images,), np.int32, sharding=sharding.over_batch(mesh))
    seed = jax.ShapeDtypeStruct((), np.int32, sharding=sharding.replicated(mesh))
    lowered = Generator.draw.lower(generator, params, seed, rows, {})
    return Program("sampler", lowered, images, {"parameters": held(params)})


def held(tree: Any) -> int:
    """Bytes of a tree on each device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
