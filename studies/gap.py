"""The gap between two ways to say the same, and what a shift over it is worth.

bash launch/emoji.sh
python -m studies.gap

A model that was trained on vectors of one kind, as CLIP's of images, is given those of
another kind, as CLIP's of words, which lie elsewhere. Where there is no CLIP, names of
emoji stand for the first kind, and what else may be said of the same emoji for the
second: a sentence around the name, another name, the words of its subgroup. Of each:
how far the means are apart, beside how far vectors are from their mean; and how often
the right name is the nearest of all held-out ones, with the vectors as they are, moved
by the difference of means (config.modalities.NAME.gap = 'shift'), with noise of that
length, and by the best affine map. Means and maps are those of training emoji, names
those of held-out ones. results/latents/gap.json holds what was found.
"""

import argparse
import csv
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from mt_diffusion.files import writing
from mt_diffusion.models import sentences
from studies.emoji_judge import PACKAGE, recall

RESULTS = pathlib.Path("results/latents/gap.json")
RIDGE = 10.0  # of the affine map, in examples
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


def main() -> None:
    """Encodes, measures, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = writing.user_cache("emoji")
    parser.add_argument("--data", type=pathlib.Path, default=cache)
    parser.add_argument("--encoder", default=PACKAGE)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data} is not there: bash launch/emoji.sh makes it")
    encoder, rows = sentences.find(args.encoder), rows_of(args.data)
    found: dict[str, dict[str, float]] = {}
    for saying, say in SAYINGS.items():
        parts = {}
        for split in ("train", "test"):
            some = [row for row in rows if row["split"] == split and say(row)]
            texts = [row["name"] for row in some], [say(row) for row in some]
            both = [sentences.cached(encoder, x, 1).pooled for x in texts]
            parts[split] = (both[0], both[1]), texts[0]
        found[saying] = look(parts["train"][0], *parts["test"])
        print(saying, found[saying])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    writing.as_json(args.out, {"encoder": args.encoder, "sayings": found})


if __name__ == "__main__":
    main()
