"""How a run of studies/emoji.py came to be: training and held-out error by its steps.

python -m studies.emoji_curve --out=runs/emoji [--only=transition,...] [--seed=0]

Of each checkpoint that is kept: the error of the network and the nll of each head, on
NUM training examples spread over the data and on as many held-out ones, the same times
and noise for both, the states those of training. What parts the two is what was learnt
by heart. results/emoji/RUN_SEED_curve.json, and a table on the screen.
"""

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from mt_diffusion.data import pipeline, sources
from mt_diffusion.data.rows import spread
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.files import writing
from mt_diffusion.inference.calibration import Some
from mt_diffusion.inference.restoring import restore
from mt_diffusion.parallel import sharding
from mt_diffusion.training import objective
from studies.emoji import RESULTS, RUNS

NUM, AT_ONCE = 2 * 640, 64
SPLITS = ("train", "test")


def terms_of(workdir: pathlib.Path, step: int) -> dict[str, dict[str, float]]:
    """{split: the terms of the loss} of a checkpoint's averaged parameters."""
    mesh = sharding.make_mesh()
    _, config, experiment, params = restore(workdir, {}, True, mesh, step)
    goal = objective.build(config, experiment)

    @jax.jit
    def terms(params, batch, key):
        draws = goal.draw(key, batch)
        return goal.loss(params, batch, draws, goal.counts(batch, draws), None)[1]

    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    found = {}
    for split in SPLITS:
        source = sources.open_source(config.data, split)
        rows = np.resize(spread(len(source), NUM), NUM).tolist()
        some: Any = Some(source, rows)
        batches = pipeline.batches_in_order(some, preprocess, AT_ONCE, 0)
        parts = [
            jax.device_get(terms(params, batches[i], jax.random.key(i)))
            for i in range(NUM // AT_ONCE)
        ]
        found[split] = {n: float(np.mean([p[n] for p in parts])) for n in parts[0]}
    return found


def told(curve: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """As Markdown: a term is told in training and held out."""
    names = list(next(iter(curve.values()))[SPLITS[0]])
    yield f"| steps | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for step, of in curve.items():
        cells = [
            " ".join(f"{of[split][name]:.4f}" for split in SPLITS) for name in names
        ]
        yield f"| {step} | {' | '.join(cells)} |"


def main() -> None:
    """Measures all checkpoints of the runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/emoji"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(RUNS), help="runs, as ddpm,text")
    args = parser.parse_args()
    for name in args.only.split(","):
        workdir = args.out / f"{name}_{args.seed}"
        steps = sorted(Checkpoints(workdir).steps)
        curve = {str(step): terms_of(workdir, step) for step in steps}
        path = RESULTS / f"{name}_{args.seed}_curve.json"
        writing.as_json(path, {"run": name, "seed": args.seed, "curve": curve})
        print(f"{name}, {' and '.join(SPLITS)}:", *told(curve), sep="\n")


if __name__ == "__main__":
    main()
