"""What each mode does with the flags: it calls a function of that name.

Imports are of what the mode needs alone, so that --help and mistakes come at once.
"""

import pathlib
from typing import Any

from absl import flags

from mt_diffusion.command import moved, options, parsing
from mt_diffusion.errors import UserError

NUM_EVALUATED = 5000  # samples of each draw of an evaluation
NUM_BOUND = 256  # test examples whose bounds it gives


def workdir() -> pathlib.Path:
    """The folder of the run, which all modes but precompute need.

    All but training take an exported model, and the names of those that are here.
    """
    from mt_diffusion.experiment import exported

    if not options.WORKDIR.value:
        raise UserError("--workdir is missing: name the folder of the run.")
    path = path_of(options.WORKDIR)
    return path if options.MODE.value == "train" else exported.find(path)


def out() -> pathlib.Path | None:
    """Where to write, if a flag says so."""
    return path_of(options.OUT) if options.OUT.value else None


def needed_out() -> pathlib.Path:
    """Where to write, of a mode that must be told."""
    parsing.need(options.OUT)
    return path_of(options.OUT)


def path_of(flag: flags.FlagHolder) -> pathlib.Path:
    """A flag's path, which may be in a bucket; UserError for other addresses."""
    from mt_diffusion.files import paths

    return paths.of(flag.value, f"--{flag.name}={flag.value}")


def train() -> None:
    """--mode=train."""
    import jax

    from mt_diffusion.training import logs, loop
    from mt_diffusion.training.autoencoder import fit

    log = options.LOG.value or logs.USUAL
    if fit.is_one(options.CONFIG.value):
        fit.train(options.CONFIG.value, workdir(), log)
        return
    loop.train(options.CONFIG.value, workdir(), log=log)
    if jax.process_count() == 1:  # reading a checkpoint takes all processes
        report()
    else:
        print(f"a page to look at: --mode=report --workdir={workdir()}")


def settings() -> dict[str, Any]:
    """What flags change of the checkpoint's config.sampling, and where its data lie."""
    from mt_diffusion.diffusion import guidance
    from mt_diffusion.experiment import fields

    interval: Any = options.GUIDANCE_INTERVAL.value
    if interval is not None:
        interval = parsing.numbers(options.GUIDANCE_INTERVAL)
        guidance.check_interval(interval, "--guidance_interval")
    wishes = {
        "num_steps": options.STEPS.value,
        "sampler": options.SAMPLER.value,
        "spacing": options.SPACING.value,
        "resample": options.RESAMPLE.value,
        "variance": options.VARIANCE.value,
        "correction": options.CORRECTION.value,
        "batch_size": options.BATCH_SIZE.value,
        "guess": options.GUESS.value,
        "clip": options.CLIP.value,
        "guidance": options.GUIDANCE.value,
        "head_guidance": options.HEAD_GUIDANCE.value,
        "autoguidance": options.AUTOGUIDANCE.value,
        "guide": options.GUIDE.value,
        "guidance_interval": interval,
    }
    wishes = {name: value for name, value in wishes.items() if value is not None}
    for name, value in wishes.items():
        fields.check_number(f"sampling.{name}", value, f"--{name.removeprefix('num_')}")
    return wishes | moved.said


def sample() -> None:
    """--mode=sample."""
    from mt_diffusion.inference import sampling

    if options.TRAJECTORY.value and options.INTERPOLATE.value:
        raise UserError(
            "--trajectory shows the steps of a walk, and "
            f"--interpolate={options.INTERPOLATE.value} the ends of several: leave one "
            "of them out."
        )
    sampling.sample(
        workdir(),
        out(),
        options.NUM_SAMPLES.value,
        options.SEED.value,
        options.GIVEN.value,
        settings(),
        options.EMA.value,
        options.TRAJECTORY.value,
        options.INTERPOLATE.value,
    )


def read() -> None:
    """--mode=read."""
    from mt_diffusion.inference import reading

    captions = options.CAPTIONS.value
    reading.read(
        workdir(),
        out(),
        options.GIVEN.value,
        options.SEED.value,
        settings(),
        options.EMA.value,
        path_of(options.CAPTIONS) if captions else None,
    )


def bound() -> None:
    """--mode=bound."""
    from mt_diffusion.inference import bounding

    bounding.bound(
        workdir(),
        out(),
        options.NUM_EXAMPLES.value,
        options.NUM_TIMES.value,
        options.SEED.value,
        settings(),
        options.EMA.value,
    )


def export() -> None:
    """--mode=export."""
    from mt_diffusion.report import export

    parsing.need(options.WORKDIR, options.OUT)
    export.check(
        options.FORMAT.value, options.DTYPE.value, options.PUSH.value, needed_out()
    )
    export.export(
        export.of_workdir(workdir(), moved.said),
        needed_out(),
        options.FORMAT.value,
        options.DTYPE.value,
        options.LICENSE.value,
        options.PUSH.value,
        options.WITH_CAPTIONS.value,
    )


def precompute() -> None:
    """--mode=precompute."""
    from mt_diffusion.inference import precompute

    if options.ENCODER.value is None and precompute.has_latents(options.CONFIG.value):
        precompute.precompute_latents(options.CONFIG.value, needed_out())
        return
    parsing.need(options.ENCODER, options.OUT)
    precompute.precompute(
        options.CONFIG.value, str(options.ENCODER.value), needed_out()
    )


def evaluate() -> None:
    """--mode=evaluate."""
    from mt_diffusion.evaluation import evaluate
    from mt_diffusion.experiment import fields
    from mt_diffusion.report import report as page

    num_examples = options.NUM_EXAMPLES.value
    wishes = evaluate.Settings(
        num_samples=options.NUM_SAMPLES.value or NUM_EVALUATED,
        draws=options.DRAWS.value,
        features=options.FEATURES.value,
        weights=options.WEIGHTS.value,
        reference=options.REFERENCE.value,
        baseline=options.BASELINE.value,
        bound_examples=NUM_BOUND if num_examples is None else num_examples,
    )
    seed, use_ema = options.SEED.value, options.EMA.value
    evaluate.evaluate(workdir(), out(), wishes, seed, settings(), use_ema)
    if out() is None:  # what is elsewhere is in no page
        page.again(workdir(), fields.defaults())


def reference() -> None:
    """--mode=reference."""
    from mt_diffusion.evaluation import reference

    reference.make(
        options.CONFIG.value,
        options.FEATURES.value,
        options.WEIGHTS.value,
        options.SPLIT.value,
        options.NUM_EXAMPLES.value,
        needed_out(),
    )


def preflight() -> None:
    """--mode=preflight."""
    from mt_diffusion.preflight import preflight

    sizes, quick = parsing.numbers(options.MICROBATCHES), options.QUICK.value
    name = options.TOPOLOGY.value
    every = options.ALL_REMAT.value
    preflight.preflight(options.CONFIG.value, name, sizes, out(), quick, every)


def check() -> None:
    """--mode=check."""
    from mt_diffusion.data import checking

    checking.check(options.CONFIG.value.data)


def report() -> None:
    """--mode=report."""
    from mt_diffusion.experiment import fields
    from mt_diffusion.report import report

    print(f"wrote {report.write(workdir(), fields.defaults())}")


def compare() -> None:
    """--mode=compare."""
    from mt_diffusion.experiment import exported
    from mt_diffusion.report import report

    parsing.need(options.RUNS, options.OUT)
    runs = [exported.find(run) for run in options.RUNS.value]
    print(f"wrote {report.compare(runs, needed_out())}")


RUN = {
    f.__name__: f
    for f in (train, sample, read, bound, evaluate)
    + (reference, precompute, preflight, check, report, compare, export)
}
