"""Does joint training help or hurt? The paper's table in miniature, on Fashion-MNIST.

python -m studies.study --data_dir=/data/tfds --out=runs/study [--seeds=0,1,2]

Each run has the same U-Net and sees the same number of images (`:fashion_small`, 3,000
steps of 32); the fine-tuned ones have 2,000 steps jointly and 1,000 on their own task.
`supervised` is the same U-Net's encoder with head M, trained on labels alone.
Each is evaluated by `--mode=evaluate`, by a judge of scikit-learn that shares no code
with that, and, where it can, by filling in hidden patches. What has been done is not
done again; results/study/RUN_SEED.json holds what was measured, and table.md all of it.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys

from mt_diffusion.files import writing
from studies import study_table
from studies.judge import Judge

NUM_SAMPLES, NUM_STEPS, NUM_JOINT = 5000, 3000, 2000
RESULTS = pathlib.Path("results/study")
# Half the config's steps: hours less, and worse for all.
DRAWN = ("--sampler=ancestral", "--steps=25", "--guidance=1", "--clip=static")
DRAWN += ("--variance=beta_tilde", "--correction=measured")
FILLED = ("--num=100", "--steps=25", "--patches=5,10")  # RePaint is slow
MAIN, SUPERVISED = "mt_diffusion.main", "studies.supervised"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training: its config and options, and what is drawn from it.

    draws: of --mode=evaluate; '' for none. begun: a run of 2,000 steps which this one
    continues on a task of its own. again: a run whose checkpoint is drawn from with
    other flags, without any training. trainer: the module that trains it.
    """

    config: str
    options: str
    draws: str
    fills: bool = False
    begun: str = ""
    again: str = ""
    trainer: str = MAIN


LABEL = "--config.modalities.label."
MASKED = "--config.modalities.masked_image."
PRESENCE = "--config.presence."
# A class-conditional DDPM: the label is always read but for guidance's null.
X = f"{LABEL}conditions=true"
ALWAYS = f"{X} {PRESENCE}read.share=0.95 {PRESENCE}unread.share=0 "
ALWAYS += f"{PRESENCE}absent.share=0.05"
CLASS = f"{LABEL}drift=none {LABEL}loss_weight=0 {ALWAYS}"
E = f"{LABEL}head_kind=E"
SHARED = f"{LABEL}kind=label.SharedUNet {LABEL}frame=read {LABEL}guess=mean "
SHARED += f"{LABEL}drift=ramp"
PAPER = f"--config.diffusion.prediction=eps {LABEL}frame=none {LABEL}guess=mean "
PAPER += f"{LABEL}drift=ramp {LABEL}codes.family=white {LABEL}codes.side=0"
HEAVY = f"{LABEL}loss_weight=0.02"  # the default once; now 1/784
LIGHT = f"{LABEL}drift=none {LABEL}loss_weight=0.01"
BOTH, LABELLED = "joint,given_label", ("image_label", "image_cluster", "joint")
M_STAR, CLASSES = "--config.objective.tasks=image", "--config.objective.tasks=label"
E_STAR = f"{E} {M_STAR}"
RUNS = {
    "ddpm": Run("ddpm", "", "joint", fills=True),
    "ddpm_class": Run("image_label", CLASS, "given_label"),
    "label_m": Run("image_label", "", BOTH),
    "masked_x": Run("masked_image", "", "joint", fills=True),
    "joint": Run("joint", "", "joint"),
    "label_e": Run("image_label", E, BOTH),
    "masked_u": Run("masked_image", f"{MASKED}conditions=false", "joint"),
    "cluster": Run("image_cluster", "", "joint,given_cluster"),
    "label_x": Run("image_label", X, BOTH),
    "label_m_headless": Run("image_label", f"{LABEL}loss_weight=0", BOTH),
    "label_m_light": Run("image_label", f"{LABEL}loss_weight=0.005", BOTH),
    "label_m_heavy": Run("image_label", HEAVY, BOTH),
    "label_x_heavy": Run("image_label", f"{X} {HEAVY}", BOTH),
    "label_x_always": Run("image_label", f"{ALWAYS} {HEAVY}", BOTH),
    "label_shared_unet": Run("image_label", SHARED, BOTH),
    # Compute to quality: plain diffusion four times as long, pairs half as long.
    "ddpm_long": Run("ddpm", f"--config.train.num_steps={4 * NUM_STEPS}", "joint"),
    "label_m_short": Run(
        "image_label", f"--config.train.num_steps={NUM_STEPS // 2}", "joint"
    ),
    "label_m_coherent": Run("", "--guess=label=coherent", "joint", again="label_m"),
    "label_m_no_drift": Run("image_label", f"{LABEL}drift=none", "joint"),
    "label_m_no_drift_light": Run("image_label", LIGHT, "joint"),
    "label_m_paper": Run("image_label", PAPER, BOTH),
    "label_m_half": Run("image_label", f"--config.train.num_steps={NUM_JOINT}", ""),
    "label_e_half": Run("image_label", f"{E} --config.train.num_steps={NUM_JOINT}", ""),
    "label_m_star": Run("image_label", M_STAR, BOTH, begun="label_m_half"),
    "label_e_star": Run("image_label", E_STAR, BOTH, begun="label_e_half"),
    "label_m_classifier": Run("image_label", CLASSES, "", begun="label_m_half"),
    "supervised": Run("image_label", "", "", trainer=SUPERVISED),
}


class Calls:
    """Calls modules, and keeps their commands, without a machine's paths."""

    def __init__(self, places: dict[str, str]):
        self.commands, self._places = [], places

    def __call__(self, module: str, *flags: str) -> str:
        """What a module prints; ends the script where it fails."""
        said = shlex.join(["python", "-m", module, *flags])
        for place, shown in self._places.items():
            said = said.replace(place, shown)
        self.commands.append(said)
        command = [sys.executable, "-m", module, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"failed: {shlex.join(command)}")
        return done.stdout


def data_of(name: str, seed: int, data_dir: str) -> list[str]:
    """Flags of everything that is trained."""
    config = f"--config=configs/{RUNS[name].config}.py:fashion_small"
    return [config, f"--config.data.data_dir={data_dir}", f"--config.seed={seed}"]


def command_of(name: str, seed: int, data_dir: str, out: pathlib.Path) -> list[str]:
    """Flags of the training of a model."""
    row = RUNS[name]
    flags = [
        *data_of(name, seed, data_dir),
        f"--workdir={out}/{name}_{seed}",
        *row.options.split(),
    ]
    if row.begun:
        rest = NUM_STEPS - NUM_JOINT
        flags.append(f"--config.init_from={out}/{row.begun}_{seed}")
        flags.append(f"--config.train.num_steps={rest}")
    return flags


def result_of(name: str, seed: int) -> pathlib.Path:
    """The file of what was measured."""
    return RESULTS / f"{name}_{seed}.json"


def measure(name: str, seed: int, data_dir: str, out: pathlib.Path) -> None:
    """Trains, evaluates and writes one run, unless that has been done."""
    path = result_of(name, seed)
    if path.exists():
        return
    row, workdir = RUNS[name], out / f"{name}_{seed}"
    calls, facts = Calls({str(out): "runs/study", data_dir: "DATA_DIR"}), {}
    if row.trainer == SUPERVISED:
        flags = [*data_of(name, seed, data_dir), f"--steps={NUM_STEPS}"]
        said = calls(SUPERVISED, *flags)
        facts["read_right"] = re.findall(r"right ([\d.]+)% after", said)
    elif not row.again:
        calls(MAIN, *command_of(name, seed, data_dir, out))
    if row.draws:
        flags = [f"--workdir={workdir}"]
        if row.again:
            flags = [f"--workdir={out}/{row.again}_{seed}", *row.options.split()]
            flags += [f"--out={workdir}/evaluation/{NUM_STEPS}"]
        flags += [f"--draws={row.draws}", f"--num_samples={NUM_SAMPLES}"]
        calls(MAIN, "--mode=evaluate", *flags, *DRAWN, f"--seed={seed}")
        (found,) = (workdir / "evaluation").glob("*/metrics.json")
        facts |= json.loads(found.read_text())
        facts["independent"] = independent(found.parent, data_dir)
    reads = row.config in LABELLED and row.trainer == MAIN
    if reads and row.draws != "given_label":
        said = calls(MAIN, "--mode=read", f"--workdir={workdir}")
        facts["read_right"] = re.findall(r"(?:label|cluster): .*right: ([\d.]+)%", said)
    if row.fills and seed == 0:  # half an hour for RePaint, with 241 calls
        fills = workdir / "restoration.json"
        flags = [str(workdir), f"--out={fills}", *FILLED]
        calls("studies.restoration", *flags)
        facts["restoration"] = json.loads(fills.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"run": name, "seed": seed, "commands": calls.commands}
    writing.as_json(path, known | facts)


def independent(folder: pathlib.Path, data_dir: str) -> dict[str, dict[str, float]]:
    """What scikit-learn's judge says of every draw in which images were generated."""
    judge, found = Judge(data_dir, image_size=28), {}
    for path in sorted(folder.glob("*/samples.npz")):
        if "image" not in path.parent.name.replace("masked_image", "").split("_"):
            found[path.parent.name] = judge(path)
    return found | {"real": {"agreement": judge.accuracy, "distance": judge.floor}}


def main() -> None:
    """Runs what has not run yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--out", type=pathlib.Path, default="runs/study")
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", default=",".join(RUNS), help="runs, as ddpm,label_m")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(RUNS):
        parser.error(f"no runs {sorted(unknown)}; there are {', '.join(RUNS)}")
    if not (pathlib.Path(args.data_dir) / "fashion_mnist").is_dir():
        parser.error(
            f"--data_dir={args.data_dir} has no folder fashion_mnist of TFDS's"
        )
    seeds = map(int, args.seeds.split(","))
    wanted = list(itertools.product(seeds, args.only.split(",")))
    if args.dry_run:
        for seed, name in wanted:
            state = "measured" if result_of(name, seed).exists() else "to be run"
            print(f"{name}, seed {seed}: {state}")
        return
    for seed, name in wanted:
        measure(name, seed, args.data_dir, args.out)
        study_table.write(RESULTS, RUNS)
    print(study_table.write(RESULTS, RUNS))


if __name__ == "__main__":
    main()
