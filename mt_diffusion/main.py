r"""MT-Diffusion: several modalities of one example in one diffusion.

Train (continues where the workdir's newest checkpoint ends):
  python -m mt_diffusion.main --config=configs/masked_image.py \
      --workdir=runs/masked_image
  python -m mt_diffusion.main --config=configs/image_label.py:fashion_mnist \
      --workdir=runs/fashion --config.data.data_dir=/data/tfds \
      --config.train.batch_size=64

Sample (the checkpoint carries its config):
  python -m mt_diffusion.main --mode=sample --workdir=runs/image_label --given=label=3
  python -m mt_diffusion.main --mode=sample --workdir=runs/masked_image \
      --given=masked_image=erased/ --num_samples=16 --out=restored

Read the heads at images, without walking; the first call chooses noise levels:
  python -m mt_diffusion.main --mode=read --workdir=runs/image_label
  python -m mt_diffusion.main --mode=read --workdir=runs/image_label --given=image=new/

Bounds on the likelihood of test examples, in nats and bits per dimension:
  python -m mt_diffusion.main --mode=bound --workdir=runs/image_label --num_times=100

How good it is: FID and others, for every subset of given variables; a page to look at:
  python -m mt_diffusion.main --mode=evaluate --workdir=runs/image_label
  python -m mt_diffusion.main --mode=report --workdir=runs/image_label
  python -m mt_diffusion.main --mode=compare --runs=runs/a,runs/b --out=compare.html
  python -m mt_diffusion.main --mode=reference --config=configs/image_label.py \
      --out=reference.npz

Will it fit, and how fast can it be, on devices that need not be here:
  python -m mt_diffusion.main --mode=preflight --topology=v5e-256 \
      --config=configs/image_label.py:imagenet64

Vectors of a data set by an encoder of yours, for --config.data.vectors:
  python -m mt_diffusion.main --mode=precompute --encoder=my_package.clip:encode \
      --config=configs/image_representation.py --out=vectors.npz

Any field of a config may be set as --config.a.b=value.
"""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from mt_diffusion import exits, options
from mt_diffusion.errors import UserError

NUM_EVALUATED = 5000  # samples of each draw of an evaluation
NUM_BOUND = 256  # test examples whose bounds it gives


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --.")
    # Libraries say a lot that is none of ours; Orbax even what it then raises.
    logging.set_verbosity(logging.FATAL)
    set_up_jax()
    join()
    RUN[options.MODE.value]()


def join() -> None:
    """Joins the job of several processes that flags tell of; asserts the devices."""
    from mt_diffusion import devices

    job = (options.COORDINATOR, options.NUM_PROCESSES, options.PROCESS_ID)
    named = [flag.value for flag in job]
    is_job = options.DISTRIBUTED.value or any(value is not None for value in named)
    config = options.CONFIG.value
    if is_job:
        devices.join(*named)
    if config is not None and not options.TOPOLOGY.value:
        devices.require(config.platform, config.mesh.num_devices)
    if is_job:
        devices.hush(options.MODE.value in options.OF_SEVERAL_PROCESSES)


def workdir() -> pathlib.Path:
    """The folder of the run, which all modes but precompute need."""
    if not options.WORKDIR.value:
        raise UserError("--workdir is missing: name the folder of the run.")
    return local_path(options.WORKDIR)


def out() -> pathlib.Path | None:
    """Where to write, if a flag says so."""
    return local_path(options.OUT) if options.OUT.value else None


def local_path(flag: flags.FlagHolder) -> pathlib.Path:
    """A flag's path; UserError for an address, which is none."""
    if "://" in flag.value:
        raise UserError(
            f"--{flag.name}={flag.value} is no path of a file system. Mount the bucket "
            "(gcsfuse; launch/tpu_vm.sh does, with --bucket) and name the folder there."
        )
    return pathlib.Path(flag.value).expanduser()


def train() -> None:
    """--mode=train."""
    import jax

    from mt_diffusion.training import loop

    loop.train(options.CONFIG.value, workdir())
    if jax.process_count() == 1:  # reading a checkpoint takes all processes
        report()
    else:
        print(f"a page to look at: --mode=report --workdir={workdir()}")


def settings() -> dict[str, Any]:
    """What flags change of the checkpoint's config.sampling."""
    from mt_diffusion.diffusion import guidance

    interval = options.GUIDANCE_INTERVAL.value
    if interval is not None:
        interval = options.numbers(options.GUIDANCE_INTERVAL)
        guidance.check_interval(interval, "--guidance_interval")
    wishes = {
        "num_steps": options.STEPS.value,
        "sampler": options.SAMPLER.value,
        "spacing": options.SPACING.value,
        "resample": options.RESAMPLE.value,
        "variance": options.VARIANCE.value,
        "batch_size": options.BATCH_SIZE.value,
        "guess": options.GUESS.value,
        "clip": options.CLIP.value,
        "guidance": options.GUIDANCE.value,
        "head_guidance": options.HEAD_GUIDANCE.value,
        "autoguidance": options.AUTOGUIDANCE.value,
        "guide": options.GUIDE.value,
        "guidance_interval": interval,
    }
    return {name: value for name, value in wishes.items() if value is not None}


def sample() -> None:
    """--mode=sample."""
    from mt_diffusion import sampling

    num, given = options.NUM_SAMPLES.value, options.GIVEN.value
    sampling.sample(
        workdir(), out(), num, options.SEED.value, given, settings(), options.EMA.value
    )


def read() -> None:
    """--mode=read."""
    from mt_diffusion import reading

    reading.read(
        workdir(),
        out(),
        options.GIVEN.value,
        options.SEED.value,
        settings(),
        options.EMA.value,
    )


def bound() -> None:
    """--mode=bound."""
    from mt_diffusion import bounding

    bounding.bound(
        workdir(),
        out(),
        options.NUM_EXAMPLES.value,
        options.NUM_TIMES.value,
        options.SEED.value,
        settings(),
        options.EMA.value,
    )


def precompute() -> None:
    """--mode=precompute."""
    from mt_diffusion import precompute

    options.need(options.ENCODER, options.OUT)
    precompute.precompute(options.CONFIG.value, options.ENCODER.value, out())


def evaluate() -> None:
    """--mode=evaluate."""
    from mt_diffusion.evaluation import evaluate

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


def reference() -> None:
    """--mode=reference."""
    from mt_diffusion.evaluation import reference

    options.need(options.OUT)
    reference.make(
        options.CONFIG.value,
        options.FEATURES.value,
        options.WEIGHTS.value,
        options.SPLIT.value,
        options.NUM_EXAMPLES.value,
        out(),
    )


def preflight() -> None:
    """--mode=preflight."""
    from mt_diffusion.preflight import preflight

    sizes, quick = options.numbers(options.MICROBATCHES), options.QUICK.value
    name = options.TOPOLOGY.value
    preflight.preflight(options.CONFIG.value, name, sizes, out(), quick)


def report() -> None:
    """--mode=report."""
    from configs import common
    from mt_diffusion.evaluation import report

    print(f"wrote {report.write(workdir(), common.digits())}")


def compare() -> None:
    """--mode=compare."""
    from mt_diffusion.evaluation import report

    options.need(options.RUNS, options.OUT)
    runs = [pathlib.Path(run).expanduser() for run in options.RUNS.value]
    print(f"wrote {report.compare(runs, out())}")


RUN = {
    f.__name__: f
    for f in (train, sample, read, bound, evaluate)
    + (reference, precompute, preflight, report, compare)
}


def platform_of_config() -> str:
    """What JAX must run on; '' for what there is."""
    if options.TOPOLOGY.value:  # compiled here for devices that are elsewhere
        return "cpu"
    return options.CONFIG.value.platform if options.CONFIG.value is not None else ""


def set_up_jax() -> None:
    """Keeps compiled programs between runs, below the user's cache folder."""
    import jax

    from mt_diffusion import writing

    if platform := platform_of_config():
        jax.config.update("jax_platforms", platform)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = str(writing.user_cache("xla"))
        jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def run() -> None:
    """Entry point: exits.py has what it ends with."""
    parse = functools.partial(options.parse, introduction=__doc__)
    with exits.explained():
        app.run(main, flags_parser=parse)


if __name__ == "__main__":
    exits.answer_sigterm()
    with exits.decided():
        run()
