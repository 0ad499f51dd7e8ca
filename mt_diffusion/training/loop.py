"""The training run: from a config to checkpoints, metrics and pictures."""

import collections
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
from mt_diffusion.errors import Stopped, UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import exported, fields, leak, presence
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import writing
from mt_diffusion.inference import walks
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities import guess
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.training import init_from, logs, watch
from mt_diffusion.training.callback import Callback, is_wish
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
from mt_diffusion.training.step import images_per_device, lower_step

TEST_EXAMPLES = 256  # that are looked at, at most
LAG = 2  # steps in flight before a step's counters are looked at


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
    experiments.check(config)
    check(config)
    modalities = config.copy_and_resolve_references().modalities.to_dict()
    trust.add(module for _, module in base.named_code(modalities))
    trust.add(module for _, module in own.named_code(config.data))
    exported.check_trainable(workdir)
    source, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    config = changed.recorded(experiments.resolve(config, source), source, test)
    experiment = experiments.build(config)
    guess.parse(config.sampling.guess, {m.name: m for m in experiment.modalities})
    mesh = sharding.make_mesh(config.mesh.fsdp)
    init_key, step_key, look_key = jax.random.split(jax.random.key(config.seed), 3)
    step_key = sharding.spread_key(step_key, mesh)

    optimizer = build_optimizer(config)
    abstract = abstract_state(experiment, optimizer, mesh)
    begin: Any = functools.partial(futures.ThreadPoolExecutor(1).submit, compile_step)
    step_of = config, experiment, optimizer, mesh, abstract
    steps = Checkpoints(workdir).steps
    # Neither compiling nor initialising or restoring keeps all cores busy.
    compiling = None if is_finished(config, steps) else begin(*step_of)
    init = functools.partial(new_state, init_key, experiment, optimizer, abstract)
    stop = Preemption()
    with stop, open_run(config, workdir, not steps, init, abstract) as run:
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
        over_batch = sharding.over_batch(mesh)
        in_flight: collections.deque[dict] = collections.deque()
        failed: list[Exception] = []
        wished = False
        lock = checkpoints.check_lock
        with watch.build(workdir, start, config, names, lock) as view:
            device_batches = pipeline.prefetch(
                batches, start, num_steps, over_batch, config.data.num_workers
            )
            train_step = (compiling or begin(*step_of)).result()
            sharding.meet("the first step")
            whole = pipeline.until_one_fails(device_batches, failed)
            waited_for = view.waited_for(whole, lambda: is_done(in_flight))
            step = start
            for step, batch in enumerate(waited_for, start + 1):
                state, terms = train_step(state, batch, step_key)
                view.advance(step)
                in_flight.append(terms)
                if len(in_flight) > LAG:
                    check_finite(in_flight.popleft(), config, step)
                if is_due(config, "log_every", step):
                    scalars = {n: float(x) for n, x in jax.device_get(terms).items()}
                    view.scalars(step, scalars)
                    wished = callback is not None and is_wish(callback(step, scalars))
                if is_due(config, "sample_every", step):
                    look(view, step, sharding.gather(state.ema_params, mesh))
                    view.restart_clock(step)
                told = stop.reached(step) or wished
                if told or is_due(config, "checkpoint_every", step):
                    view.send()
                    save(checkpoints, step, state, terms, config)
                if told:
                    break
            if failed and step > start and not is_due(config, "checkpoint_every", step):
                view.send()
                save(checkpoints, step, state, terms, config)
    if failed:
        raise failed[0]
    if step < num_steps and wished:
        print(f"stopped by its callback after step {step:,}, with a checkpoint.")
        return
    if step < num_steps:
        if stop.is_interrupted:
            raise KeyboardInterrupt
        raise Stopped(
            f"told to stop after step {step:,} of {num_steps:,}; the same command "
            "continues from the checkpoint."
        )
    sample = f"--mode=sample --workdir={shlex.quote(str(workdir))}"
    print(f"done: {num_steps:,} steps. Sample with {sample}")


def compile_step(*args: Any) -> jax.stages.Compiled:
    """The training step, compiled; arguments as of `lower_step`."""
    return lower_step(*args).compile()


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


def save(
    checkpoints: Checkpoints,
    step: int,
    state: TrainState,
    terms: dict,
    config: ConfigDict,
) -> None:
    """Begins to write a checkpoint, unless the last gradients were not finite."""
    if terms["skipped_in_a_row"]:
        print(f"no checkpoint at step {step}: its gradients are not finite")
    else:
        checkpoints.save(step, state.saved, config)


def is_due(config: ConfigDict, interval: str, step: int) -> bool:
    """Whether what happens every config.watch[interval] steps, and last, is due.

    What happens every 0 steps never does.
    """
    every = config.watch[interval]
    return every > 0 and (step % every == 0 or step == config.train.num_steps)


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
    images_per_device(config, jax.device_count())
    sampler.build_clip(config.sampling.clip)
    variance.check(config.sampling.variance, config.sampling.correction)
    interval = config.sampling.guidance_interval
    guidance.check_interval(interval, "config.sampling.guidance_interval")
    table = schedule.build(config.diffusion.schedule, config.diffusion.num_steps)
    walks.build(config.sampling, table)


def is_done(in_flight: Sequence[dict]) -> bool:
    """Whether the devices have done all steps that they were given."""
    return not in_flight or all(x.is_ready() for x in jax.tree.leaves(in_flight[-1]))


def check_finite(terms: dict, config: ConfigDict, step: int) -> None:
    """Raises UserError where too many steps in a row were skipped."""
    in_a_row = int(terms["skipped_in_a_row"])
    if in_a_row >= config.train.max_skipped_in_a_row:
        raise UserError(
            f"stopped near step {step}: the gradients of {in_a_row} steps in a row "
            "were not finite, so none of them was applied. The last checkpoint is "
            "sound. Start in a new workdir with a smaller "
            "--config.optimizer.learning_rate, or look for broken values in the data."
        )
