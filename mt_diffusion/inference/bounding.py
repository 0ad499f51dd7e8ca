"""`--mode=bound`: bounds on the likelihood of test examples, as a table and JSON."""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from mt_diffusion.data import pipeline, sources
from mt_diffusion.diffusion import bound as bounds
from mt_diffusion.diffusion.variance import Errors
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import writing
from mt_diffusion.inference import calibration
from mt_diffusion.inference.believer import Believer
from mt_diffusion.inference.restoring import restore
from mt_diffusion.parallel import batches, sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.spaces.space import Space

Terms = dict[str, dict[str, Array]]
Table = dict[str, dict[str, Any]]


def bound(
    workdir: pathlib.Path,
    out: pathlib.Path | None,
    num_examples: int | None,
    num_times: int | None,
    seed: int,
    overrides: dict,
    use_ema: bool,
) -> None:
    """Prints the bounds of the first test examples, writes workdir/bounds/STEP.json.

    num_examples: all where None. num_times: how many of 2..T each is looked at; all
    where None. overrides: of the checkpoint's config.sampling. out: another file. The
    noise of example i depends on (seed, i) alone. Raises UserError for a workdir
    without checkpoints, more examples or times than there are, or an `out` that exists.
    """
    mesh = sharding.make_mesh()
    step, config, experiment, params = restore(workdir, overrides, use_ema, mesh)
    source = sources.open_source(config.data, "test")
    most = config.diffusion.num_steps - 1
    num_examples = at_most("num_examples", num_examples, len(source), "test examples")
    num_times = at_most("num_times", num_times, most, "diffusion steps after t = 1")
    build = functools.partial(build_measure, experiment, config.sampling, num_times)
    build()  # says what can't be, before anything is written
    if out is None:  # of the same step they are measured anew
        home = exported.home(workdir)
        out = home / "bounds" / f"{step}.json"
        writing.make_folder(out.parent, f"--workdir={workdir}", home)
    else:
        writing.claim_file(out)
    errors = calibration.find(workdir, step, use_ema, config, experiment, params, mesh)
    measure = build(errors)
    facts = {
        "step": step,
        "parameters": "averaged (EMA)" if use_ema else "raw",
        "num_examples": num_examples,
        "num_times": num_times,
        "seed": seed,
    }
    print("  ".join(f"{name} {value}" for name, value in facts.items()), flush=True)

    batch_size = config.sampling.batch_size
    table = measure_source(
        measure, experiment, params, source, num_examples, batch_size, seed, mesh
    )
    show(table)
    writing.as_json(out, {**facts, "terms": table})
    print(f"wrote {out}")


def at_most(flag: str, wanted: int | None, most: int, what: str) -> int:
    """`wanted`, or all there are. Raises UserError where there are fewer."""
    if wanted is not None and not 1 <= wanted <= most:
        raise UserError(
            f"--{flag}={wanted}, but there are {most:,} {what}; give 1 to {most}, or "
            "leave it out for all of them."
        )
    return most if wanted is None else wanted


def measure_source(
    measure: Callable[..., Terms],
    experiment: Experiment,
    params: Any,
    source: sources.Source,
    num_examples: int,
    batch_size: int,
    seed: int,
    mesh: Mesh,
) -> Table:
    """Mean and standard error of each term over the first examples of a source."""
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    size = sharding.batch_size(batch_size, num_examples, mesh)
    in_order = pipeline.batches_in_order(source, preprocess, size, seed)
    examples = lambda rows: in_order[int(rows[0]) // size]  # noqa: E731
    found, available = run(measure, params, examples, size, num_examples, seed, mesh)
    return tabulate(found, available)


def build_measure(
    experiment: Experiment,
    settings: ConfigDict,
    num_times: int,
    errors: Mapping[str, Errors] | None = None,
) -> Callable[[Any, Array, Int[Array, " b"], Batch], Terms]:
    """(params, seed, rows [B], batch) -> terms of each example, jitted.

    settings: config.sampling, for the variance of a network that learns none, the
    clipping of z_0 and the guesses, as sampling has them. errors: as of `Believer`.
    The joint model reads nothing but z_t; a modality that an example lacks has no code
    and no nats, so that its bound is on what is there. A guess that is drawn is drawn
    once for each t.
    """
    believer = Believer(experiment, settings, errors)

    @jax.jit
    def measure(params, seed, rows, batch):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(rows)
        codes = experiment.denoiser.encode(params, batch.values)
        there = {n: a[:, None, None, None] for n, a in batch.available.items()}
        latents = {n: code.latent * there[n] for n, code in codes.items()}

        def estimate(latents):
            return bounds.estimate(
                keys=keys,
                z0=batch.z0,
                codes=latents,
                read=believer.build(params, keys, batch, codes, latents),
                process=experiment.process,
                num_times=num_times,
                log_prob=experiment.primary.log_prob,
                restrict=believer.clip,
                held=believer.held,
            )

        found = estimate(latents)
        if len(believer.drifting) < len(latents):
            # What is absent while it is generated has no drift in the joint's bound.
            joint = estimate({n: latents[n] for n in believer.drifting})
            conditional = ("L0_conditional", "L1_conditional", "L3_conditional")
            found = joint._replace(**{n: getattr(found, n) for n in conditional})
        return name_terms(found, experiment.space)

    return measure


def name_terms(found: bounds.Bounds, space: Space) -> Terms:
    """{modality, or "" where all examples count: {name with its unit: [B]}}."""
    images = {
        "L0": found.L0,
        "L0_conditional": found.L0_conditional,
        "L1": found.L1,
        "L3": found.L3,
        "image": found.image,
        "L1_conditional": found.L1_conditional,
        "L3_conditional": found.L3_conditional,
        "conditional_bound": found.conditional_bound,
    }
    bits = {n: bounds.bits_per_dim(x, space.shape) for n, x in images.items()}
    everyone = {f"{n}_{space.unit}": x for n, x in bits.items()} | {
        "joint_nll_bound_nats": found.joint_nll_bound,
        "paper_elbo_nats": found.paper_elbo,
    }
    return {"": everyone} | {
        name: {f"nll_{name}_nats": nll, f"L2_{name}_nats": found.L2[name]}
        for name, nll in found.nll.items()
    }


def run(
    measure: Callable,
    params: Any,
    examples: Callable[[np.ndarray], Batch],
    batch_size: int,
    num: int,
    seed: int,
    mesh: Mesh,
) -> tuple[Terms, dict[str, np.ndarray]]:
    """Terms of `num` examples, and which modalities each of them has.

    examples: those of some rows, also of some past the end.
    """

    def of(rows):
        args = jax.device_put((rows, examples(rows)), sharding.over_batch(mesh))
        return measure(params, seed, *args), args[1].available

    return batches.through(of, range(num), batch_size, "bounding")


def of_batch(
    measure: Callable, params: Any, batch: Batch, size: int, seed: int, mesh: Mesh
) -> dict[str, np.ndarray]:
    """{term: [N]} of the N examples of a batch, `size` of them at a time."""
    num = len(batch.z0)
    some = lambda rows: jax.tree.map(lambda x: x[rows % num], batch)  # noqa: E731
    size = sharding.batch_size(size, num, mesh)
    terms, _ = run(measure, params, some, size, num, seed, mesh)
    return {n: np.asarray(x) for named in terms.values() for n, x in named.items()}


def tabulate(terms: Terms, available: dict[str, np.ndarray]) -> Table:
    """Mean and standard error of every term, over the examples that have its value."""
    table: Table = {}
    for modality, named in terms.items():
        kept = available.get(modality, slice(None))
        table |= {name: summary(x[kept]) for name, x in named.items() if len(x[kept])}
    return table


def summary(x: np.ndarray | jax.Array) -> dict[str, Any]:
    """Mean over examples and its standard error; None for that of a single one."""
    error = float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None
    return {
        "mean": float(x.mean()),
        "standard_error": error,
        "num_examples": len(x),
    }


def show(table: Table) -> None:
    """Prints the table."""
    width = max(map(len, table))
    print(f"{'':{width}}  {'mean':>12}  {'std. error':>12}  {'examples':>8}")
    for name, row in table.items():
        error = row["standard_error"]
        error = "" if error is None else f"{error:.5g}"
        mean = f"{row['mean']:.6g}"
        print(f"{name:{width}}  {mean:>12}  {error:>12}  {row['num_examples']:>8,}")
