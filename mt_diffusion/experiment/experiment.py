"""A config as the parts that every command needs: modalities, process, network."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion import protocol
from mt_diffusion.data.sources import Source
from mt_diffusion.diffusion import prediction, schedule
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import drifts, fields, leak, presence, programs
from mt_diffusion.experiment.presence import Presence
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities import guess
from mt_diffusion.modalities.image import Image
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.models.mt_diffusion import TABLES, MTDiffusion
from mt_diffusion.models.unet import REMAT, UNet
from mt_diffusion.protocol import Modality, Variable, is_evident
from mt_diffusion.spaces.space import Space

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CHOICES = {
    "unet.dtype": DTYPES,
    "unet.remat": REMAT,
    "mesh.gather": ("step", "block"),
    "mesh.sum": DTYPES,
    "objective.bare_of": ("one", "all"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What a config describes; shape is (H, W, C) of the diffusion space.

    origin: the config, as text, but for how is drawn; '' where it names others' code.
    """

    shape: tuple[int, int, int]
    primary: Image
    denoiser: Denoiser
    presence: Presence
    origin: str = ""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """All of them, in the config's order."""
        return tuple(self.denoiser.modalities)

    @property
    def space(self) -> Space:
        """The one that z_0 is in."""
        return self.primary.space

    @property
    def process(self) -> Process:
        """The aggregated diffusion process."""
        return self.denoiser.process

    @property
    def network(self) -> MTDiffusion:
        """The shared U-Net with the heads."""
        return self.denoiser.network

    @property
    def variables(self) -> dict[str, Variable]:
        """The primary image and all modalities by name."""
        return {v.name: v for v in (self.primary, *self.modalities)}

    def of(self, name: str) -> Variable:
        """The variable of a value's name, which may be that of a draw."""
        return self.variables[name.removesuffix(protocol.DRAW)]

    @property
    def tables(self) -> dict[str, dict]:
        """What stands beside the parameters in the network's variables: fixed codes."""
        found = {
            m.name: {name: getattr(m, name) for name in m.tables}
            for m in self.modalities
            if m.tables
        }
        return {TABLES: found} if found else {}


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """The config with what its modalities take from the data set written into it.

    Raises UserError for what no new model can be: before anything is taken, which may
    last, for what the fields alone say; after it for the rest.
    """
    resolved = config.copy_and_resolve_references()
    build_new(resolved)
    with resolved.unlocked():
        resolved.primary.space.update(space_of(resolved).fit(source))
        for name, fields in resolved.modalities.items():
            with base.called(name):
                fitted = base.locate(fields.kind).fit(fields.to_dict(), source)
            resolved.modalities[name] = fitted
        experiment = build_new(resolved)
        for name, fields in leak.measure(resolved, experiment, source).items():
            resolved.modalities[name].update(fields)
    return resolved


def build_new(config: ConfigDict) -> Experiment:
    """The parts of a config that is to be trained, resolved or not yet.

    Raises UserError also for what stored models may have, and new ones not.
    """
    experiment = build(config)
    guess.parse(config.sampling.guess, {m.name: m for m in experiment.modalities})
    drifts.check_new(experiment.modalities, experiment.process.schedule)
    return experiment


def space_of(config: ConfigDict) -> Space:
    """The space of the diffusion."""
    picture = config.data.image_size, config.data.image_size, config.data.channels
    return base.space(config.primary.space.to_dict(), picture)


def build(config: ConfigDict) -> Experiment:
    """The parts that a resolved config describes; UserError for what can't be."""
    space = space_of(config)
    shape = space.shape
    name = config.primary.name
    if name in config.modalities:
        raise UserError(
            f"config.primary.name is {name!r}, as a modality is called; name one of "
            "them otherwise."
        )
    primary = base.build(name, {"kind": "image.Image"}, shape, space)
    assert isinstance(primary, Image)
    alone: list[Any] = [
        base.build(name, fields.to_dict(), shape, space)
        for name, fields in config.modalities.items()
    ]
    modalities = tuple(m.among(alone) for m in alone)
    predicted = prediction.build(config.diffusion.prediction)
    named = config.diffusion
    table = schedule.build(named.schedule, named.num_steps, named.shift)
    return Experiment(
        shape=shape,
        primary=primary,
        denoiser=Denoiser(
            modalities=modalities,
            process=drifts.build_process(modalities, table, predicted),
            network=build_network(config, modalities),
            prediction=predicted,
        ),
        presence=presence.build(
            config.presence.to_dict(), {m.name: m.conditions for m in modalities}
        ),
        origin=origin_of(config),
    )


def origin_of(config: ConfigDict) -> str:
    """The config but for `sampling`; '' where it names code outside of this package."""
    parts = json.loads(config.copy_and_resolve_references().to_json(sort_keys=True))
    parts.pop("sampling", None)
    return "" if any(base.named_code(parts["modalities"])) else json.dumps(parts)


def build_network(config: ConfigDict, modalities: Sequence[Modality]) -> MTDiffusion:
    """The shared U-Net with the heads of its modalities."""
    sizes = {m.name: m.token_shape[1] for m in modalities if m.token_shape}
    if len(set(sizes.values())) > 1:
        raise UserError(
            "the network reads the tokens of all modalities at once, but their sizes "
            f"are {sizes}; set one for all, as config.modalities.NAME.tokens.size."
        )
    fields = config.unet.to_dict()
    learn_variance, learn_places = (
        fields.pop(name) for name in ("learn_variance", "token_places")
    )
    unet = UNet(
        **fields
        | {
            "channel_mult": tuple(fields["channel_mult"]),
            "attention_resolutions": tuple(fields["attention_resolutions"]),
            "dtype": DTYPES[fields["dtype"]],
        },
        out_channels=space_of(config).shape[-1] * (2 if learn_variance else 1),
        num_classes=0,
        use_tokens=bool(sizes),
    )
    return MTDiffusion(
        tuple(modalities),
        unet,
        config.diffusion.num_steps,
        learn_variance,
        learn_balance=config.objective.learn_balance,
        learn_places=learn_places,
        evident={m.name: m.evidence_size for m in modalities if is_evident(m)},
    )


def init_params(key: PRNGKeyArray, experiment: Experiment) -> Any:
    """Initial parameters of the network."""
    z = jnp.zeros((1, *experiment.shape))
    values = {m.name: jnp.asarray(m.placeholder())[None] for m in experiment.modalities}

    def encode_and_predict(network, z, t, values):
        codes = network.encode(values)
        known = {
            m.name: jnp.ones(1, bool) for m in experiment.modalities if m.conditions
        }
        evidence = {n: jnp.zeros((1, size)) for n, size in network.evident.items()}
        return network(z, t, codes, known, evidence)

    t = jnp.ones(1, jnp.int32)
    return experiment.network.init(key, z, t, values, method=encode_and_predict)


@functools.lru_cache(maxsize=1)
def initializer(experiment: Experiment) -> Callable[[PRNGKeyArray], Any]:
    """`init_params` by its key alone; one function, so that JAX traces it once."""
    return jax.jit(lambda key: init_params(key, experiment))


def shapes_of(experiment: Experiment, key: Any = None) -> Any:
    """Of the parameters that `init_params` gives; traced once for all processes.

    key: the shape and place of the one that these will come from, so that this process
    need not trace it again.
    """

    def trace() -> dict[str, Any]:
        of = jax.random.key(0) if key is None else key
        shapes = jax.eval_shape(initializer(experiment), of)
        flat = flatten_dict(shapes, sep="/")
        return {name: [list(x.shape), str(x.dtype)] for name, x in flat.items()}

    name = programs.named("shapes", experiment.origin)
    found = programs.remembered(name, trace)
    flat = {name: jax.ShapeDtypeStruct(*x) for name, x in found.items()}
    return unflatten_dict(flat, sep="/")


def check(config: ConfigDict) -> None:
    """Raises UserError for fields that can't be, and for what no U-Net can have."""
    fields.check(config)
    unet, size = config.unet, config.data.image_size
    if unet.num_head_channels < 0:
        raise UserError(
            f"config.unet.num_head_channels is {unet.num_head_channels}; use 0 for "
            "num_heads heads at every resolution (guided-diffusion's -1)."
        )
    if not unet.channel_mult:
        raise UserError(
            "config.unet.channel_mult is (); give a whole number of 1 or more for each "
            "level, such as (1, 2)."
        )
    side, levels = space_of(config).shape[0], len(unet.channel_mult) - 1
    factor = unet.patch * 2**levels * max(size // max(side, 1), 1)
    if size < 1 or size % factor:
        raise UserError(
            f"config.data.image_size = {size} is not divisible by {factor}, but a "
            f"U-Net with {len(unet.channel_mult)} levels halves it "
            f"{len(unet.channel_mult) - 1} times, in patches of {unet.patch}; use "
            f"{max(size // factor, 1) * factor}, or a shorter config.unet.channel_mult."
        )
    if config.data.channels not in (1, 3):
        raise UserError(f"config.data.channels is {config.data.channels}; use 1 or 3.")
    for field, choices in CHOICES.items():
        section, name = field.split(".")
        if config[section][name] not in choices:
            raise UserError(
                f"config.{field} is {config[section][name]!r}; choose "
                f"{' or '.join(choices)}."
            )
    for mult in unet.channel_mult:
        width = mult * unet.model_channels
        for field in (
            "num_groups",
            "num_head_channels" if unet.num_head_channels else "num_heads",
        ):
            if width % unet[field]:
                raise UserError(
                    f"a level of {width} channels is not divisible by "
                    f"config.unet.{field} = {unet[field]}; change that or "
                    "config.unet.model_channels."
                )
