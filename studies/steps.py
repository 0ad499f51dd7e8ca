r"""How good are few steps? FID of every solver and spacing, by the number of calls.

    . launch/setup.sh
    python -m studies.steps --models=fashion,runs/study/ddpm_1 \
        --reference=REFERENCE.npz --data_dir=DATA_DIR [--num=512] [--out=runs/steps] \
        [--variance=measured]

Images are drawn from nothing, seed 0, so that all walks of a model begin at the same
noise, and judged by the features of the small classifier of `--mode=evaluate`; the
reference is what that mode keeps in its folder, or `--mode=reference` writes. All
solvers in 10 calls come first, at their own spacing and then at the other one; then, in
other numbers of calls, those that were within a fifth of the best there, and ancestral
steps in most calls of all. What is drawn already is not drawn again; --table prints
what there is.
"""

import argparse
import itertools
import json
import pathlib
import resource
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import mt_diffusion
from mt_diffusion.diffusion import solvers, spacing
from mt_diffusion.evaluation import features, quality
from mt_diffusion.evaluation import reference as references
from mt_diffusion.files import writing
from mt_diffusion.parallel import sharding

FIRST = 10  # calls, in which all are compared
OTHERS = (5, 20, 50)
MOST = 250
BATCH = 64
NEAR = 1.2  # times the best FID


class Way(NamedTuple):
    """A walk: its solver, the spacing of its times, and calls of the network.

    variance: of ancestral steps.
    """

    sampler: str
    spacing: str
    calls: int
    variance: str


def judge_of(data: ConfigDict, reference: pathlib.Path) -> Any:
    """From images to their FID to a reference, by a config of the data's."""
    mesh = sharding.make_mesh()
    network = features.build("convnet", data, "", mesh)
    real = references.read(reference, network).pooled

    def judge(images):
        found = features.extract(network, images, BATCH, mesh, "features").pooled
        return quality.frechet_distance(quality.statistics(found), real)

    return judge


def data_of(model: Any, data_dir: str) -> ConfigDict:
    """The config of its data, which are in that folder now."""
    data = model.config.data.copy_and_resolve_references()
    with data.unlocked():
        data.update(data_dir=data_dir)
    return data


def ways(done: dict[Way, float], variance: str) -> Iterator[Way]:
    """What is to be drawn, given the FID of what is: first all, then the best."""
    pairs = itertools.product(solvers.STEPS, spacing.SPACINGS)
    first = [Way(*pair, FIRST, variance) for pair in pairs]
    yield from sorted(first, key=lambda w: solvers.SPACING[w.sampler] != w.spacing)
    best = min(done[way] for way in first)
    near = [way for way in first if done[way] <= NEAR * best]
    usual = Way("ancestral", "even", MOST, variance)
    yield from (w._replace(calls=n) for n in (20, 5) for w in near)
    yield usual
    yield from (usual._replace(calls=n) for n in OTHERS)
    yield from (w._replace(calls=50) for w in near)


def measure(name: str, args: argparse.Namespace) -> None:
    """All ways of a model, each in a file of its own."""
    folder = args.out / pathlib.Path(name).name
    folder.mkdir(parents=True, exist_ok=True)
    model, judge, done = mt_diffusion.load(name), None, read(folder)
    for way in ways(done, args.variance):
        if way in done:
            continue
        judge = judge or judge_of(data_of(model, args.data_dir), args.reference)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        images = model.sample(
            args.num,
            steps=way.calls,
            sampler=way.sampler,
            spacing=way.spacing,
            variance=way.variance,
            batch_size=BATCH,
        )["image"]
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        done[way] = judge(images)
        found = way._asdict() | {"fid": done[way], "num": args.num, "cpu_s": seconds}
        file = "_".join(map(str, way))
        writing.arrays(folder / f"{file}.npz", {"arr_0": images})
        writing.as_json(folder / f"{file}.json", found)
        print(f"{name}: {way.sampler}, {way.spacing}, {way.calls}: {done[way]:.3f}")


def read(folder: pathlib.Path) -> dict[Way, float]:
    """The FID of what was drawn."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {Way(*(x[name] for name in Way._fields)): x["fid"] for x in found}


def table(folder: pathlib.Path) -> str:
    """FID by solver and calls, in Markdown."""
    done = read(folder)
    calls = sorted({way.calls for way in done})
    head = [folder.name, "times even in", "variance", *map(str, calls)]
    rows = [head, ["---"] * len(head)]
    for sampler, word, of in dict.fromkeys(w[:2] + w[3:] for w in done):
        found = [done.get(Way(sampler, word, n, of)) for n in calls]
        said = ["" if x is None else f"{x:.2f}" for x in found]
        rows.append([f"`{sampler}`", {"even": "t"}.get(word, "log-SNR"), of, *said])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Draws what is not drawn yet, or prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", required=True, help="names or workdirs, by commas")
    parser.add_argument("--reference", type=pathlib.Path, help="an .npz")
    parser.add_argument("--data_dir", default="", help="of TFDS, with fashion_mnist")
    parser.add_argument("--num", type=int, default=512, help="images (%(default)s)")
    parser.add_argument(
        "--variance", default="beta_tilde", help="of ancestral steps (%(default)s)"
    )
    parser.add_argument("--out", type=pathlib.Path, default="runs/steps")
    parser.add_argument("--table", action="store_true", help="print what there is")
    args = parser.parse_args()
    for name in args.models.split(","):
        if args.table:
            print(table(args.out / pathlib.Path(name).name), end="\n\n")
        else:
            measure(name, args)


if __name__ == "__main__":
    main()
