"""How a label should drift the diffusion, and be encoded: Fashion-MNIST, equal budgets.

python -m benchmarks.ablation --data_dir=/data/tfds --out=runs/ablation [--seeds=0,1,2]

Trains `configs/image_label.py` on Fashion-MNIST at 14x14 pixels (3,000 steps of 64
images, the U-Net of the digits) once for each design of w_t, its scale c, and label
encoder; draws 1,000 pairs from nothing and 1,000 images for given labels (100 steps),
and judges them by scikit-learn alone. Each run leaves a figures.json and is not run
twice; the table of all that are there is printed, and written to OUT/table.md.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys

import numpy as np
from sklearn.decomposition import PCA
from sklearn.svm import SVC

from benchmarks.digits import frechet_distance
from configs import common
from mt_diffusion.data import sources

NUM_PAIRS, NUM_STEPS, NUM_REAL = 1000, 3000, 10_000
MAIN = [sys.executable, "-m", "mt_diffusion.main"]
DATA = {"source": "tfds", "name": "fashion_mnist", "image_size": 14}


def variant(drift: str, scale: float, kind: str = "Codebook") -> dict:
    """Fields of the label modality."""
    return {"drift": drift, "drift_scale": scale, "kind": f"label.{kind}"}


VARIANTS = {
    "ramp, c = 0.5": variant("ramp", 0.5),
    "ramp, c = 1": variant("ramp", 1.0),
    "ramp, c = 2": variant("ramp", 2.0),
    "ramp, c = 3": variant("ramp", 3.0),
    "ramp, c = 5": variant("ramp", 5.0),
    "constant, c = 3": variant("constant", 3.0),
    "first, c = 1": variant("first", 1.0),
    "none": variant("ramp", 0.0),
    "ramp, c = 3, shared U-Net": variant("ramp", 3.0, "SharedUNet"),
}


class Judge:
    """A support vector machine and principal components of real images."""

    def __init__(self, data_dir: str, image_size: int = DATA["image_size"]):
        """Reads the first 10,000 training and test images at this size."""
        config = common.digits().data
        config.update(DATA, data_dir=data_dir, image_size=image_size)
        (train, labels), (self.test, self.test_labels) = (
            self._load(sources.open_source(config, split))
            for split in ("train", "test")
        )
        self.svc = SVC(C=10).fit(train, labels)
        self.pca = PCA(32, random_state=0).fit(train)
        self.accuracy = self.svc.score(self.test, self.test_labels)
        self.floor = self._distance(train[:NUM_PAIRS])

    def _load(self, source: sources.Source) -> tuple[np.ndarray, np.ndarray]:
        examples = [source[i] for i in range(min(NUM_REAL, len(source)))]
        images = np.stack([e["image"] for e in examples]).reshape(len(examples), -1)
        return images / 255, np.array([e["label"] for e in examples])

    def _distance(self, images: np.ndarray) -> float:
        return frechet_distance(
            self.pca.transform(images), self.pca.transform(self.test)
        )

    def __call__(self, samples: pathlib.Path) -> dict[str, float]:
        """Agreement of the pairs in a file, and their distance to test images."""
        found = np.load(samples, allow_pickle=False)
        images = found["image"].reshape(len(found["image"]), -1) / 255
        figures = {"distance": self._distance(images)}
        if "label" in found:
            agreement = np.mean(self.svc.predict(images) == found["label"])
            figures["agreement"] = float(agreement)
        return figures


def run(name: str, seed: int, out: pathlib.Path, data_dir: str, judge: Judge) -> None:
    """Trains, samples and judges one variant, unless that has been done."""
    workdir = out / f"{name.replace(' ', '').replace(',', '_')}_{seed}"
    if (workdir / "figures.json").exists():
        return
    fields = {f"data.{k}": v for k, v in (DATA | {"data_dir": data_dir}).items()}
    fields |= {f"modalities.label.{k}": v for k, v in VARIANTS[name].items()}
    fields |= {"train.num_steps": NUM_STEPS, "watch.sample_every": NUM_STEPS}
    fields |= {"watch.num_pictures": 16, "sampling.num_steps": 100, "seed": seed}
    options = [f"--config.{field}={value}" for field, value in fields.items()]
    flag = f"--workdir={workdir}"
    execute([*MAIN, "--config=configs/image_label.py", flag, *options])
    figures = {}
    for part, given in {"joint": "", "given": "0,1,2,3,4,5,6,7,8,9"}.items():
        samples = workdir / part
        if not (samples / "samples.npz").exists():
            draw = [*MAIN, "--mode=sample", flag, f"--out={samples}"]
            draw.append(f"--num_samples={NUM_PAIRS}")
            execute([*draw, f"--given=label={given}"] if given else draw)
        figures[part] = judge(samples / "samples.npz")
    (workdir / "figures.json").write_text(
        json.dumps({"variant": name, "seed": seed, **figures})
    )


def execute(command: list[str]) -> None:
    """Runs a command; ends the script where it fails."""
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


def table(out: pathlib.Path, judge: Judge) -> str:
    """All figures below `out`, mean and range over seeds, as Markdown."""
    found = collections.defaultdict(list)
    for path in sorted(out.glob("*/figures.json")):
        figures = json.loads(path.read_text())
        found[figures["variant"]].append(figures)
    lines = [
        "| w_t and encoder | seeds | joint agreement | given label found "
        "| distance, joint | distance, given |",
        "|---|---|---|---|---|---|",
    ]
    for name in (n for n in VARIANTS if n in found):
        runs = found[name]
        cells = [name, str(len(runs))]
        for part in ("joint", "given"):
            cells.append(spread([100 * r[part]["agreement"] for r in runs], "%"))
        for part in ("joint", "given"):
            cells.append(spread([r[part]["distance"] / judge.floor for r in runs], "x"))
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(
        f"\nThe judge is right on {judge.accuracy:.1%} of real images; distances are "
        f"Frechet distances of 32 principal components to test images, as multiples "
        f"of that of {NUM_PAIRS} training images ({judge.floor:.3f})."
    )
    return "\n".join(lines)


def spread(values: list[float], unit: str) -> str:
    """Mean, and the range where there are several."""
    mean = f"{np.mean(values):.1f}{unit}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Runs what has not run yet, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--out", type=pathlib.Path, default="runs/ablation")
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", choices=list(VARIANTS), help="one variant")
    args = parser.parse_args()
    judge = Judge(args.data_dir)
    for seed in map(int, args.seeds.split(",")):
        for name in [args.only] if args.only else VARIANTS:
            run(name, seed, args.out, args.data_dir, judge)
            (args.out / "table.md").write_text(table(args.out, judge))
    print(table(args.out, judge))


if __name__ == "__main__":
    main()
