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

Vectors of a data set by an encoder of yours, for --config.data.vectors:
  python -m mt_diffusion.main --mode=precompute --encoder=my_package.clip:encode \
      --config=configs/image_representation.py --out=vectors.npz

Any field of a config may be set as --config.a.b=value.
"""

import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from mt_diffusion import overrides
from mt_diffusion.errors import UserError

USAGE_ERROR = 2

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, as configs/NAME.py or configs/NAME.py:PRESET."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics, pictures."
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "sample", "read", "bound", "precompute"], "What to do."
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    None,
    "sample: how many (default: 16, or more if more values are given).",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "sample, read, bound: how many at a time (the config's).",
    lower_bound=1,
)
_STEPS = flags.DEFINE_integer("steps", None, "sample: number of steps (the config's).")
_SAMPLER = flags.DEFINE_string(
    "sampler", None, "sample: ancestral, ddim, dpmpp_2m or dpmpp_2s (the config's)."
)
_CLIP = flags.DEFINE_string(
    "clip", None, "sample, bound: static, dynamic or none (the config's)."
)
_GUIDANCE = flags.DEFINE_float(
    "guidance",
    None,
    "sample: classifier-free guidance towards what is given and read; 1: none (the "
    "config's).",
    lower_bound=0,
)
_HEAD_GUIDANCE = flags.DEFINE_float(
    "head_guidance",
    None,
    "sample: guidance by the heads of what is given; 0: none (the config's).",
    lower_bound=0,
)
_GUIDANCE_INTERVAL = flags.DEFINE_list(
    "guidance_interval",
    None,
    "sample: the part of t / T with guidance, as 0.1,0.8 (the config's).",
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "sample, read, bound: example i depends only on (seed, i) and the given values.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
_GIVEN = flags.DEFINE_multi_string(
    "given",
    [],
    "sample: a known value, as label=3, label=3,5, masked_image=FILE_OR_FOLDER (hidden "
    "pixels transparent), image=FILE_OR_FOLDER, image_b=FILE_OR_FOLDER, "
    "representation=FILE.npy or images. read: image=FILE_OR_FOLDER",
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "sample, read: folder to write (WORKDIR/generated/NNN); bound: file "
    "(WORKDIR/bounds/STEP.json); precompute: file.npz.",
)
_EMA = flags.DEFINE_bool(
    "ema", True, "sample, read, bound: the averaged parameters, or the raw ones."
)
_NUM_EXAMPLES = flags.DEFINE_integer(
    "num_examples", None, "bound: how many test examples (all).", lower_bound=1
)
_NUM_TIMES = flags.DEFINE_integer(
    "num_times", None, "bound: at how many of the times 2..T (all).", lower_bound=1
)
_ENCODER = flags.DEFINE_string(
    "encoder",
    None,
    "precompute: package.module:function, from uint8 [N, H, W, C] to [N, D].",
)


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --.")
    logging.set_verbosity(logging.ERROR)  # libraries say a lot that is none of ours
    set_up_jax()
    RUN[_MODE.value]()


def workdir() -> pathlib.Path:
    """The folder of the run, which all modes but precompute need."""
    if not _WORKDIR.value:
        raise UserError("--workdir is missing: name the folder of the run.")
    return pathlib.Path(_WORKDIR.value).expanduser()


def out() -> pathlib.Path | None:
    """Where to write, if a flag says so."""
    return pathlib.Path(_OUT.value).expanduser() if _OUT.value else None


def train() -> None:
    """--mode=train."""
    from mt_diffusion.training import loop

    loop.train(_CONFIG.value, workdir())


def settings() -> dict[str, Any]:
    """What flags change of the checkpoint's config.sampling."""
    from mt_diffusion.diffusion import guidance

    interval = _GUIDANCE_INTERVAL.value
    try:
        interval = interval and tuple(float(x) for x in interval)
    except ValueError:
        interval = ()
    if interval is not None and not guidance.is_interval(interval):
        raise UserError(
            f"--guidance_interval={','.join(_GUIDANCE_INTERVAL.value)} is no interval; "
            "give two shares of T from 0 to 1, the lower first, such as 0.1,0.8."
        )
    wishes = {
        "num_steps": _STEPS.value,
        "sampler": _SAMPLER.value,
        "batch_size": _BATCH_SIZE.value,
        "clip": _CLIP.value,
        "guidance": _GUIDANCE.value,
        "head_guidance": _HEAD_GUIDANCE.value,
        "guidance_interval": interval,
    }
    return {name: value for name, value in wishes.items() if value is not None}


def sample() -> None:
    """--mode=sample."""
    from mt_diffusion import sampling

    num, given = _NUM_SAMPLES.value, _GIVEN.value
    sampling.sample(workdir(), out(), num, _SEED.value, given, settings(), _EMA.value)


def read() -> None:
    """--mode=read."""
    from mt_diffusion import reading

    reading.read(workdir(), out(), _GIVEN.value, _SEED.value, settings(), _EMA.value)


def bound() -> None:
    """--mode=bound."""
    from mt_diffusion import bounding

    bounding.bound(
        workdir(),
        out(),
        _NUM_EXAMPLES.value,
        _NUM_TIMES.value,
        _SEED.value,
        settings(),
        _EMA.value,
    )


def precompute() -> None:
    """--mode=precompute."""
    from mt_diffusion import precompute

    missing = [f"--{f.name}" for f in (_ENCODER, _OUT) if not f.value]
    if missing:
        raise UserError(f"--mode=precompute needs {' and '.join(missing)} as well.")
    precompute.precompute(_CONFIG.value, _ENCODER.value, out())


RUN = {f.__name__: f for f in (train, sample, read, bound, precompute)}
WITH_CONFIG = ("train", "precompute")
CHECKPOINT = {"workdir", "out", "batch_size", "seed", "ema"}
FLAGS_OF = {
    "train": {"workdir"},
    "sample": CHECKPOINT
    | {"num_samples", "steps", "sampler", "given", "clip"}
    | {"guidance", "head_guidance", "guidance_interval"},
    "read": CHECKPOINT | {"given"},
    "bound": CHECKPOINT | {"clip", "num_examples", "num_times"},
    "precompute": {"out", "encoder"},
}


def set_up_jax() -> None:
    """Keeps compiled programs between runs, below the user's cache folder."""
    import jax

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", f"{cache}/mt_diffusion/xla")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def parse(argv: Sequence[str]) -> list[str]:
    """Absl's parser; a user's mistake becomes a UserError, --help the text above."""
    if {"--help", "-h", "-help", "--helpshort"} & set(argv):
        print(__doc__)
        print(flags.FLAGS.main_module_help().split("\n", 2)[2])
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
        if _MODE.value in WITH_CONFIG and _CONFIG.value is not None:
            _CONFIG.value.items()  # raises OSError where the file could not be loaded
    except AttributeError as error:
        raise UserError(overrides.unknown_fields(argv) or str(error)) from error
    except OSError as error:
        raise UserError(f"the config can't be loaded: {error.__cause__}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(overrides.explain(str(error), argv)) from error
    if _MODE.value not in WITH_CONFIG and _CONFIG.value is not None:
        raise UserError(
            f"--config is for training: --mode={_MODE.value} takes the config of the "
            "checkpoint. Leave it out; other flags change how it samples (--help)."
        )
    if _MODE.value in WITH_CONFIG and _CONFIG.value is None:
        raise UserError(
            "--config is missing: name a config file, such as "
            "--config=configs/masked_image.py, or --mode=sample to draw from a workdir."
        )
    check_flags(_MODE.value)
    return rest


def check_flags(mode: str) -> None:
    """Raises UserError for a flag that says nothing in this mode."""
    ours = set().union(*FLAGS_OF.values())
    for name in sorted(ours - FLAGS_OF[mode]):
        if flags.FLAGS[name].present:
            modes = [m for m, names in FLAGS_OF.items() if name in names]
            raise UserError(
                f"--{name} means nothing to --mode={mode}; leave it out (it is for "
                f"--mode={' and '.join(modes)})."
            )


def run() -> None:
    """Entry point: a UserError is one paragraph on stderr and exit status 2."""
    try:
        app.run(main, flags_parser=parse)
    except UserError as error:
        paragraph = textwrap.fill(f"error: {error}", 88, break_long_words=False)
        print(paragraph, file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        print("stopped; the same training command continues from its last checkpoint.")
        sys.exit(130)


if __name__ == "__main__":
    run()
