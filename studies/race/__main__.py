"""How good after how long: this project against diffusers' training of the same U-Net.

    . launch/setup.sh
    python -m studies.race --data_dir=DATA_DIR --torch=PYTHON --out=runs/race \
        --reference=REFERENCE.npz [--seeds=0] [--only="diffusers,plain diffusion"]

Fashion-MNIST at 28x28, batches of 32, one machine, as many threads. Seconds are from
the command on, with empty caches of compiled programs: imports, compilation, reading
data, training. Of some steps 5,000 images are drawn by the averaged parameters in 25
calls of the network, and one judge has them all: FID of the features of the classifier
of `--mode=evaluate`; the reference is what that mode keeps in its folder. PYTHON has
torch and diffusers. Each run leaves results/race/RUN_SEED.json and is not run twice;
table.md and race.svg there hold all of them.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import mt_diffusion
from benchmarks.speed.__main__ import environment
from configs import ddpm
from mt_diffusion.data import sources
from mt_diffusion.evaluation import real
from mt_diffusion.files import writing
from mt_diffusion.report import plots
from studies.ablation import slug
from studies.race.runs import CALLS, NUM, RUNS, Run
from studies.steps import judge_of
from studies.study import MAIN

RESULTS = pathlib.Path("results/race")
DRAWN = {"steps": CALLS, "sampler": "ancestral", "variance": "beta_tilde"}
Row = dict[str, Any]


def measure(name: str, seed: int, asked: argparse.Namespace) -> None:
    """Trains, draws and judges one run, unless that has been done."""
    path = RESULTS / f"{slug(name)}_{seed}.json"
    if path.exists():
        return
    run, folder = RUNS[name], asked.out.absolute() / f"{slug(name)}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = (ours if run.ours else theirs)(run, seed, folder, asked)
    judge = judge_of(data_of(asked.data_dir), asked.reference)
    points = [
        {"step": step, "seconds": seconds, "fid": judge(images)}
        for step, (seconds, images) in drawn.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.as_json(path, {"run": name, "seed": seed, "points": points})


def data_of(data_dir: str):
    """The config of the data that all runs have."""
    data = ddpm.get_config("fashion_small").data
    data.data_dir = data_dir
    return data


def ours(run: Run, seed: int, folder: pathlib.Path, asked: argparse.Namespace) -> dict:
    """{step: (seconds, images)} of a training by the command."""
    command = [sys.executable, "-m", MAIN, *run.options.split()]
    command += [f"--workdir={folder}/run"]
    command += [f"--config.data.data_dir={asked.data_dir}", f"--config.seed={seed}"]
    command += [f"--config.watch.checkpoint_every={min(run.keep)}"]
    command += ["--config.watch.keep_checkpoints=99", "--config.watch.sample_every=0"]
    seconds = folder / "seconds.json"
    if not seconds.exists():
        shutil.rmtree(folder / "run", ignore_errors=True)  # or only its rest is timed
        began = time.time()
        call(command)
        kept = {step: folder / "run" / "checkpoints" / str(step) for step in run.keep}
        found = {step: path.stat().st_mtime - began for step, path in kept.items()}
        writing.as_json(seconds, found)
    found = {int(k): v for k, v in json.loads(seconds.read_text()).items()}
    return {step: (found[step], draw(folder, step, seed)) for step in run.keep}


def draw(folder: pathlib.Path, step: int, seed: int) -> np.ndarray:
    """Images by the averaged parameters of a checkpoint, uint8 [N, H, W, C]."""
    path = folder / f"{step}.npz"
    if not path.exists():
        model = mt_diffusion.load(folder / "run", step)
        writing.arrays(path, {"arr_0": model.sample(NUM, seed=seed, **DRAWN)["image"]})
    return images_of(path)


def theirs(
    run: Run, seed: int, folder: pathlib.Path, asked: argparse.Namespace
) -> dict:
    """{step: (seconds, images)} of a training by diffusers."""
    train = asked.out / "train.npz"
    if not train.exists():
        source = sources.open_source(data_of(asked.data_dir), "train")
        writing.arrays(train, {"images": real.images(source, len(source))})
    command = [asked.torch, "-m", "studies.race.pytorch", str(train.absolute())]
    command += [f"--out={folder}", f"--keep={','.join(map(str, run.keep))}"]
    command += [f"--seed={seed}", f"--num={NUM}", f"--calls={CALLS}"]
    command += [*run.options.split(), f"--began={time.time()}"]
    call(command)
    found = {}
    for step in run.keep:
        told = json.loads((folder / f"{step}.json").read_text())
        found[step] = (told["seconds"], images_of(folder / f"{step}.npz"))
    return found


def call(command: list[str]) -> None:
    """Runs a command, whose caches of compiled programs are empty."""
    with tempfile.TemporaryDirectory() as caches:
        env = environment(caches, os.environ.get("JAX_PLATFORMS", ""))
        subprocess.run(command, check=True, env=env)


def images_of(path: pathlib.Path) -> np.ndarray:
    """What was drawn, uint8 [N, H, W, C]."""
    with np.load(path) as file:
        return file["arr_0"]


def read() -> dict[str, list[Row]]:
    """{run: its seeds} of what was measured, in the order of RUNS."""
    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    found = {name: [row for row in rows if row["run"] == name] for name in RUNS}
    return {name: seeds for name, seeds in found.items() if seeds}


def table(found: dict[str, list[Row]]) -> str:
    """Seconds and FID of every step that was judged, in Markdown."""
    lines = ["| run | seed | steps | seconds | FID |", "|---|---|---|---|---|"]
    for name, seeds in found.items():
        for row in seeds:
            for at in row["points"]:
                cells = [name, row["seed"], at["step"], f"{at['seconds']:.0f}"]
                lines.append(f"| {' | '.join(map(str, cells))} | {at['fid']:.2f} |")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, list[Row]], path: pathlib.Path) -> None:
    """FID against seconds, both logarithmic: a curve of each run and seed."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for order, (name, seeds) in enumerate(found.items()):
            color, _ = plots.appearance(order)
            for i, row in enumerate(seeds):
                at = [(p["seconds"], p["fid"]) for p in row["points"]]
                label = "" if i else name
                axes.plot(*zip(*at, strict=True), color=color, marker="o", label=label)
        axes.set(xscale="log", yscale="log", ylabel="FID")
        axes.set_xlabel("seconds from the command on")
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Runs what has not run yet, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--torch", default="python", help="with torch and diffusers")
    parser.add_argument("--out", type=pathlib.Path, default="runs/race")
    parser.add_argument("--reference", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", default=",".join(RUNS), help="runs, by commas")
    asked = parser.parse_args()
    asked.data_dir = str(pathlib.Path(asked.data_dir).absolute())
    names = asked.only.split(",")
    if unknown := set(names) - set(RUNS):
        parser.error(f"no runs {sorted(unknown)}; there are {', '.join(RUNS)}")
    for seed in map(int, asked.seeds.split(",")):
        for name in names:
            measure(name, seed, asked)
            (RESULTS / "table.md").write_text(table(read()))
            plot(read(), RESULTS / "race.svg")
    print(table(read()))


if __name__ == "__main__":
    main()
