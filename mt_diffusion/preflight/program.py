"""The programs of a config, lowered with their shardings for any devices."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion.data import classes, latents, pairs, sources, views
from mt_diffusion.data.kinds import tfds
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import shapes_of
from mt_diffusion.inference.generation import Generator
from mt_diffusion.modalities import build as base
from mt_diffusion.parallel import sharding
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.state import abstract_state
from mt_diffusion.training.step import abstract_batch, lower_step

NUM_NOISE = 64  # examples in place of a data set that is not here
FILES = ("path", "pair_path", "captions", "vectors")  # fields that name some


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
    """Random images with the classes of a data set that is not here.

    has_pair: whether each has a second one.
    """

    def __init__(
        self, data: ConfigDict, class_names: Sequence[str], has_pair: bool = False
    ):
        self.class_names = class_names
        shape = (NUM_NOISE, data.image_size, data.image_size, data.channels)
        self._images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._has_pair = has_pair

    def __len__(self) -> int:
        return NUM_NOISE

    def __getitem__(self, i: int) -> dict:
        classes = max(len(self.class_names), 1)
        found = {"image": self._images[i], sources.CLASS: i % classes}
        return found | ({"pair": self._images[-1 - i]} if self._has_pair else {})


class Found(NamedTuple):
    """Training data; why: those of the config are not here, None where they are."""

    source: sources.Source
    why: UserError | None = None


def find_source(data: ConfigDict) -> Found:
    """The training data; what is here of them, or noise, where some of them are not.

    Raises UserError for data that are here, and can't be read.
    """
    try:
        return Found(sources.open_source(data, "train"))
    except UserError as error:
        why = error
    if data.source == "tfds":
        features = tfds.find_builder(data).info.features
        names = list(features[sources.CLASS].names) if sources.CLASS in features else []
        noise = Noise(data, classes.in_order(names, data))
        return Found(pairs.add(noise, data), why)
    gone = [name for name in FILES if not is_here(data[name])]
    if not gone:
        raise why
    if not {"path", "pair_path"} & set(gone):
        return Found(sources.open_source(without(data, gone), "train"), why)
    return Found(Noise(data, list(data.class_names), bool(data.pair)), why)


def is_here(path: str) -> bool:
    """Whether there is a file or folder of a field of config.data, if it names one."""
    path = path.replace("{split}", views.SPLITS[0])
    return path in ("", views.OF_CLASSES) or pathlib.Path(path).expanduser().exists()


def without(data: ConfigDict, fields: Sequence[str]) -> ConfigDict:
    """config.data without these of its files."""
    data = data.copy_and_resolve_references()
    data.update(dict.fromkeys(fields, ""))
    return data


def resolve(config: ConfigDict) -> ConfigDict:
    """The config with what its modalities take from the data, which need not be here.

    Raises UserError for what can't be, as training does.
    """
    experiments.check(config)
    config = config.copy_and_resolve_references()
    space = experiments.space_of(config)
    source, why = find_source(without(config.data, ["latents"]))
    if space.stand_in:
        with config.unlocked():
            config.primary.space.update(space.stand_in)
        source = latents.Noise(source, space.shape)
    if why is None:
        return experiments.resolve(config, source)
    told = stand_in(config)
    if config.data.vectors and not told:
        raise why  # of vectors nothing is known
    try:
        resolved = experiments.resolve(config, source)
    except UserError as error:
        raise UserError(f"{why} And without the data: {error}") from error
    print(f"noise stands for data that are not here ({why})")
    for name in told:
        print(f"its vectors: config.modalities.{name}.num_components numbers each")
    return resolved


def stand_in(config: ConfigDict) -> list[str]:
    """Puts into a config what its modalities have in the place of data; their names."""
    names = []
    with config.unlocked():
        for name, section in config.modalities.items():
            fields = section.to_dict()
            found = base.locate(fields["kind"]).stand_in(fields)
            section.update({n: x for n, x in found.items() if not fields[n]})
            names += [name] * bool(found)
    return names


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
    shapes = shapes_of(experiment)
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
