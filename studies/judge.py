"""A judge of images and labels that shares no code with `--mode=evaluate`."""

import pathlib

import numpy as np
from sklearn.decomposition import PCA
from sklearn.svm import SVC

from configs import common
from mt_diffusion.data import sources
from studies.digits import frechet_distance

NUM_DRAWN, NUM_REAL = 1000, 10_000
DATA = {"source": "tfds", "name": "fashion_mnist"}


class Judge:
    """A support vector machine and principal components of real images."""

    def __init__(self, data_dir: str, image_size: int):
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
        self.floor = self._distance(train[:NUM_DRAWN])

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
