"""What each ingredient of the method is worth: Fashion-MNIST at 14x14, equal budgets.

python -m studies.ablation --data_dir=/data/tfds --out=runs/ablation [--seeds=0,1,2]

Trains the digits' U-Net on Fashion-MNIST at 14x14 pixels, 1,200 steps of 64 images,
once for each ingredient that is taken out or changed, and draws 2,000 pairs from
nothing and 2,000 images for given labels in 25 ancestral steps; `--mode=evaluate`
judges them. About 5 minutes for each run on one core. Each leaves
results/ablation/ROW_SEED.json and is not run twice; table.md there holds all of them.
"""

import argparse
import dataclasses
import json
import pathlib
import re

from mt_diffusion.files import writing
from studies.study import MAIN, Calls
from studies.study_table import getters, rendered

NUM_SAMPLES, NUM_STEPS = 2000, 1200
RESULTS = pathlib.Path("results/ablation")
SAMPLING = ("--sampler=ancestral", "--steps=25", "--guidance=1")
SAMPLING += ("--variance=beta_tilde", "--correction=measured")
DATA = "--config.data.source=tfds --config.data.name=fashion_mnist"
FIXED = f"{DATA} --config.data.image_size=14 --config.train.num_steps={NUM_STEPS}"
FIXED += " --config.train.ema_decay=0.998 --config.watch.sample_every=0"


@dataclasses.dataclass(frozen=True)
class Row:
    """A training: what differs from configs/CONFIG.py, and what is drawn from it.

    again: the row from whose checkpoint is drawn, where these are flags of a draw.
    """

    options: str = ""
    config: str = "image_label"
    draws: str = "joint,given_label"
    again: str = ""


LABEL = "--config.modalities.label."
PRESENCE = "--config.presence."
ALWAYS = f"{PRESENCE}unread.share=0 {PRESENCE}absent.share=0.05 "
ALWAYS += f"{PRESENCE}read.share=0.95"
CLASS = f"{LABEL}conditions=true {LABEL}drift=none {LABEL}loss_weight=0 {ALWAYS}"
PAPER = f"--config.diffusion.prediction=eps {LABEL}frame=none {LABEL}guess=mean"
WHITE = f"{LABEL}codes.family=white"
BLIND = f"{LABEL}frame=none"
CLUSTERS = "--config.modalities.cluster.num_clusters={}"
OF_CLUSTERS = "image_cluster", "joint"
DEFAULT = "+ evidence, high-pass codes, held: the default"
UNSEEN = "aggregate noise, high-pass codes, held"
EVIDENT = "+ evidence, white codes, held"
ROWS = {
    "plain diffusion, images alone": Row(config="ddpm", draws="joint"),
    "class-conditional, no drift, no head": Row(CLASS, draws="given_label"),
    "class-conditional, with a drift": Row(
        f"{LABEL}conditions=true {LABEL}loss_weight=0 {ALWAYS}", draws="given_label"
    ),
    "class-conditional, with a head": Row(
        f"{LABEL}conditions=true {LABEL}drift=none {ALWAYS}", draws="given_label"
    ),
    "class-conditional, with both": Row(
        f"{LABEL}conditions=true {ALWAYS}", draws="given_label"
    ),
    "label head, no drift": Row(f"{LABEL}drift=none", draws="joint"),
    "the paper's eps, white codes, mean": Row(f"{PAPER} {WHITE}"),
    "aggregate noise, white codes, mean": Row(f"{BLIND} {WHITE} {LABEL}guess=mean"),
    UNSEEN: Row(BLIND),
    "aggregate noise, high-pass codes, coherent": Row(
        "--guess=label=coherent", draws="joint", again=UNSEEN
    ),
    EVIDENT: Row(WHITE),
    "+ evidence, white codes, mean": Row(
        "--guess=label=mean", draws="joint", again=EVIDENT
    ),
    "+ evidence, 4x4 tiled codes, held": Row(
        f"{LABEL}codes.family=tiled {LABEL}codes.side=4"
    ),
    DEFAULT: Row(),
    "the default, and the network reads the label (X)": Row(f"{LABEL}conditions=true"),
    "the default, coherent guesses": Row("--guess=label=coherent", again=DEFAULT),
    "the default, fresh guesses": Row("--guess=label=fresh", again=DEFAULT),
    "the default, mean fed back": Row("--guess=label=mean", again=DEFAULT),
    "the default, energy 784": Row(f"{LABEL}energy=784"),
    "the default, energy 12,544": Row(f"{LABEL}energy=12544"),
    "the default, predicting v": Row("--config.diffusion.prediction=v"),
    "8 clusters of pixels in place of labels": Row(CLUSTERS.format(8), *OF_CLUSTERS),
    "24 clusters": Row(CLUSTERS.format(24), *OF_CLUSTERS),
    "64 clusters": Row(CLUSTERS.format(64), *OF_CLUSTERS),
}
COLUMNS = {  # heading: (draw, metric, factor)
    "FID, from nothing": ("joint", "fid_convnet", 1),
    "agreement, %": ("joint", "coherence_convnet", 100),
    "class shares, total variation": ("joint", "label_total_variation", 1),
    "image is of its cluster, %": ("joint", "cluster_coherence", 100),
    "cluster shares, total variation": ("joint", "cluster_total_variation", 1),
    "FID, label given": ("given_label", "fid_convnet", 1),
    "agreement, label given, %": ("given_label", "coherence_convnet", 100),
}


def slug(name: str) -> str:
    """A row's name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def commands(name: str, seed: int, data_dir: str, out: pathlib.Path) -> list[list[str]]:
    """Flags of the training, if there is one, and of the evaluation of a row."""
    row = ROWS[name]
    own = out / f"{slug(name)}_{seed}"
    workdir = out / f"{slug(row.again)}_{seed}" if row.again else own
    train = [f"--config=configs/{row.config}.py", f"--workdir={workdir}"]
    train += [*FIXED.split(), f"--config.data.data_dir={data_dir}"]
    train += [f"--config.seed={seed}", *row.options.split()]
    judge = ["--mode=evaluate", f"--workdir={workdir}", f"--out={own}/evaluation"]
    judge += [f"--draws={row.draws}", f"--num_samples={NUM_SAMPLES}"]
    judge += ["--num_examples=0", f"--seed={seed}", *SAMPLING]
    judge += row.options.split() if row.again else []
    return [judge] if row.again else [train, judge]


def run(name: str, seed: int, data_dir: str, out: pathlib.Path) -> None:
    """Trains and judges one row, unless that has been done."""
    path = RESULTS / f"{slug(name)}_{seed}.json"
    if path.exists():
        return
    calls = Calls({str(out): "OUT", data_dir: "DATA_DIR"})
    for flags in commands(name, seed, data_dir, out):
        calls(MAIN, *flags)
    folder = out / f"{slug(name)}_{seed}" / "evaluation"
    found = json.loads((folder / "metrics.json").read_text())
    facts = {"row": name, "seed": seed, "commands": calls.commands}
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.as_json(path, facts | found)


def table() -> str:
    """All figures that there are, mean and range over seeds, as Markdown."""
    found = {}
    for name in ROWS:
        paths = sorted(RESULTS.glob(f"{slug(name)}_[0-9]*.json"))
        if paths:
            found[name] = [json.loads(path.read_text()) for path in paths]
    return rendered(found, getters(COLUMNS)) + "\n"


def main() -> None:
    """Runs what has not run yet, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--out", type=pathlib.Path, default="runs/ablation")
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", help="rows whose name begins so")
    args = parser.parse_args()
    names = [name for name in ROWS if name.startswith(args.only or "")]
    if not names:
        parser.error(f"no row begins with {args.only!r}; there are {', '.join(ROWS)}")
    for seed in map(int, args.seeds.split(",")):
        for name in names:
            run(name, seed, args.data_dir, args.out)
            (RESULTS / "table.md").write_text(table())
    print(table())


if __name__ == "__main__":
    main()
