"""Does joint training help or hurt? The paper's table in miniature, on Fashion-MNIST.

python -m benchmarks.study --data_dir=/data/tfds --out=runs/study [--seeds=0,1,2]

Each run has the same U-Net and sees the same number of images (`:fashion_small`, 3,000
steps of 32); the fine-tuned ones have 2,000 steps jointly and 1,000 on their own task.
Each is evaluated by `--mode=evaluate`, by a judge of scikit-learn that shares no code
with that, and, where it can, by filling in hidden patches. What has been done is not
done again; results/study/RUN_SEED.json holds what was measured, and table.md all of it.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

from benchmarks.ablation import Judge
from mt_diffusion import writing

NUM_SAMPLES, NUM_STEPS, NUM_JOINT = 5000, 3000, 2000
RESULTS = pathlib.Path("results/study")
FILLED = ("--num=128",)  # test images that are restored, for RePaint is slow


@dataclasses.dataclass(frozen=True)
class Run:
    """A training: its config and options, and what is drawn from it.

    draws: of --mode=evaluate; '' for none. begun: a run of 2,000 steps which this one
    continues on a task of its own. again: a run whose checkpoint is drawn from with
    other flags, without any training.
    """

    config: str
    options: str
    draws: str
    fills: bool = False
    begun: str = ""
    again: str = ""


LABEL = "--config.modalities.label."
CLASS = f"{LABEL}conditions=true {LABEL}drift_scale=0 {LABEL}loss_weight=0"
X = f"{LABEL}conditions=true {LABEL}drift_scale=1"
E = f"{LABEL}head_kind=E"
DROPPED = f"{LABEL}drop_rate=0.5 {LABEL}null_rate=0 --config.sampling.generated_drift=0"
BOTH = "joint,given_label"
GENERATION, CLASSES = "--config.objective.tasks=image", "--config.objective.tasks=label"
RUNS = {
    "ddpm": Run("ddpm", "", "joint", fills=True),
    "ddpm_class": Run("image_label", CLASS, "given_label"),
    "label_m": Run("image_label", "", BOTH),
    "masked_x": Run("masked_image", "", "joint", fills=True),
    "joint": Run("joint", "", BOTH, fills=True),
    "label_e": Run("image_label", E, BOTH),
    "masked_u": Run(
        "masked_image",
        "--config.modalities.masked_image.conditions=false",
        "joint",
        fills=True,
    ),
    "label_x": Run("image_label", X, BOTH),
    "label_m_undrifted": Run("", "--generated_drift=0", "joint", again="label_m"),
    "label_m_dropped": Run("image_label", DROPPED, BOTH),
    "label_m_no_drift": Run("image_label", f"{LABEL}drift_scale=0", "joint"),
    "label_m_small_lambda": Run("image_label", f"{LABEL}loss_weight=0.01", BOTH),
    "label_m_half": Run("image_label", f"--config.train.num_steps={NUM_JOINT}", ""),
    "label_e_half": Run("image_label", f"{E} --config.train.num_steps={NUM_JOINT}", ""),
    "label_m_star": Run("image_label", GENERATION, BOTH, begun="label_m_half"),
    "label_e_star": Run("image_label", f"{E} {GENERATION}", BOTH, begun="label_e_half"),
    "label_m_classifier": Run("image_label", CLASSES, "", begun="label_m_half"),
}


def run(module: str, *flags: str) -> str:
    """What a module prints; ends the script where it fails."""
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {shlex.join(command)}")
    return done.stdout


def command_of(name: str, seed: int, data_dir: str, out: pathlib.Path) -> list[str]:
    """Flags of the training."""
    row = RUNS[name]
    flags = [
        f"--config=configs/{row.config}.py:fashion_small",
        f"--workdir={out}/{name}_{seed}",
        f"--config.data.data_dir={data_dir}",
        f"--config.seed={seed}",
        *row.options.split(),
    ]
    if row.begun:
        rest = NUM_STEPS - NUM_JOINT
        flags.append(f"--config.init_from={out}/{row.begun}_{seed}")
        flags.append(f"--config.train.num_steps={rest}")
    return flags


def measure(name: str, seed: int, data_dir: str, out: pathlib.Path) -> None:
    """Trains, evaluates and writes one run, unless that has been done."""
    path = RESULTS / f"{name}_{seed}.json"
    if path.exists():
        return
    row, workdir = RUNS[name], out / f"{name}_{seed}"
    facts = {"run": name, "seed": seed, "commands": [], "seconds": {}}

    def main(part: str, *flags: str) -> None:
        places = {str(out): "runs/study", data_dir: "DATA_DIR"}
        said = shlex.join(["python", "-m", "mt_diffusion.main", *flags])
        for place, shown in places.items():
            said = said.replace(place, shown)
        facts["commands"].append(said)
        start = time.monotonic()
        run("mt_diffusion.main", *flags)
        facts["seconds"][part] = time.monotonic() - start

    if not row.again:
        main("training", *command_of(name, seed, data_dir, out))
    if row.draws:
        flags = [f"--workdir={workdir}"]
        if row.again:
            flags = [f"--workdir={out}/{row.again}_{seed}", *row.options.split()]
            flags += [f"--out={workdir}/evaluation/{NUM_STEPS}"]
        flags += [f"--draws={row.draws}", f"--num_samples={NUM_SAMPLES}"]
        main("evaluation", "--mode=evaluate", *flags, f"--seed={seed}")
        (found,) = (workdir / "evaluation").glob("*/metrics.json")
        facts |= json.loads(found.read_text())
        facts["independent"] = independent(found.parent, data_dir)
    if row.draws == BOTH or row.begun:
        said = run("mt_diffusion.main", "--mode=read", f"--workdir={workdir}")
        facts["read_right"] = re.findall(r"label: .*right: ([\d.]+)%", said)
    if row.fills:
        fills = workdir / "restoration.json"
        run("benchmarks.restoration", str(workdir), f"--out={fills}", *FILLED)
        facts["restoration"] = json.loads(fills.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.as_json(path, facts)


def independent(folder: pathlib.Path, data_dir: str) -> dict[str, dict[str, float]]:
    """What scikit-learn's judge says of every draw in which images were generated."""
    judge, found = Judge(data_dir, image_size=28), {}
    for path in sorted(folder.glob("*/samples.npz")):
        if "image" not in path.parent.name.replace("masked_image", "").split("_"):
            found[path.parent.name] = judge(path)
    return found | {"real": {"agreement": judge.accuracy, "distance": judge.floor}}


COLUMNS = {  # heading: (draw, name up to its number of samples, factor)
    "FID": ("joint", "fid_convnet", 1),
    "FID, label given": ("given_label", "fid_convnet", 1),
    "IS": ("joint", "inception_score_convnet", 1),
    "precision": ("joint", "precision_convnet", 1),
    "recall": ("joint", "recall_convnet", 1),
    "coherence": ("joint", "coherence_convnet", 100),
    "coherence, label given": ("given_label", "coherence_convnet", 100),
}


def table() -> str:
    """All runs that there are as Markdown; mean, and range over seeds."""
    lines = ["| run | seeds | " + " | ".join(COLUMNS) + " | read right |"]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    for name in RUNS:
        paths = sorted(RESULTS.glob(f"{name}_[0-9]*.json"))
        runs = [json.loads(path.read_text()) for path in paths]
        runs = [r for r in runs if "metrics" in r or "read_right" in r]
        if runs:
            cells = [spread([value(r, *c) for r in runs]) for c in COLUMNS.values()]
            read = [float(x) for r in runs for x in r.get("read_right", [])]
            cells = [name, ", ".join(str(r["seed"]) for r in runs), *cells]
            lines.append("| " + " | ".join([*cells, spread(read)]) + " |")
    return "\n".join([*lines, "", *marks()])


def marks() -> list[str]:
    """What noise and test images have, from any run."""
    lines = []
    for heading, (draw, name, factor) in COLUMNS.items():
        for path in sorted(RESULTS.glob("*.json")):
            found = metric(json.loads(path.read_text()), draw, name)
            if found and found["floor"] and found["ceiling"]:
                ends = (found[k]["value"] * factor for k in ("floor", "ceiling"))
                floor, ceiling = (f"{x:.3g}" for x in ends)
                lines.append(
                    f"- {heading}: {floor} ({found['floor']['of']}), {ceiling} "
                    f"({found['ceiling']['of']})"
                )
                break
    return lines


def metric(facts: dict, draw: str, name: str) -> dict | None:
    """The figure of a draw whose name begins so."""
    for m in facts.get("metrics", []):
        if m["draw"] == draw and re.fullmatch(rf"{name}_\d+k?_cfg.*", m["name"]):
            return m
    return None


def value(facts: dict, draw: str, name: str, factor: float) -> float | None:
    """Of that figure."""
    found = metric(facts, draw, name)
    return found and found["value"] * factor


def spread(values: list[float | None]) -> str:
    """Mean, and the range where there are several."""
    values = [x for x in values if x is not None]
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3g}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Runs what has not run yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--out", type=pathlib.Path, default="runs/study")
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", default=",".join(RUNS), help="runs, as ddpm,label_m")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(RUNS):
        parser.error(f"no runs {sorted(unknown)}; there are {', '.join(RUNS)}")
    for seed in map(int, args.seeds.split(",")):
        for name in args.only.split(","):
            measure(name, seed, args.data_dir, args.out)
            (RESULTS / "table.md").write_text(table() + "\n")
    print(table())


if __name__ == "__main__":
    main()
