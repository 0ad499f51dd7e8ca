"""The training run: from a config and a workdir to checkpoints, metrics, pictures."""

import collections
import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mt_diffusion import experiment as experiments
from mt_diffusion import pictures
from mt_diffusion.data import pipeline, sources
from mt_diffusion.diffusion import objective, sampler
from mt_diffusion.errors import UserError
from mt_diffusion.generation import Generator
from mt_diffusion.modalities.base import Batch
from mt_diffusion.training import sharding, watch
from mt_diffusion.training.checkpoint import Checkpoints
from mt_diffusion.training.state import TrainState, build_optimizer, init_state
from mt_diffusion.training.step import build_step

# What may change from one call to the next in the same workdir.
CHANGEABLE = ("watch", "sampling", "train.num_steps")
LAG = 2  # steps in flight before a step's counters are looked at


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains until config.train.num_steps, from the newest checkpoint if there is one.

    Raises UserError for a mistake in the config, the data or the workdir, and where too
    many steps in a row have gradients that are not finite.
    """
    train_source = sources.open_source(config.data, "train")
    test_source = sources.open_source(config.data, "test")
    config = experiments.resolve(config, train_source)
    experiment = experiments.build(config)
    mesh = sharding.make_mesh(config.mesh.fsdp)
    check(config, train_source, mesh)
    step_key, init_key, test_key = jax.random.split(jax.random.key(config.seed), 3)

    optimizer = build_optimizer(config)
    everywhere, over_batch = sharding.replicated(mesh), sharding.over_batch(mesh)
    init = jax.jit(
        lambda key: init_state(key, experiment, optimizer), out_shardings=everywhere
    )
    checkpoints = Checkpoints(workdir, config.watch.keep_checkpoints)
    state = resume(checkpoints, config, jax.eval_shape(init, init_key), everywhere)
    if state is None:
        state = init(init_key)
    start = int(state.step)

    watch.banner(
        workdir,
        mesh,
        state.params,
        {
            "data": f"{len(train_source):,} training, "
            f"{len(test_source):,} test examples",
            "training": f"steps {start:,} to {config.train.num_steps:,} of "
            f"{config.train.batch_size} images",
        },
    )
    preprocess = pipeline.Preprocess(
        experiment.primary, experiment.modalities, config.data.random_flip
    )
    batches = pipeline.training_batches(
        train_source, preprocess, config.train.batch_size, config.seed
    )
    unflipped = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    look = Look(config, experiment, mesh, test_source, unflipped, test_key)
    train_step = jax.jit(build_step(config, experiment, optimizer), donate_argnums=0)
    view = watch.Watch(workdir, start, config.train.num_steps, config.train.batch_size)
    in_flight = collections.deque()
    try:
        for batch in pipeline.prefetch(
            batches, start, config.train.num_steps, over_batch
        ):
            state, terms = train_step(state, batch, step_key)
            start += 1
            view.advance()
            in_flight.append(terms)
            if len(in_flight) > LAG:
                check_finite(in_flight.popleft(), config, start)
            done = start == config.train.num_steps
            if start % config.watch.log_every == 0 or done:
                view.scalars(start, jax.device_get(terms))
            if start % config.watch.checkpoint_every == 0 or done:
                check_finite(terms, config, start)
                checkpoints.save(start, vars(state), config)
            if start % config.watch.sample_every == 0 or done:
                look(view, start, state.ema_params)
        checkpoints.wait()
    finally:
        view.close()
    print(f"done: {start:,} steps. Sample with --mode=sample --workdir={workdir}")


def check(config: ConfigDict, source: sources.Source, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError for numbers that can't work, before anything heavy starts."""
    batch_size = config.train.batch_size
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"config.train.batch_size = {batch_size} must be a multiple of the "
            f"{mesh.size} device(s) that share it."
        )
    for name in ("log_every", "checkpoint_every", "sample_every", "keep_checkpoints"):
        if config.watch[name] < 1:
            raise UserError(
                f"config.watch.{name} is {config.watch[name]}; use 1 or more."
            )
    if config.train.num_steps < 1:
        raise UserError(
            f"config.train.num_steps is {config.train.num_steps}; use 1 or more."
        )
    sampler.build_step(config.sampling.sampler, config.sampling.eta)


def resume(
    checkpoints: Checkpoints,
    config: ConfigDict,
    abstract: TrainState,
    placement: jax.sharding.Sharding,
) -> TrainState | None:
    """The state of the newest whole checkpoint, on the devices; None to start anew.

    Broken newer checkpoints are moved aside. Raises UserError for another config.
    """

    def target(saved: ConfigDict) -> dict[str, Any]:
        check_same(config, saved)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement),
            abstract,
        )
        return vars(placed)

    found = checkpoints.newest(target)
    if found is None:
        return None
    step, _, state = found
    for broken in [s for s in checkpoints.steps if s > step]:
        print(f"moved broken checkpoint {broken} to {checkpoints.set_aside(broken)}")
    print(f"resuming from the checkpoint of step {step:,}")
    return TrainState(**state)


def check_same(config: ConfigDict, saved: ConfigDict) -> None:
    """Raises UserError where a workdir's config differs in what can't be changed."""
    new, old = (flatten(json.loads(c.to_json())) for c in (config, saved))
    changed = [
        f"{name} ({old.get(name)!r} there, {new.get(name)!r} now)"
        for name in sorted(new.keys() | old.keys())
        if new.get(name) != old.get(name) and not name.startswith(CHANGEABLE)
    ]
    if changed:
        raise UserError(
            "the workdir holds a run of another config: " + ", ".join(changed) + ". "
            "Use another --workdir, or the config that this one was started with."
        )


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested dicts."""
    flat = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def check_finite(terms: dict, config: ConfigDict, step: int) -> None:
    """Raises UserError where too many steps in a row were skipped."""
    in_a_row = int(terms["skipped_in_a_row"])
    if in_a_row >= config.train.max_skipped_in_a_row:
        raise UserError(
            f"stopped near step {step}: the gradients of {in_a_row} steps in a row "
            "were not finite, so none of them was applied. The last checkpoint is "
            "sound; resume with a smaller --config.optimizer.learning_rate in a new "
            "workdir, or look for broken values in the data."
        )


class Look:
    """What is looked at from time to time: the test loss, and pictures of samples."""

    def __init__(self, config, experiment, mesh, source, preprocess, key):
        self._experiment = experiment
        self._num = config.watch.num_pictures
        self._seed = config.seed
        self._generator = Generator(experiment, config.sampling, mesh)
        self._batch = self._test_batch(config, mesh, source, preprocess)
        self._loss = jax.jit(
            lambda params, batch: objective.loss(
                key, batch, experiment, params, config.train.variance_weight
            )[1]
        )

    def _test_batch(self, config, mesh, source, preprocess) -> Batch:
        batch = pipeline.first_examples(
            source, preprocess, config.train.batch_size, config.seed
        )
        return jax.device_put(batch, sharding.over_batch(mesh))

    def __call__(self, view: watch.Watch, step: int, params: Any) -> None:
        """Writes the test loss, and grids: all generated, and each modality given."""
        terms = jax.device_get(self._loss(params, self._batch))
        view.write(step, {f"test_{name}": float(x) for name, x in terms.items()})
        wishes = [{}] + [
            {m.name: np.asarray(self._batch.values[m.name])[: self._num]}
            for m in self._experiment.modalities
        ]
        for given in wishes:
            examples = self._generator(params, self._seed, self._num, given)
            name = "_".join(["given", *given] if given else ["joint"])
            grid = pictures.grid(examples, self._experiment.variables, given)
            view.picture(step, name, grid)
