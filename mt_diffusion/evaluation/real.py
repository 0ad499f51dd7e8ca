"""What an evaluation knows of the real data, computed when it is first asked for."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from mt_diffusion.data import sources
from mt_diffusion.evaluation import features, quality
from mt_diffusion.evaluation.networks.network import Features, Network
from mt_diffusion.evaluation.reference import Reference
from mt_diffusion.experiment.experiment import Experiment

MAX_TRAIN = 100_000  # training images that a neighbour is looked for among
LOOKED_AT = 8  # images, to see whether a space loses anything
MAX_SETS = 4  # of test images, each as many as a draw has


@dataclasses.dataclass(frozen=True, eq=False)
class Real:
    """Real images, their features, and the frozen networks that judge.

    network: of the features. classifier: one that knows the classes of the data, or
    None. train: with all labels. num: how many samples each draw has; noise has as
    many.
    """

    experiment: Experiment
    network: Network
    classifier: Any
    reference: Reference
    train: sources.Source
    test: sources.Source
    num: int
    batch_size: int
    mesh: jax.sharding.Mesh

    def features(self, images: np.ndarray, what: str) -> Features:
        """Of uint8 [N, H, W, C], by the network."""
        return features.extract(self.network, images, self.batch_size, self.mesh, what)

    def classify(self, images: np.ndarray, what: str) -> np.ndarray:
        """Classes [N] by the classifier."""
        found = features.extract(
            self.classifier, images, self.batch_size, self.mesh, what
        )
        return found.logits.argmax(axis=-1)

    @functools.cached_property
    def test_images(self) -> np.ndarray:
        """As many as there are samples, at most."""
        return images(self.test, self.num)

    @functools.cached_property
    def test_features(self) -> Features:
        """Of the test images."""
        return self.features(self.test_images, "test images")

    @functools.cached_property
    def returned_features(self) -> Features | None:
        """Of the test images, into the diffusion's space and back.

        None where that changes none of the first ones, as with pixels.
        """
        space = self.experiment.space
        first = self.test_images[:LOOKED_AT]
        if np.array_equal(space.decode(space.encode(first)), first):
            return None
        returned = space.decode(space.encode(self.test_images))
        return self.features(returned, "test images, there and back")

    @functools.cached_property
    def test_sets(self) -> list[Features]:
        """Of disjoint sets of as many test images as there are samples, up to four.

        Of all test images, as one set, where these are fewer.
        """
        num_sets = min(len(self.test) // self.num, MAX_SETS)
        if num_sets < 2:
            return [self.test_features]
        rest = range(self.num, num_sets * self.num)
        more = np.stack([self.test[i]["image"] for i in rest])
        found = self.features(more, "more test images")
        return [self.test_features, *split(found, num_sets - 1)]

    @functools.cached_property
    def _train(self) -> tuple[np.ndarray, np.ndarray]:
        examples = [self.train[i] for i in range(min(len(self.train), MAX_TRAIN))]
        labels = np.array([e.get(sources.CLASS, -1) for e in examples])
        return np.stack([e["image"] for e in examples]), labels

    @property
    def train_images(self) -> np.ndarray:
        """All of them, or 100,000."""
        return self._train[0]

    @functools.cached_property
    def train_features(self) -> np.ndarray:
        """Of the training images, pooled."""
        return self.features(self.train_images, "training images").pooled

    @functools.cached_property
    def test_distances(self) -> np.ndarray:
        """Of the test images to the nearest training image, in features."""
        return quality.nearest(self.test_features.pooled, self.train_features)[0]

    @functools.cached_property
    def reference_features(self) -> np.ndarray:
        """Of the images that the reference keeps, pooled; for one that keeps some."""
        assert self.reference.images is not None
        return self.features(self.reference.images, "reference images").pooled

    @functools.cached_property
    def noise_features(self) -> Features:
        """Of images of uniform noise."""
        return self.features(noise((self.num, *self.experiment.space.picture)), "noise")

    @property
    def train_labels(self) -> np.ndarray:
        """Of the training examples that have one."""
        labels = self._train[1]
        return labels[labels >= 0]

    @functools.cached_property
    def mean_image(self) -> np.ndarray:
        """Of the training images, float64 [H, W, C]."""
        return self.train_images.mean(axis=0, dtype=np.float64)


def split(found: Features, num_parts: int) -> list[Features]:
    """Consecutive parts of features, all of one size."""
    parts = [num_parts * [None] if x is None else np.split(x, num_parts) for x in found]
    return [Features(*part) for part in zip(*parts, strict=True)]


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """Images of uniform noise, uint8, always the same ones."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def images(source: Any, most: int) -> np.ndarray:
    """The first images of a source, uint8 [N, H, W, C]."""
    return np.stack([source[i]["image"] for i in range(min(len(source), most))])
