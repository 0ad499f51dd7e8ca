"""What a trained model gets wrong at each t, measured once, kept beside a checkpoint.

The best reading of its z_0 and the best reverse variance follow from it; see
diffusion/variance.py.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.data import pipeline, sources
from mt_diffusion.data.rows import spread
from mt_diffusion.diffusion import spacing, variance
from mt_diffusion.diffusion.bound import Reading
from mt_diffusion.diffusion.process import Process
from mt_diffusion.diffusion.variance import Z_0, Errors
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import weights, writing
from mt_diffusion.inference.believer import CONDITIONAL, JOINT, Believer
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress
from mt_diffusion.protocol import Batch

FOLDER = "measured"
NUM_EXAMPLES = 512  # of the training data, spread over it
NUM_TIMES = 64  # half of them even in t, half in log-SNR

Found = dict[str, Errors]  # by JOINT and CONDITIONAL


def find(
    workdir: pathlib.Path,
    step: int,
    use_ema: bool,
    config: ConfigDict,
    experiment: Experiment,
    params: Any,
    mesh: Mesh,
    digest: str = "",
) -> Found:
    """The errors of a checkpoint: as kept in its workdir, else measured and kept there.

    digest: `exported.digest` of the parameters, by whoever has it already. {} where
    they are not asked for (config.sampling.variance and correction), or the training
    data is not at hand, which is said.
    """
    settings = config.sampling
    variance.check(settings.variance, settings.correction)
    word = settings.variance or variance.OF_BOUNDS
    wanted = word == variance.MEASURED and not config.unet.learn_variance
    if not wanted and settings.correction != variance.MEASURED:
        return {}
    facts = {
        "step": step,
        "averaged": use_ema,
        "parameters": digest or exported.digest(params),
        "guess": settings.guess,
        "clip": settings.clip,
        "correction": settings.correction,
    }
    name = file_of(step, use_ema)
    for path in exported.kept(workdir, name):
        if (kept := load(path, facts)) is not None:
            return kept
    try:
        source = sources.open_source(config.data, "train")
        experiment.space.value(source[0], "image")  # has latents, or says so
    except UserError as error:
        print(
            "z_0 is read as it is, and the reverse variance is beta_tilde: the best "
            f"are measured on training data, which are not here ({error})"
        )
        return {}
    found = measure(experiment, settings, params, source, mesh)
    if jax.process_index() == 0:
        arrays = {
            f"{w}/{n}": x for w, e in found.items() for n, x in e.as_arrays().items()
        }
        try:
            home = exported.home(workdir)
            path = home / name
            writing.make_folder(path.parent, f"--workdir={workdir}", home)
            writing.arrays(path, arrays | {"facts": np.array(json.dumps(facts))})
        except UserError as error:
            print(f"what was measured of z_0 is not kept for other calls: {error}")
    return found


def file_of(step: int, use_ema: bool) -> str:
    """Where the errors of a checkpoint are kept, below its workdir."""
    return f"{FOLDER}/{step}_{'averaged' if use_ema else 'raw'}.npz"


def load(path: pathlib.Path, facts: Mapping[str, Any]) -> Found | None:
    """What a file keeps; None for none, a broken one, and one of other settings."""
    stored = weights.kept(path)
    if stored is None:
        return None
    try:
        there = json.loads(str(stored["facts"]))
        if {"parameters": facts["parameters"]} | there != facts:  # before, unnamed
            return None
        parts = {w: cut(stored, f"{w}/") for w in (JOINT, CONDITIONAL)}
        return {which: Errors.of_arrays(part) for which, part in parts.items()}
    except (ValueError, KeyError, TypeError):
        return None


def cut(stored: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that."""
    return {
        n.removeprefix(prefix): x for n, x in stored.items() if n.startswith(prefix)
    }


def measure(
    experiment: Experiment,
    settings: ConfigDict,
    params: Any,
    source: sources.Source,
    mesh: Mesh,
    num_examples: int = NUM_EXAMPLES,
) -> Found:
    """The errors on training examples, each with noise of its own at each time.

    settings: config.sampling, whose guesses and clipping are those measured.
    """
    some: Any = Some(source, spread(len(source), num_examples))
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    size = sharding.batch_size(settings.batch_size, len(some), mesh)
    batches = pipeline.batches_in_order(some, preprocess, size, 0)
    times = chosen_times(experiment.process)
    products = build_products(experiment, settings)
    sums: tuple[Any, ...] = (0.0, 0.0)
    starts = range(0, len(some), size)
    for i, start in enumerate(Progress(starts, "measuring z_0", unit="batch")):
        rows = np.arange(start, start + size)
        counts = (rows < len(some)).astype(np.float32)
        args = jax.device_put((rows, counts, batches[i]), sharding.over_batch(mesh))
        part = jax.device_get(products(params, *args, times))
        sums = tuple(
            s + np.asarray(x, np.float64) for s, x in zip(sums, part, strict=True)
        )
    names = (Z_0, *experiment.process.aggregation.alpha_tilde)
    correct = settings.correction == variance.MEASURED
    moments, products_of = (x / len(some) for x in sums)
    return {
        which: variance.regressed(
            names, times, moments[:, place], products_of[:, place], correct
        )
        for place, which in enumerate((JOINT, CONDITIONAL))
    }


class Some:
    """Some examples of a source."""

    def __init__(self, source: sources.Source, rows: Sequence[int]):
        self._source, self._rows = source, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        return self._source[self._rows[i]]


def chosen_times(process: Process) -> np.ndarray:
    """Times at which errors are measured, rising."""
    num = min(NUM_TIMES // 2, process.schedule.num_steps)
    found = [
        spacing.respaced(process.schedule, num, word)[:-1] for word in spacing.SPACINGS
    ]
    return np.unique(np.concatenate(found))


def build_products(experiment: Experiment, settings: ConfigDict) -> Callable:
    """(params, rows [B], counts [B], batch, times [G]) -> sums over examples, jitted.

    Of products of rows, [G, 2, R + 1, R + 1], and of rows, [G, 2, R + 1, H, W, C]: the
    data's z_0, the model's, and the errors of codes. counts: 1 for an example that
    counts, else 0.
    """
    believer = Believer(experiment, settings)
    process = experiment.process
    names = tuple(process.aggregation.alpha_tilde)

    def seen(reading: Reading, batch: Batch, latents: dict[str, Array]) -> Array:
        """[R + 1, B, H, W, C]."""
        wrong = [batch.z0, believer.clip(reading.z0)]
        for n in names:
            true = latents.get(n, jnp.zeros_like(batch.z0))
            wrong.append(reading.codes.get(n, true) - true)
        return jnp.stack(wrong)

    def products(params, rows, counts, batch, times):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(rows)
        codes = experiment.denoiser.encode(params, batch.values)
        there = {n: a[:, None, None, None] for n, a in batch.available.items()}
        latents = {n: code.latent * there[n] for n, code in codes.items()}
        drifting = {n: latents[n] for n in latents if n in believer.drifting}
        read = believer.build(params, keys, batch, codes, latents)

        def at(t):
            noise = jax.vmap(functools.partial(draw, t))(keys)
            every = jnp.full(len(rows), t)
            beliefs, found = {}, []
            for which, present in ((JOINT, drifting), (CONDITIONAL, latents)):
                if len(present) not in beliefs:  # the same z_t is looked at once
                    z_t = process.diffuse(batch.z0, present, every, noise)
                    beliefs[len(present)] = read(z_t, every)
                reading = getattr(beliefs[len(present)], which)
                x = seen(reading, batch, present)
                size = batch.z0[0].size
                products = jnp.einsum("rbhwc,qbhwc,b->rq", x, x, counts) / size
                found.append((products, jnp.einsum("rbhwc,b->rhwc", x, counts)))
            return tuple(jnp.stack(part) for part in zip(*found, strict=True))

        return jax.lax.map(at, times)

    def draw(t, key):
        return jax.random.normal(jax.random.fold_in(key, t), experiment.shape)

    return jax.jit(products)
