"""The gap between two ways to say the same, and what a shift over it is worth.

bash launch/emoji.sh
python -m studies.gap
python -m studies.latents --out=runs/study_latents --only=autoencoder,precompute
python -m studies.gap --draw=runs/study_latents

A model that was trained on vectors of one kind, as CLIP's of images, is given those of
another kind, as CLIP's of words, which lie elsewhere. Where there is no CLIP, names of
emoji stand for the first kind, and what else may be said of the same emoji for the
second: a sentence around the name, another name, the words of its subgroup. Of each:
how far the means are apart, beside how far vectors are from their mean; and how often
the right name is the nearest of all held-out ones, with the vectors as they are, moved
by the difference of means (config.modalities.NAME.gap = 'shift'), with noise of that
length, and by the best affine map. Means and maps are those of training emoji, names
those of held-out ones. results/latents/gap.json holds what was found.

--draw trains a model of latents on vectors of names alone, for --seconds of processor
time, and draws held-out emoji from names, and from DRAWN of them as they are and
shifted, by the option itself; gap_drawn.json has what the judge of studies/emoji.py
says.
"""

import argparse
import csv
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

import mt_diffusion
from configs import image_representation, latent_representation
from mt_diffusion.data import sources
from mt_diffusion.files import writing
from mt_diffusion.models import sentences
from studies import latents
from studies.emoji_judge import PACKAGE, Judge, recall

RESULTS = pathlib.Path("results/latents")
RIDGE = 10.0  # of the affine map, in examples
DRAWN = "a long sentence"
NUMBERS = 6400.0  # energy of all numbers of a vector, as in configs/text.py
SETTINGS = dict(steps=25, batch_size=128, correction="none", variance="beta_tilde")
Row = dict[str, str]

SAYINGS: dict[str, Callable[[Row], str]] = {
    "a short sentence": lambda row: f"a picture of {row['name']}",
    "a long sentence": lambda row: (
        f"a small flat drawing on a white background that shows {row['name']}, as it "
        "is used in messages on a telephone"
    ),
    "another name": lambda row: row["other"],
    "its subgroup": lambda row: f"{row['subgroup'].replace('-', ' ')}, {row['group']}",
}


def rows_of(data: pathlib.Path) -> list[Row]:
    """The emoji, each with another of its names, '' where it has none."""
    others: dict[str, list[str]] = {}
    with open(data / "captions.csv", newline="", encoding="utf8") as file:
        for row in csv.DictReader(file):
            others.setdefault(row["file"], []).append(row["caption"])
    with open(data / "emoji.csv", newline="", encoding="utf8") as file:
        found = list(csv.DictReader(file))
    return [row | {"other": next(iter(others[row["file"]][1:]), "")} for row in found]


def spread(vectors: np.ndarray) -> float:
    """How far vectors [N, D] are from their mean, by RMS."""
    return float(np.sqrt(np.mean(np.sum((vectors - vectors.mean(0)) ** 2, axis=1))))


def affine(a: np.ndarray, b: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The map b -> a of least squares, with a ridge; both [N, D]."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    inner = (b - mean_b).T @ (b - mean_b) + RIDGE * np.var(b, axis=0).sum() * np.eye(
        b.shape[1]
    ) / b.shape[1]
    table = np.linalg.solve(inner, (b - mean_b).T @ (a - mean_a))
    return lambda x: (x - mean_b) @ table + mean_a


def look(
    train: tuple[np.ndarray, np.ndarray],
    held: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
) -> dict[str, float]:
    """What there is between two kinds: train, held: (of names, of the other) [N, D]."""
    (a, b), (own, other) = train, held
    gap = a.mean(0) - b.mean(0)
    noise = np.random.default_rng(0).standard_normal(other.shape)
    noise *= np.linalg.norm(gap) / np.sqrt(other.shape[1])
    ways = {
        "as they are": other,
        "shifted": other + gap,
        "with noise": other + noise,
        "mapped": affine(a, b)(other),
    }
    found = {
        "emoji": float(len(names)),
        "gap": float(np.linalg.norm(gap)),
        "spread of names": spread(a),
        "spread of the other": spread(b),
        "variance explained by the kind": between(a, b),
    }
    for way, x in ways.items():
        distance = np.sum((x - own) ** 2, axis=1)
        found[f"{way}: squared distance, of the spread's"] = float(
            distance.mean() / spread(own) ** 2
        )
        # Normalised as the model has them: values around the mean of names.
        order = np.argsort(-(sentences.unit(x - a.mean(0)) @ targets(own, a).T), axis=1)
        ranked = [[names[j] for j in row] for row in order]
        found |= {f"{way}: {n}": y for n, y in recall(ranked, list(names)).items()}
    return found


def targets(own: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Names as directions from the mean of names."""
    return sentences.unit(own - a.mean(0))


def between(a: np.ndarray, b: np.ndarray) -> float:
    """The share of the variance of both kinds together that is between their means."""
    gap = np.sum((a.mean(0) - b.mean(0)) ** 2) / 4
    return float(gap / (gap + (spread(a) ** 2 + spread(b) ** 2) / 2))


def measure(args: argparse.Namespace, rows: Sequence[Row]) -> dict:
    """What there is between names and each of SAYINGS."""
    encoder = sentences.find(args.encoder)
    found: dict[str, dict[str, float]] = {}
    for saying, say in SAYINGS.items():
        parts = {}
        for split in ("train", "test"):
            some = [row for row in rows if row["split"] == split and say(row)]
            texts = [row["name"] for row in some], [say(row) for row in some]
            both = [sentences.cached(encoder, x, 1).pooled for x in texts]
            parts[split] = (both[0], both[1]), texts[0]
        found[saying] = look(parts["train"][0], *parts["test"])
    return {"encoder": args.encoder, "sayings": found}


def config_of(args: argparse.Namespace, rows: Sequence[Row]) -> ConfigDict:
    """Of a model of vectors of names, whose captions are DRAWN; writes both."""
    args.out.mkdir(parents=True, exist_ok=True)
    of_names, of_drawn = args.out / "names.csv", args.out / "drawn.csv"
    for path, say in ((of_names, lambda row: row["name"]), (of_drawn, SAYINGS[DRAWN])):
        with writing.draft_of(path) as draft, open(draft, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("file", "caption"))
            table.writerows((row["file"], say(row)) for row in rows)
    there = latent_representation.emoji()
    config = image_representation.get_config("emoji")
    with config.unlocked():
        config.primary, config.data = there.primary, there.data
    config.unet.update(there.unet.to_dict())
    latents.changed(config, latents.on(args.data))
    config.primary.space.autoencoder = str(args.draw / "autoencoder_0/autoencoder")
    config.data.update(captions=str(of_names), latents="")
    encoder, vectors = sentences.find(args.encoder), {}
    for split in ("train", "test"):
        names = [x for (x,) in sources.open_source(config.data, split).captions]
        vectors[split] = sentences.cached(encoder, names, 1).pooled
    np.savez(args.out / "names.npz", **vectors)
    config.data.captions = str(of_drawn)
    config.data.vectors = str(args.out / "names.npz")
    config.data.latents = str(args.draw / "latents_0")
    config.modalities.representation.update(
        kind="representation.SharedUNet",  # for a Projection 256 numbers have no room
        frame="read",
        vectors="feature:vector",
        clip=args.encoder,
        energy=NUMBERS / encoder.size,
    )
    return config


def draw(args: argparse.Namespace, rows: Sequence[Row]) -> dict:
    """What is drawn from names, and from DRAWN as they are and shifted."""
    config, plan = config_of(args, rows), args.out / "plan.json"
    if not plan.exists():
        each = latents.seconds_of_a_step(config.copy_and_resolve_references(), {}, args)
        writing.as_json(plan, {"steps": max(round(args.seconds / each), 1)})
    config.train.num_steps = json.loads(plan.read_text())["steps"]
    config.watch.checkpoint_every = 1000
    mt_diffusion.train(config, args.out / "run")
    model, judge = mt_diffusion.load(args.out / "run"), Judge(args.data, args.out)
    held = {row["name"]: row for row in rows if row["split"] == "test"}
    names = judge.held.captions[: args.num]
    told = [SAYINGS[DRAWN](held[name]) for name in names]
    encoder = sentences.find(args.encoder)
    ways = {
        "names": sentences.cached(encoder, names, 1).pooled,
        "as they are": sentences.cached(encoder, told, 1).pooled,
        "shifted": told,  # words, which go over the gap
    }
    figures = {}
    for way, value in ways.items():
        made = model.sample(len(told), {"representation": value}, **SETTINGS)["image"]
        path = args.out / "draws" / f"{way.replace(' ', '_')}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, image=made)
        figures[way] = latents.judged(judge, made, args.num is None)
    return {"saying": DRAWN, "steps": config.train.num_steps, "figures": figures}


def main() -> None:
    """Encodes, measures, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = writing.user_cache("emoji")
    parser.add_argument("--data", type=pathlib.Path, default=cache)
    parser.add_argument("--encoder", default=PACKAGE)
    parser.add_argument("--draw", type=pathlib.Path, help="--out of studies.latents")
    out = pathlib.Path("runs/study_gap")
    parser.add_argument("--out", type=pathlib.Path, default=out)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--num", type=int, help="pictures of a draw; all without")
    parser.add_argument("--probe", type=int, default=200)
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data} is not there: bash launch/emoji.sh makes it")
    rows = rows_of(args.data)
    name = "gap_drawn" if args.draw else "gap"
    found = draw(args, rows) if args.draw else measure(args, rows)
    args.results.mkdir(parents=True, exist_ok=True)
    writing.as_json(args.results / f"{name}.json", found)


if __name__ == "__main__":
    main()
