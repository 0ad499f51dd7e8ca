"""Words and two hands of emoji: what is trained and shown on held-out pictures.

bash launch/emoji.sh
python -m studies.emoji --out=runs/emoji [--seeds=0,1,2] [--only=transition,...]

Every run has the preset's U-Net. One start, images alone, is trained for them all, and
each goes on from it for the same number of pictures, `ddpm` with images alone; but for
`text`, which reads no second image and learns from noise, as many pictures as both.
`to_b` and `to_a` are class-conditional DDPM's kin, which read the other hand and do
nothing else. What has been done is not done again; results/emoji/RUN_SEED.json holds
what was measured, results/emoji/table.md all of it. The judge (studies/emoji_judge.py)
is trained apart.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image

from mt_diffusion.files import writing
from studies.emoji_judge import HANDS, Held, Judge

RESULTS = pathlib.Path("results/emoji")
STEPS = ("--steps=25", "--batch_size=128")
B = "--config.modalities.image_b."
PLAIN = f"{B}drift=none {B}loss_weight=0 --config.presence.read.share=0.95 "
PLAIN += "--config.presence.absent.share=0.05"
ALONE = f"{B}drift=none {B}loss_weight=0 --config.presence.read.share=0 "
ALONE += "--config.presence.absent.share=1"
START, STARTED = "start", 5000  # the run that others go on from, and its steps
FURTHER = 6000
NOTHING = "nothing"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training, and what is given in each of its draws, as 'image_b text'.

    'text x2' is words with a guidance of 2.

    image, image_b: the hands that these are. judged: variables that are looked at.
    starts: whether from the images alone.
    """

    config: str
    draws: tuple[str, ...]
    options: str = ""
    image: str = "twitter"
    image_b: str = "google"
    judged: tuple[str, ...] = ("image", "image_b")
    starts: bool = True

    def flags(self, seed: int, out: pathlib.Path) -> list[str]:
        """Of its training."""
        steps = FURTHER if self.starts else STARTED + FURTHER
        start = [f"--config.init_from={out / START}_{seed}"] if self.starts else []
        num = f"--config.train.num_steps={steps}"
        # All of them: studies/emoji_curve.py looks at what they know.
        keep = "--config.watch.keep_checkpoints=100"
        return [*trained(self.config, self.options, seed), num, keep, *start]


def trained(config: str, options: str, seed: int) -> list[str]:
    """Flags of the training of a config."""
    preset = f"--config=configs/{config}.py:emoji"
    return [preset, f"--config.seed={seed}", *options.split()]


SWAPPED = {"image": "google", "image_b": "twitter"}
RUNS = {
    "ddpm": Run("image_transition", (NOTHING,), ALONE, judged=("image",)),
    "transition": Run("image_transition", (NOTHING, "image", "image_b", "image_b x2")),
    "to_a": Run("image_transition", ("image_b", "image_b x2"), PLAIN),
    "to_b": Run(
        "image_transition",
        ("image_b", "image_b x2"),
        f"{PLAIN} --config.data.swap_pair=true",
        **SWAPPED,
    ),
    "text": Run("text", (NOTHING, "text", "text x2", "image"), starts=False),
    "anything": Run(
        "anything",
        (NOTHING, "image", "image_b", "label", "text", "label text", "image_b text")
        + ("text x2", "image_b text x2"),
    ),
}


def call(*flags: str) -> None:
    """Runs the command; ends the script where it fails."""
    subprocess.run([sys.executable, "-m", "mt_diffusion.main", *flags], check=True)


def write_given(folder: pathlib.Path, held: Held) -> None:
    """The held-out pictures and texts as files, once."""
    if (folder / "text.txt").exists():
        return
    for hand in HANDS:
        (folder / hand).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(held.images[hand]):
            PIL.Image.fromarray(image).save(folder / hand / f"{i:04d}.png")
    writing.text(folder / "text.txt", "\n".join(held.captions) + "\n")


def names_of(draw: str) -> tuple[list[str], list[str]]:
    """The names of what is given in a draw, and flags of its guidance."""
    names, _, scale = draw.partition(" x")
    guidance = [f"--guidance={scale}"] if scale else []
    return [] if names == NOTHING else names.split(), guidance


def given_of(run: Run, draw: str, folder: pathlib.Path, held: Held) -> list[str]:
    """Flags of what is given in a draw, and how it is guided."""
    values = {
        "image": str(folder / run.image),
        "image_b": str(folder / run.image_b),
        "label": ",".join(held.groups),
        "text": str(folder / "text.txt"),
    }
    names, guidance = names_of(draw)
    return [*(f"--given={name}={values[name]}" for name in names), *guidance]


def draw_all(name: str, seed: int, out: pathlib.Path, held: Held) -> dict[str, dict]:
    """Trains and draws what is not there yet; {draw: its arrays}."""
    run, workdir = RUNS[name], out / f"{name}_{seed}"
    if run.starts:
        start = trained("image_transition", ALONE, seed)
        num = f"--config.train.num_steps={STARTED}"
        call(*start, num, f"--workdir={out / START}_{seed}")
    call(*run.flags(seed, out), f"--workdir={workdir}")
    found = {}
    for draw in run.draws:
        folder = out / "draws" / f"{name}_{seed}" / draw.replace(" ", "-")
        if not (folder / "samples.npz").exists():
            flags = given_of(run, draw, out / "given", held)
            num = f"--num_samples={len(held.captions)}"
            place = f"--workdir={workdir}", f"--out={folder}"
            call("--mode=sample", *place, *STEPS, num, f"--seed={seed}", *flags)
        found[draw] = dict(np.load(folder / "samples.npz", allow_pickle=False))
    return found


def measure(name: str, seed: int, out: pathlib.Path, judge: Judge) -> None:
    """Writes what is measured of one run, unless that has been done."""
    path, run = RESULTS / f"{name}_{seed}.json", RUNS[name]
    if path.exists():
        return
    figures: dict[str, dict[str, float]] = {}
    for draw, made in draw_all(name, seed, out, judge.held).items():
        given = set(names_of(draw)[0])
        figures[draw] = of_draw(judge, run, given, made)
        if "text" in made and "image" in given:
            figures[draw] |= judge.captions(made["text"], out / f"{name}_{seed}")
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"run": name, "seed": seed, "figures": figures, "marks": judge.marks()}
    writing.as_json(path, told)


def of_draw(judge: Judge, run: Run, given: set[str], made: dict) -> dict[str, float]:
    """What a judge says of the pictures that were generated in a draw."""
    hands = {"image": run.image, "image_b": run.image_b}
    found: dict[str, float] = {}
    for variable, hand in hands.items():
        if variable not in run.judged or variable not in made or variable in given:
            continue
        if given & {"image", "image_b", "text"}:
            close = judge.beside_truth(made[variable], hand)
            found |= {f"{variable}_{n}": x for n, x in close.items()}
        drawn = judge.of_all(made[variable], hand)
        found |= {f"{variable}_{n}": x for n, x in drawn.items()}
    if not given and set(hands) <= set(made) & set(run.judged):
        found["same_emoji"] = judge.same(made["image"], made["image_b"])
    return found


def table() -> str:
    """All that was measured, as Markdown: means over seeds, and what to beat.

    That is of the judges of these runs: one is trained anew on each machine.
    """
    rows, marks = [], []
    for name in RUNS:
        paths = sorted(RESULTS.glob(f"{name}_*.json"))
        seeds = [p for p in paths if p.stem.removeprefix(f"{name}_").isdigit()]
        kept = [json.loads(p.read_text()) for p in seeds]
        marks += [one["marks"] for one in kept]
        for draw in RUNS[name].draws if kept else ():
            some = [one["figures"][draw] for one in kept]
            for figure in some[0]:
                values = [each[figure] for each in some]
                spread = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                what = f"{name} | {draw} | {figure}"
                rows.append(f"| {what} | {np.mean(values):.3f}{spread} | {len(some)} |")
    beside = []
    for name in marks[0] if marks else ():
        values = dict.fromkeys(f"{of_judge[name]:.3f}" for of_judge in marks)
        beside.append(f"| {name} | {', '.join(values)} |")
    lines = ["# Emoji: what was measured", "", "python -m studies.emoji", ""]
    lines += [
        "| run | given | figure | value | seeds |",
        "|---|---|---|---|---|",
        *rows,
    ]
    lines += ["", "| what there is to beat | value |", "|---|---|", *beside, ""]
    return "\n".join(lines)


def main() -> None:
    """Runs what has not run yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=pathlib.Path, default=writing.user_cache("emoji")
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/emoji"))
    parser.add_argument("--seeds", default="0", help="as 0,1,2")
    parser.add_argument("--only", default=",".join(RUNS), help="runs, as ddpm,text")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(RUNS):
        parser.error(f"no runs {sorted(unknown)}; there are {', '.join(RUNS)}")
    if not args.data.is_dir():
        parser.error(f"{args.data} is not there: bash launch/emoji.sh makes it")
    judge = Judge(args.data, args.out)
    write_given(args.out / "given", judge.held)
    seeds = map(int, args.seeds.split(","))
    for seed, name in itertools.product(seeds, args.only.split(",")):
        measure(name, seed, args.out, judge)
        writing.text(RESULTS / "table.md", table())
    print(table())


if __name__ == "__main__":
    main()
