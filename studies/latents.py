"""Latents against pixels on emoji: the same words, and the same seconds of training.

bash launch/emoji.sh
python -m studies.latents --out=runs/study_latents [--seed=0] [--only=pixels,...]

The small autoencoder is trained (64x64x3 to 8x8x4) and the data encoded; then a model
of latents is trained for --seconds of processor time, and one of pixels at 64 for these
and all that the autoencoder and its latents took, in as many steps as these are by the
speed of a start of --probe steps. Both read the words by the same encoder and draw the
held-out emoji, from nothing and from their words. The judge is that of
studies/emoji.py, which looks at 32x32 pixels.

What has been done is not done again; results/latents/NAME_SEED.json holds what was
measured, table.md all of it. Processor seconds and memory are those of the calls that
were not cut off.
"""

import argparse
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import PIL.Image
from ml_collections import ConfigDict

import mt_diffusion
from configs import latent_representation, text
from mt_diffusion.files import images, writing
from mt_diffusion.models.autoencoder import folder
from mt_diffusion.spaces.pixels import to_uint8, to_unit
from studies import emoji_pictures
from studies.emoji_judge import HANDS, SIZE, Held, Judge

RESULTS = pathlib.Path("results/latents")
HAND, SIDE = HANDS[0], 64
EVERY = 4  # looks at the speed of the start, the first of which is not counted
STEPS = ("--batch_size=128", "--correction=none", "--variance=beta_tilde")
GIVEN = ("nothing", "text")
FIRST = ("autoencoder", "precompute")
# The widths of the network in latents. Of a patch's 48 numbers all must find room in
# its first channels: with the preset's 24 the noise within patches can't be taken away.
PIXELS = {"data.image_size": SIDE, "unet.patch": 4, "unet.model_channels": 64}
PIXELS |= {"unet.channel_mult": (1, 2, 2)}


def call(*flags: str) -> dict[str, float]:
    """Runs the command, and says what it took; ends the script where it fails."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "mt_diffusion.main", *flags])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"ended with {process.returncode}: {' '.join(flags)}")
    return {
        "seconds": time.monotonic() - start,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": 1024 * used.ru_maxrss,
    }


def flags_of(changes: dict[str, object]) -> list[str]:
    """Of fields of a config."""
    return [f"--config.{name}={value}" for name, value in changes.items()]


def latents_of(args: argparse.Namespace) -> dict[str, object]:
    """Where the model of latents has its autoencoder and its data."""
    place = args.out / f"autoencoder_{args.seed}" / "autoencoder"
    return on(args.data) | {"primary.space.autoencoder": place}


def on(data: pathlib.Path) -> dict[str, object]:
    """The emoji of 64 pixels."""
    return {
        "data.path": data / str(SIDE) / HAND,
        "data.captions": data / "captions.csv",
    }


def train_autoencoder(args: argparse.Namespace, judge: Judge) -> dict:
    """Trains it, and judges held-out emoji that went there and back."""
    workdir = args.out / f"autoencoder_{args.seed}"
    changes = on(args.data) | {"seed": args.seed}
    if args.autoencoder_steps:
        changes["train.num_steps"] = args.autoencoder_steps
    preset = "--config=configs/autoencoder.py:emoji"
    took = call(preset, f"--workdir={workdir}", *flags_of(changes))
    true = large(args.data, "test")
    made = there_and_back(args, true)
    error = np.mean((made.astype(float) - true) ** 2)
    found = {"psnr": float(10 * np.log10(255**2 / error))} | judged(judge, made, True)
    told = json.loads((workdir / "reconstruction.json").read_text())
    return {"took": took, "figures": {"there and back": found}, "told": told}


def there_and_back(args: argparse.Namespace, true: np.ndarray) -> np.ndarray:
    """True images, uint8 [N, H, W, 3], as the autoencoder has them."""
    model = folder.find(str(latents_of(args)["primary.space.autoencoder"]))
    return to_uint8(model.decode(model.encode(to_unit(true)).mean))


def precompute(args: argparse.Namespace, judge: Judge) -> dict:
    """Encodes the data."""
    out = args.out / f"encoded_{args.seed}"
    preset = "--config=configs/latent_representation.py:emoji"
    took = call(
        "--mode=precompute", preset, f"--out={out}", *flags_of(latents_of(args))
    )
    num = len(judge.train.captions) + len(judge.held.captions)
    size = sum(path.stat().st_size for path in out.iterdir())
    return {"took": took, "images": num, "bytes": size}


def train_model(
    preset: str,
    make: Callable[[], ConfigDict],
    changes: dict[str, object],
    name: str,
    args: argparse.Namespace,
    judge: Judge,
) -> dict:
    """Trains for its seconds, draws, and judges."""
    changes = changes | {"seed": args.seed}
    plan = args.out / f"{name}_{args.seed}.json"
    if not plan.exists():
        seconds = seconds_for(name, args)
        each = seconds_of_a_step(make(), changes, args)
        steps = max(round(seconds / each), 1)
        told = {"seconds": seconds, "seconds_of_a_step": each, "steps": steps}
        writing.as_json(plan, told)
    planned = json.loads(plan.read_text())
    workdir = args.out / f"{name}_{args.seed}"
    steps = [f"--config.train.num_steps={planned['steps']}"]
    place = f"--workdir={workdir}"
    took = call(f"--config={preset}", place, *flags_of(changes), *steps)
    figures = {}
    for given in GIVEN:
        out = args.out / "draws" / f"{name}_{args.seed}" / given
        if not (out / "samples.npz").exists():
            told = [f"--num_samples={args.num}", f"--seed={args.seed}"]
            told += [f"--steps={args.steps}"]
            if given == "text":
                told += [f"--given=text={args.out / 'text.txt'}"]
            call("--mode=sample", place, f"--out={out}", *STEPS, *told)
        made = np.load(out / "samples.npz", allow_pickle=False)["image"]
        has_truth = given == "text" and len(made) == len(judge.held.captions)
        figures[given] = judged(judge, made, has_truth)
    return {"took": took, "planned": planned, "figures": figures}


def seconds_for(name: str, args: argparse.Namespace) -> float:
    """Of a model's training: of pixels also what the other one had before its own."""
    if name == "latents":
        return args.seconds
    paths = [args.results / f"{first}_{args.seed}.json" for first in FIRST]
    if missing := [path.stem for path in paths if not path.exists()]:
        sys.exit(f"{name} has the seconds of these, which come first: {missing}")
    before = [json.loads(path.read_text())["took"] for path in paths]
    return args.seconds + sum(took["processor_seconds"] for took in before)


def changed(config: ConfigDict, changes: dict[str, object]) -> ConfigDict:
    """A config with these fields."""
    plain = {
        n: str(x) if isinstance(x, pathlib.Path) else x for n, x in changes.items()
    }
    config.update_from_flattened_dict(plain)
    return config


def seconds_of_a_step(
    config: ConfigDict, changes: dict[str, object], args: argparse.Namespace
) -> float:
    """Processor seconds, of steps after the first ones."""
    config = changed(config, changes)
    config.train.num_steps = args.probe
    config.watch.update(log_every=args.probe // EVERY, checkpoint_every=args.probe)
    looks = []

    def look(step: int, scalars: dict[str, float]) -> bool:
        used = resource.getrusage(resource.RUSAGE_SELF)
        looks.append((step, used.ru_utime + used.ru_stime))
        return False

    with tempfile.TemporaryDirectory(dir=args.out) as workdir:
        mt_diffusion.train(config, workdir, look)
    (first, before), (last, now) = looks[0], looks[-1]
    return (now - before) / (last - first)


def judged(judge: Judge, made: np.ndarray, has_truth: bool) -> dict[str, float]:
    """What the judge says of pictures of 64 pixels; has_truth: of these very emoji."""
    small = np.stack([images.resize(x, (SIZE, SIZE, 3)) for x in made])
    found = judge.beside_truth(small, HAND) if has_truth else {}
    return found | judge.of_all(small, HAND)


def large(data: pathlib.Path, split: str) -> np.ndarray:
    """The emoji of a split, uint8 [N, 64, 64, 3]."""
    return Held(data, split, SIDE).images[HAND]


def picture(args: argparse.Namespace) -> PIL.Image.Image:
    """Held-out emoji: true, there and back, and from their words by each model."""
    held = Held(args.data, "test", SIDE)
    some = emoji_pictures.spread(held, emoji_pictures.COLUMNS)
    true = held.images[HAND][some]
    rows = [("true", true), ("there and back", there_and_back(args, true))]
    for name in ("latents", "pixels"):
        made = emoji_pictures.drawn(args.out, name, args.seed, "text")["image"]
        rows.append((f"words, in {name}", made[some]))
    return emoji_pictures.sheet(rows)


def stages(args: argparse.Namespace) -> dict[str, Callable[[Judge], dict]]:
    """What is done, by name."""
    latent = latents_of(args) | {"data.latents": args.out / f"encoded_{args.seed}"}
    of_latents = "configs/latent_representation.py:emoji", latent_representation.emoji
    of_pixels = "configs/text.py:emoji", lambda: text.get_config("emoji")
    pixels = on(args.data) | PIXELS
    return {  # in order
        "autoencoder": functools.partial(train_autoencoder, args),
        "precompute": functools.partial(precompute, args),
        "latents": functools.partial(train_model, *of_latents, latent, "latents", args),
        "pixels": functools.partial(train_model, *of_pixels, pixels, "pixels", args),
    }


def table(results: pathlib.Path, seed: int) -> str:
    """All that was measured, as Markdown."""
    lines = ["# Latents against pixels: what was measured", ""]
    lines += ["python -m studies.latents", "", "| | | |", "|---|---|---|"]
    for path in sorted(results.glob(f"*_{seed}.json")):
        name = path.stem.removesuffix(f"_{seed}")
        for where, x in leaves(json.loads(path.read_text())):
            lines.append(f"| {name} | {where} | {x} |")
    return "\n".join([*lines, ""])


def leaves(tree: dict, above: str = "") -> list[tuple[str, str]]:
    """(its place, its value) of all numbers."""
    found = []
    for name, x in tree.items():
        where = f"{above}, {name}" if above else name
        found += leaves(x, where) if isinstance(x, dict) else [(where, written(x))]
    return found


def written(x: object) -> str:
    """A number as it stands in a table."""
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def main() -> None:
    """Does what has not been done yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = writing.user_cache("emoji")
    add = parser.add_argument
    add("--data", type=pathlib.Path, default=cache)
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/study_latents"))
    add("--results", type=pathlib.Path, default=RESULTS)
    add("--seed", type=int, default=0)
    add("--only", default="", help="stages, as latents,pixels; all of them without")
    add("--seconds", type=float, default=900, help="of training in latents (900)")
    add("--autoencoder_steps", type=int, default=0, help="0: the preset's own")
    add("--probe", type=int, default=200, help="steps by which speed is known (200)")
    add("--num", type=int, default=0, help="pictures that are drawn; 0: of all words")
    add("--steps", type=int, default=25, help="of a draw (25)")
    add("--picture", type=pathlib.Path, help="a .webp of all words' pictures, to write")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data} is not there: bash launch/emoji.sh makes it")
    todo = stages(args)
    if unknown := set(filter(None, args.only.split(","))) - set(todo):
        parser.error(f"no stages {sorted(unknown)}; there are {', '.join(todo)}")
    judge = Judge(args.data, args.out)
    args.num = args.num or len(judge.held.captions)
    words = "\n".join(judge.held.captions[: args.num])
    writing.text(args.out / "text.txt", words + "\n")
    args.results.mkdir(parents=True, exist_ok=True)
    for name, measure in todo.items():
        path = args.results / f"{name}_{args.seed}.json"
        if not path.exists() and (not args.only or name in args.only.split(",")):
            facts = {"stage": name, "seed": args.seed, "asked_seconds": args.seconds}
            writing.as_json(path, facts | measure(judge))
        writing.text(args.results / "table.md", table(args.results, args.seed))
    marks = args.results / "marks.json"
    if not marks.exists():
        writing.as_json(marks, judge.marks())
    if args.picture:
        picture(args).save(args.picture, quality=80)


if __name__ == "__main__":
    main()
