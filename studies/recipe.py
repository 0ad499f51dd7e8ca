"""What training makes of a budget: Fashion-MNIST, one choice of the recipe at a time.

python -m studies.recipe --data_dir=DATA_DIR --out=runs/recipe [--size=28] [--only=...]

At 14x14 (the digits' U-Net, 76,800 images) or 28x28 (the study's, 96,000), images alone
or with labels (--config=image_label). All rows see equally many images, so smaller
batches are more steps; the average over steps stays as long, in images. `sees` is how
long that is. 5,000 images are drawn in 25 ancestral steps and judged by
`--mode=evaluate`. Each row leaves results/recipe/SIZE_CONFIG_ROW_SEED.json and is not
run twice; table.md has all of them.
"""

import argparse
import dataclasses
import json
import pathlib

from mt_diffusion.files import writing
from studies.ablation import COLUMNS, DATA, SAMPLING, slug
from studies.study import MAIN, Calls
from studies.study_table import getters, rendered

RESULTS = pathlib.Path("results/recipe")
NUM_SAMPLES = 5000
SIZES = {  # pixels: the preset, images that are seen, and those in a batch
    14: ("digits", 76_800, 64),
    28: ("fashion_small", 96_000, 32),
}
DRAWS = {"ddpm": "joint", "image_label": "joint,given_label"}


@dataclasses.dataclass(frozen=True)
class Row:
    """Options of a training; batch: in parts of the usual one. sees: of the average.

    sizes: of images for which they are meant.
    """

    options: str = ""
    batch: float = 1
    sees: float = 16_000
    sizes: tuple[int, ...] = tuple(SIZES)


RATE = "--config.optimizer.learning_rate="
ADAMW_AT = f"--config.optimizer.kind=adamw {RATE}"
ADAMW = ADAMW_AT + "1e-3"
DOWN = "--config.optimizer.final_fraction=0"
TIMES = "--config.objective.times=stratified"
WEIGHTING, SHIFT = "--config.objective.weighting=", "--config.diffusion.shift="
# Of 1.00 to 1.12 times the arithmetic of the digits' (one block of 16 and 32 channels).
UNET = (
    "--config.unet.num_res_blocks={} --config.unet.model_channels={} "
    "--config.unet.channel_mult={} --config.unet.num_groups={}"
)
ROWS = {  # as parts and multiples of what AdamW had
    "AdamW": Row(ADAMW),
    "AdamW at twice the rate": Row(f"{ADAMW_AT}2e-3"),
    "AdamW at four times the rate": Row(f"{ADAMW_AT}4e-3"),
    "AdamW in half the batch": Row(ADAMW, batch=0.5),
    "Muon": Row(f"{RATE}1e-3"),
    "Muon at twice the rate": Row(f"{RATE}2e-3"),
    "Muon at four times the rate": Row(),
    "Muon at eight times the rate": Row(f"{RATE}8e-3"),
    "Muon at twice the rate in half the batch": Row(f"{RATE}2e-3", batch=0.5),
    "Muon at four times the rate in half the batch": Row(batch=0.5),
    "Muon at four times the rate in a quarter of the batch": Row(batch=0.25),
    "Muon at four times the rate down to 0": Row(DOWN),
    "Muon at four times the rate with half the average": Row(sees=8000),
    "Muon at four times the rate with twice the average": Row(sees=32_000),
    "Muon at four times the rate for v": Row("--config.diffusion.prediction=v"),
    "Muon at four times the rate at stratified times": Row(TIMES),
    "Muon at four times the rate by min-SNR": Row(WEIGHTING + "min_snr"),
    "Muon at four times the rate by P2": Row(WEIGHTING + "p2"),
    "Muon at four times the rate by a sigmoid": Row(WEIGHTING + "sigmoid"),
    "Muon at four times the rate by EDM's weights": Row(WEIGHTING + "edm"),
    "Muon at four times the rate on the linear schedule": Row(
        "--config.diffusion.schedule=linear"
    ),
    "Muon at four times the rate with less noise": Row(SHIFT + "0.7"),
    "Muon at four times the rate with more noise": Row(SHIFT + "-0.7"),
    "Muon at four times the rate with two blocks of 14 channels": Row(
        UNET.format(2, 14, "(1,2)", 7), sizes=(14,)
    ),
    "Muon at four times the rate with 24 channels at both sizes": Row(
        UNET.format(1, 24, "(1,1)", 8), sizes=(14,)
    ),
    "Muon at four times the rate with 12 and 36 channels": Row(
        UNET.format(1, 12, "(1,3)", 4), sizes=(14,)
    ),
}
FIGURES = COLUMNS | {
    "precision": ("joint", "precision_convnet", 1),
    "recall": ("joint", "recall_convnet", 1),
}


def training(row: Row, size: int, config: str) -> list[str]:
    """Flags of a row's training, but for its data, seed and workdir."""
    preset, images, usual = SIZES[size]
    batch = round(usual * row.batch)
    flags = [f"--config=configs/{config}.py:{preset}", *DATA.split()]
    flags += [f"--config.data.image_size={size}", "--config.watch.sample_every=0"]
    flags += [f"--config.train.batch_size={batch}"]
    flags += [f"--config.train.num_steps={images // batch}"]
    flags += [f"--config.train.ema_decay={1 - batch / row.sees:.6g}"]
    return flags + row.options.split()


def run(name: str, asked: argparse.Namespace, seed: int) -> None:
    """Trains and judges one row, unless that has been done."""
    row = f"{asked.size}_{asked.config}_{slug(name)}_{seed}"
    path, workdir = RESULTS / f"{row}.json", asked.out / row
    if path.exists():
        return
    train = training(ROWS[name], asked.size, asked.config)
    train += [f"--config.data.data_dir={asked.data_dir}", f"--config.seed={seed}"]
    judge = ["--mode=evaluate", f"--out={workdir}/evaluation", "--num_examples=0"]
    judge += [f"--draws={DRAWS[asked.config]}", f"--num_samples={NUM_SAMPLES}"]
    judge += [f"--seed={seed}", *SAMPLING]
    calls = Calls({str(asked.out): "OUT", asked.data_dir: "DATA_DIR"})
    for flags in (train, judge):
        calls(MAIN, *flags, f"--workdir={workdir}")
    found = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    of_row = {"row": name, "size": asked.size, "config": asked.config, "seed": seed}
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.as_json(path, of_row | {"commands": calls.commands} | found)


def table() -> str:
    """All figures that there are, as Markdown."""
    found: dict[str, list[dict]] = {}
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    for size in SIZES:
        for config in DRAWS:
            for name in ROWS:
                of = {"row": name, "size": size, "config": config}
                some = [one for one in kept if of.items() <= one.items()]
                if some:
                    found[f"{size}x{size}, {config}: {name}"] = some
    return rendered(found, getters(FIGURES)) + "\n"


def main() -> None:
    """Runs what has not run yet, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--out", type=pathlib.Path, default="runs/recipe")
    parser.add_argument("--size", type=int, choices=SIZES, default=14)
    parser.add_argument("--config", choices=DRAWS, default="ddpm")
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", default="", help="rows, as 'AdamW,Muon'; '': all")
    asked = parser.parse_args()
    rows = [name for name, row in ROWS.items() if asked.size in row.sizes]
    names = asked.only.split(",") if asked.only else rows
    if unknown := set(names) - set(rows):
        parser.error(
            f"no rows {sorted(unknown)} at {asked.size}x{asked.size}; there are "
            f"{', '.join(rows)}"
        )
    for seed in map(int, asked.seeds.split(",")):
        for name in names:
            run(name, asked, seed)
            (RESULTS / "table.md").write_text(table())
    print(table())


if __name__ == "__main__":
    main()
