"""Makes checkpoint.tar.xz and expected.npz, by the code of commit f625185 (README.md).

  cd OLD && python NEW/tests/data/old_checkpoint/make.py

OLD: a worktree of that commit, NEW: of this one, whose .venv is in use.
"""

import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
from unittest import mock

# As tests/conftest.py has them, so that rounding is the same on the same machine.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, os.getcwd())

import numpy as np  # noqa: E402
from flax.traverse_util import flatten_dict  # noqa: E402
from mt_diffusion.training.checkpoint import Checkpoints  # noqa: E402

from configs import image_label  # noqa: E402
from mt_diffusion import generation, sampling  # noqa: E402
from mt_diffusion.training import loop, sharding, watch  # noqa: E402

OUT = pathlib.Path(__file__).parent
STEPS = 20  # that the checkpoint has had; one more is taken from there
NUM_STEPS = 5  # of draws
DRAWS = {"joint": [], "given_label": ["label=3"]}


def settings():
    """The smallest network, read codes (variant X), steps that move it far."""
    config = image_label.get_config("smoke")
    config.unet.update(model_channels=2, channel_mult=(1,), attention_resolutions=())
    config.unet.num_groups = 1
    config.modalities.label.update(conditions=True, drop_rate=0.2, null_rate=0.3)
    config.optimizer.update(warmup_steps=0, learning_rate=1e-2)
    config.train.update(num_steps=STEPS + 1, batch_size=8, ema_decay=0.9)
    config.watch.update(log_every=1, checkpoint_every=STEPS, sample_every=0)
    return config


def vector(params):
    """All parameters in one, in the order of their names."""
    arrays = flatten_dict(params["params"], sep="/")
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)])


def restored(workdir, overrides, use_ema):
    """(step, config, experiment, params), as the old code reads them for samples."""
    return sampling.restore(workdir, overrides, use_ema, sharding.make_mesh())


def trained(workdir):
    """{name: array} after the last step: its losses, the parameters and averages."""
    loop.train(settings(), workdir)
    last = json.loads((workdir / watch.METRICS).read_text().splitlines()[-1])
    assert last["step"] == STEPS + 1
    terms = {n: x for n, x in last.items() if n not in watch.CLOCK | {"step"}}
    found = {f"terms/{n}": np.float64(x) for n, x in terms.items()}
    for part in ("params", "ema_params"):
        found[part] = vector(restored(workdir, {}, part == "ema_params")[3])
    return found


def drawn(workdir):
    """{name: array} of two pairs, and of two images of one label."""
    found = {}
    for name, given in DRAWS.items():
        overrides = {"num_steps": NUM_STEPS}
        step, config, experiment, params = restored(workdir, overrides, True)
        assert step == STEPS and config.sampling.guidance == 1
        draw = generation.Generator(experiment, config.sampling, sharding.make_mesh())
        values = sampling.read_given(given, experiment)
        made = draw.values(params, 0, range(2), values)
        found |= {f"{name}/{n}": np.asarray(x) for n, x in made.items()}
    return found


def main():
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "old"
        straight = trained(workdir)
        assert Checkpoints(workdir).steps == [STEPS + 1, STEPS]
        shutil.rmtree(workdir / "checkpoints" / str(STEPS + 1))
        with tarfile.open(OUT / "checkpoint.tar.xz", "w:xz") as tar:
            tar.add(workdir, "old")
        draws = drawn(workdir)
        again = trained(workdir)
    for name, x in straight.items():
        np.testing.assert_array_equal(x, again[name], name)
    np.savez_compressed(OUT / "expected.npz", **draws, **again)
    for name, x in (draws | again).items():
        print(name, x.shape, x if x.ndim == 0 else float(np.std(x)))


if __name__ == "__main__":
    # TensorBoard's writer came with TensorFlow, which is no part of the .venv now.
    watch.Watch.tensorboard = mock.Mock()
    main()
