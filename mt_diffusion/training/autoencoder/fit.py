"""Training of a small autoencoder, on the data and by the optimizer of a diffusion.

A run of its own, and not the diffusion's step: there is no z_t, no modality and no
head; what both share are the data, the optimizer, the watch and the workdir's lock. Its
state is one small file, so that the same command continues.
"""

import functools
import pathlib
import typing
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import Stopped, UserError
from mt_diffusion.experiment import fields
from mt_diffusion.files import locks, paths, writing
from mt_diffusion.modalities import build as base
from mt_diffusion.models.autoencoder.kl import AutoencoderKL, Form
from mt_diffusion.parallel import sharding
from mt_diffusion.training import logs, watch
from mt_diffusion.training.autoencoder import figures
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.preemption import Preemption

STATE = "autoencoder_state.msgpack"
SECTION = "autoencoder"  # of a config that is of none but an autoencoder
FIXED = {"in_channels", "out_channels", "use_quant_conv", "use_post_quant_conv"}


class State(NamedTuple):
    """Of a training: the parameters, their average, the optimizer's, steps done."""

    params: Any
    average: Any
    optimizer: Any
    step: Any


def is_one(config: ConfigDict) -> bool:
    """Whether a config is of an autoencoder."""
    return SECTION in config


def train(config: ConfigDict, workdir: pathlib.Path, log: str = logs.USUAL) -> None:
    """Trains until config.train.num_steps, and writes workdir/autoencoder.

    Told to stop, it saves its state and raises Stopped. Raises UserError for a config
    that can't be, one of other widths than a workdir has, and a training whose numbers
    are not finite.
    """
    if paths.is_remote(workdir):
        raise UserError(
            f"--workdir={workdir} is in a bucket, and an autoencoder is read from a "
            "folder of the machine: name one here."
        )
    names = logs.parse(log, workdir)
    form = check(config)
    source, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    writing.make_folder(workdir, f"--workdir={workdir}")
    mesh = sharding.make_mesh()
    module, optimizer = AutoencoderKL(form), build_optimizer(config)
    step_fn = build_step(module, optimizer, config)
    place = f"--workdir={workdir}"
    with Preemption() as stop, locks.held(workdir, place) as check_lock:
        state = newest(workdir, begin(module, optimizer, config))
        start = int(state.step)
        tell(workdir, form, state, config, (len(source), len(test)), names)
        state = jax.device_put(state, sharding.replicated(mesh))
        preprocess = figures.preprocess_of(config, config.data.random_flip)
        batches = pipeline.training_batches(
            source, preprocess, config.train.batch_size, config.seed
        )
        look = functools.partial(figures.reconstruct, module, test, config)
        with watch.build(workdir, start, config, names, check_lock) as view:
            found = pipeline.prefetch(
                batches, start, config.train.num_steps, sharding.over_batch(mesh)
            )
            for step, batch in enumerate(found, start + 1):
                jax.block_until_ready(state)  # between CPUs, one collective at a time
                state, terms = step_fn(state, batch.z0)
                view.advance(step)
                if is_due(config, "log_every", step):
                    view.scalars(step, finite(jax.device_get(terms), step))
                if is_due(config, "sample_every", step):
                    decibels, grid = look(state.average)
                    view.write(step, {"test_psnr": decibels})
                    view.picture(step, "reconstructed", grid)
                told = stop.reached(step)
                if told or is_due(config, "checkpoint_every", step):
                    save(workdir, state)
                if told:
                    break
        if (done := int(state.step)) < config.train.num_steps:
            if stop.is_interrupted:
                raise KeyboardInterrupt
            raise Stopped(
                f"told to stop after step {done:,} of {config.train.num_steps:,}; the "
                "same command continues."
            )
        figures.finish(workdir, module, state, source, test, config)


def check(config: ConfigDict) -> Form:
    """The architecture; UserError for fields that can't be, or nothing would read."""
    own = config[SECTION].to_dict()
    types = typing.get_type_hints(Form)
    wanted = {"kl_weight": float} | {n: t for n, t in types.items() if n not in FIXED}
    base.check_fields(f"config.{SECTION}", own, wanted)
    shared = {name: section for name, section in config.items() if name != SECTION}
    known = fields.known()
    for name, value in fields.leaves(shared):
        if not name.startswith(fields.OPEN):
            if name not in known:
                near = fields.nearest(name)
                raise UserError(
                    f"nothing would read config.{name}; the nearest is config.{near}."
                )
            fields.check_type(name, value, known[name])
        fields.check_number(name, value)
    weight, colors = own.pop("kl_weight"), config.data.channels
    quant: dict[str, Any] = {"use_quant_conv": True, "use_post_quant_conv": True}
    own["block_out_channels"] = tuple(own["block_out_channels"])
    form = Form(in_channels=colors, out_channels=colors, **own, **quant)
    numbers = (*form.block_out_channels, form.layers_per_block, form.latent_channels)
    groups = form.norm_num_groups
    if not form.block_out_channels or min(*numbers, groups) < 1 or weight < 0:
        raise UserError(
            f"config.{SECTION} has numbers below 1 among {numbers} and {groups} groups,"
            f" or a kl_weight below 0 ({weight})."
        )
    if wrong := [w for w in form.block_out_channels if w % groups]:
        raise UserError(
            f"config.{SECTION}.block_out_channels has {wrong[0]}, which "
            f"norm_num_groups = {groups} does not divide."
        )
    side = config.data.image_size
    if side < form.factor or side % form.factor:
        raise UserError(
            f"config.data.image_size = {side} is not divisible by {form.factor}, but "
            f"config.{SECTION}.block_out_channels, {len(form.block_out_channels)} of "
            "them, halve it once less often than there are; leave some out."
        )
    if jax.process_count() > 1:
        raise UserError(
            "an autoencoder is trained in one process; leave out what makes this one a "
            "part of a job."
        )
    num = jax.device_count()
    if config.train.batch_size % num:
        raise UserError(
            f"config.train.batch_size = {config.train.batch_size} is not divisible by "
            f"the {num} devices."
        )
    return form


def begin(module: AutoencoderKL, optimizer: Any, config: ConfigDict) -> State:
    """A new state."""
    side, key = config.data.image_size, jax.random.key(config.seed)
    image = jnp.zeros((1, side, side, config.data.channels))
    params = jax.jit(module.init)(key, image)["params"]
    return State(params, params, optimizer.init(params), jnp.zeros((), jnp.int32))


def newest(workdir: pathlib.Path, fresh: State) -> State:
    """The workdir's state, or a fresh one; UserError where it is of another config."""
    path = workdir / STATE
    if not path.exists():
        return fresh
    try:
        found = flax.serialization.from_bytes(fresh, path.read_bytes())
        shapes = [jax.tree.map(np.shape, tree) for tree in (found, fresh)]
        if shapes[0] != shapes[1]:
            raise ValueError("its arrays have other shapes")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged, or of another config.{SECTION} than this one "
            f"({writing.reason(error)}); name another --workdir."
        ) from error
    return found


def save(workdir: pathlib.Path, state: State) -> None:
    """Writes what a later call continues from."""
    content = flax.serialization.to_bytes(jax.device_get(state))
    with writing.draft_of(workdir / STATE) as draft:
        draft.write_bytes(content)


def build_step(module: AutoencoderKL, optimizer: Any, config: ConfigDict) -> Any:
    """(state, images) -> (state, terms), jitted."""
    weight, decay = config[SECTION].kl_weight, config.train.ema_decay
    key = jax.random.key(config.seed)

    def loss(params, images, key):
        moments = module.apply({"params": params}, images, method="encode")
        mean, std = moments
        z = mean + std * jax.random.normal(key, mean.shape)
        made = module.apply({"params": params}, z, method="decode")
        error = jnp.mean((made - images) ** 2)
        nats = jnp.mean(0.5 * (mean**2 + std**2 - 1) - jnp.log(std))
        return error + weight * nats, {"square_error": error, "kl_nats": nats}

    @jax.jit
    def step(state, images):
        noise = jax.random.fold_in(key, state.step)
        make = jax.value_and_grad(loss, has_aux=True)
        (total, terms), grads = make(state.params, images, noise)
        updates, moved = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        near = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(
            lambda a, b: near * a + (1 - near) * b, state.average, params
        )
        return State(params, average, moved, state.step + 1), {"loss": total} | terms

    return step


def is_due(config: ConfigDict, interval: str, step: int) -> bool:
    """Whether what happens every config.watch[interval] steps, and last, is due."""
    every = config.watch[interval]
    return every > 0 and (step % every == 0 or step == config.train.num_steps)


def finite(terms: Any, step: int) -> dict[str, float]:
    """Terms as numbers; UserError where they are none."""
    found = {name: float(x) for name, x in terms.items()}
    if not np.isfinite(list(found.values())).all():
        raise UserError(
            f"stopped at step {step}: the loss is not finite. Start in a new workdir "
            "with a smaller --config.optimizer.learning_rate."
        )
    return found


def tell(workdir, form, state, config, numbers, names) -> None:
    """Prints what is trained, on what, and what is written where."""
    side, factor = config.data.image_size, form.factor
    lines = {
        "autoencoder": f"{watch.count(state.params):,} parameters, images "
        f"{side} x {side} x {form.in_channels} to latents {side // factor} x "
        f"{side // factor} x {form.latent_channels}",
        "data": "{:,} training, {:,} test examples".format(*numbers),
        "training": f"steps {int(state.step):,} to {config.train.num_steps:,}",
        "metrics": f"{workdir / watch.METRICS}{logs.told(workdir, names)}",
    }
    for name, value in lines.items():
        print(f"{name:>12}: {value}")
