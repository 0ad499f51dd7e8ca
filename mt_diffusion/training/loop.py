"""The training run: from a config to checkpoints, metrics and pictures."""

import contextlib
import functools
import math
import pathlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
from ml_collections import ConfigDict

from mt_diffusion import trust
from mt_diffusion.data import changed, pipeline, sources
from mt_diffusion.data.kinds import own
from mt_diffusion.diffusion import aggregation, guidance, sampler, schedule, variance
from mt_diffusion.errors import Stopped
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import exported, fields, leak, presence
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import writing
from mt_diffusion.inference import walks
from mt_diffusion.modalities import build as base
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.training import init_from, logs, objective, watch
from mt_diffusion.training.look import Look
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.preemption import Preemption
from mt_diffusion.training.resume import resume
from mt_diffusion.training.state import (
    TrainState,
    abstract_state,
    new_state,
    with_tables,
)
from mt_diffusion.training.step import compile_step, images_per_device
from mt_diffusion.training.steps import Callback, End, Steps

TEST_EXAMPLES = 256  # that are looked at, at most


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    callback: Callback | None = None,
    log: str = logs.USUAL,
) -> None:
    """Trains until config.train.num_steps, from the newest checkpoint if there is one.

    callback: called after each step that is logged, in every process of a job; where it
    returns True (in all of them), the run ends there, with a checkpoint. log: names of
    logs, 'csv,wandb'.

    Raises UserError for a mistake in the config, the data or the workdir, and where too
    many steps in a row have gradients that are not finite.
    """
    names = logs.parse(log, workdir)
    config, source, test = open_data(config, workdir)
    experiment = experiments.build(config)
    mesh = sharding.make_mesh(config.mesh.fsdp)
    init_key, step_key, look_key = jax.random.split(jax.random.key(config.seed), 3)
    step_key = sharding.spread_key(step_key, mesh)

    optimizer = build_optimizer(config)
    abstract = abstract_state(experiment, optimizer, mesh)
    begin: Any = futures.ThreadPoolExecutor(1).submit
    step_of = compile_step, config, experiment, optimizer, mesh, abstract
    kept = Checkpoints(workdir).steps
    # Neither compiling nor initialising or restoring keeps all cores busy.
    compiling = None if is_finished(config, kept) else begin(*step_of)
    init = functools.partial(new_state, init_key, experiment, optimizer, abstract)
    stop = Preemption()
    with stop, open_run(config, workdir, not kept, init, abstract) as run:
        checkpoints, state = run
        state = with_tables(state, experiment, abstract)
        start, num_steps = int(state.step), config.train.num_steps
        facts = describe(config, experiment, start, len(source), len(test))
        facts |= getattr(source, "facts", {})
        watch.banner(workdir, mesh, state.params, facts, names)
        if start >= num_steps:
            print(f"nothing to do: this run has had {start:,} steps.")
            return

        batches = build_batches(config, experiment, source)
        look = build_look(config, experiment, mesh, test, look_key)
        failed: list[Exception] = []
        with watch.build(workdir, start, config, names, checkpoints.check_lock) as view:
            device_batches = pipeline.prefetch(
                batches,
                start,
                num_steps,
                sharding.over_batch(mesh),
                config.data.num_workers,
            )
            train_step = (compiling or begin(*step_of)).result()
            sharding.meet("the first step")
            steps = Steps(
                config=config,
                mesh=mesh,
                train_step=train_step,
                key=step_key,
                view=view,
                look=look,
                stop=stop,
                checkpoints=checkpoints,
                callback=callback,
            )
            whole = pipeline.until_one_fails(device_batches, failed)
            end = steps(state, start, whole, failed)
    if failed:
        raise failed[0]
    tell(end, stop, num_steps, workdir)


def open_data(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[ConfigDict, sources.Source, sources.Source]:
    """The config with what the data say, training and test data.

    Raises UserError for what can't be trained.
    """
    experiments.check(config)
    check(config)
    modalities = config.copy_and_resolve_references().modalities.to_dict()
    trust.add(module for _, module in base.named_code(modalities))
    trust.add(module for _, module in own.named_code(config.data))
    objective.build(config, experiments.build_new(config))  # before data are read
    exported.check_trainable(workdir)
    source, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    config = changed.recorded(experiments.resolve(config, source), source, test)
    return config, source, test


def tell(end: End, stop: Preemption, num_steps: int, workdir: pathlib.Path) -> None:
    """Says how the run ended; raises what a run that was told to stop ends with."""
    if end.step < num_steps and end.wished:
        print(f"stopped by its callback after step {end.step:,}, with a checkpoint.")
        return
    if end.step < num_steps:
        if stop.is_interrupted:
            raise KeyboardInterrupt
        raise Stopped(
            f"told to stop after step {end.step:,} of {num_steps:,}; the same command "
            "continues from the checkpoint."
        )
    sample = f"--mode=sample --workdir={shlex.quote(str(workdir))}"
    print(f"done: {num_steps:,} steps. Sample with {sample}")


def is_finished(config: ConfigDict, steps: Sequence[int]) -> bool:
    """Whether there is a checkpoint of the last step, whole or broken."""
    return config.train.num_steps <= max(steps, default=0)


def describe(
    config: ConfigDict, experiment: Experiment, start: int, num: int, num_test: int
) -> dict[str, str]:
    """What the banner says of a run that begins at step `start`."""
    facts = {"data": f"{num:,} training, {num_test:,} test examples"}
    if experiment.modalities:
        states = "; ".join(presence.lines(experiment.presence))
        facts["presence"] = states
    for name, squares in leak.of_config(config).items():
        said = ", ".join(f"{source} {square:.3g}" for source, square in squares.items())
        facts["leak"] = f"into the codes of {name}, of unit noise: {said}"
    facts["left at T"] = left_at_T(experiment)
    return facts | {
        "training": f"steps {start:,} to {config.train.num_steps:,}, "
        f"{config.train.batch_size} images each; the first waits for its program",
    }


def left_at_T(experiment: Experiment) -> str:
    """L0, were the images and all codes of unit RMS, which is the most they have."""
    process, numbers = experiment.process, math.prod(experiment.shape)
    parts = {experiment.primary.name: math.sqrt(process.schedule.alpha_bar[-1])}
    parts |= {n: table[-1] for n, table in process.aggregation.alpha_tilde.items()}
    nats = {n: aggregation.final_nats(w, numbers) for n, w in parts.items()}
    return "at most " + ", ".join(f"{n} {x:.2g} nats" for n, x in nats.items())


@contextlib.contextmanager
def open_run(
    config: ConfigDict,
    workdir: pathlib.Path,
    is_new: bool,
    init: Callable[[], TrainState],
    abstract: TrainState,
) -> Iterator[tuple[Checkpoints, TrainState]]:
    """The workdir's newest state; else a new one, which config.init_from may begin.

    is_new: whether the workdir has no checkpoint, not even a broken one. An init_from
    that can't be used is a UserError before anything is written. Nobody else writes to
    the workdir meanwhile, and what was saved is on disk in the end.
    """
    loaded = init_from.load(config, abstract.params) if is_new else {}
    writing.make_folder(workdir, f"--workdir={workdir}")
    with writing.explained(workdir):
        checkpoints = Checkpoints(workdir, config.watch.keep_checkpoints)
    with contextlib.closing(checkpoints):
        state = resume(checkpoints, config, abstract)
        yield checkpoints, state or init_from.begin(init(), loaded)


def build_batches(
    config: ConfigDict, experiment: Experiment, source: sources.Source
) -> Sequence[Batch]:
    """Random access to the training batches of all steps."""
    preprocess = pipeline.Preprocess(
        experiment.primary, experiment.modalities, config.data.random_flip
    )
    return pipeline.training_batches(
        source, preprocess, config.train.batch_size, config.seed
    )


def build_look(
    config: ConfigDict,
    experiment: Experiment,
    mesh: jax.sharding.Mesh,
    source: sources.Source,
    key: jax.Array,
) -> Look:
    """Looks at the first test examples, a training batch of them at most."""
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    most = mesh.size * max(TEST_EXAMPLES // mesh.size, 1)
    num = min(config.train.batch_size, most)
    batch = pipeline.first_examples(source, preprocess, num, config.seed)
    batch = jax.device_put(batch, sharding.over_batch(mesh))
    return Look(config, experiment, mesh, batch, key)


def check(config: ConfigDict) -> None:
    """Raises UserError for numbers that can't work, before anything heavy starts."""
    fields.check(config)
    sharding.make_mesh(config.mesh.fsdp)
    images_per_device(config, jax.device_count())
    build_optimizer(config)
    sampler.build_clip(config.sampling.clip)
    variance.check(config.sampling.variance, config.sampling.correction)
    interval = config.sampling.guidance_interval
    guidance.check_interval(interval, "config.sampling.guidance_interval")
    named = config.diffusion
    table = schedule.build(named.schedule, named.num_steps, named.shift)
    walks.build(config.sampling, table)
