"""Clusters of images in place of labels, for data that nobody annotated.

A cluster is a discrete code of the image itself: it is drawn first, and the image
follows it. k-means of pixels, or of the features of any frozen encoder.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mt_diffusion.data import representers
from mt_diffusion.data.rows import spread
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build
from mt_diffusion.modalities.label import Codebook

MAX_FITTED = 10_000  # training examples that clusters are found in, at most
MAX_SIDE = 16  # of the shrunk image whose pixels are compared
PIXELS = "pixels"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cluster(Codebook):
    """The cluster of an example, among `num_clusters` of the training images.

    vectors: what is clustered, 'pixels' (of the image, shrunk), 'feature:NAME' (of the
    data set), or 'package.module:function' (a frozen encoder, uint8 [N, H, W, C] ->
    float [N, D]). centroids: [K, D], empty, for `fit` to fill.
    """

    num_clusters: int
    vectors: str
    centroids: Sequence[Sequence[float]]

    def __post_init__(self):
        """Refuses clusters that tell nothing apart."""
        super().__post_init__()
        field = f"config.modalities.{self.name}.num_clusters"
        build.check_least(field, self.num_clusters, 2)

    def check_new(self, of_unit, schedule):
        super().check_new(of_unit, schedule)
        self.representer_of(self.vectors)

    @property
    def num_classes(self):
        return len(self.class_names) or self.num_clusters

    @classmethod
    def fit(cls, fields: dict, source: Any) -> dict:
        if fields["centroids"]:
            return fields
        num = fields["num_clusters"]
        represent = cls.representer_of(fields["vectors"])
        examples = [source[i] for i in spread(len(source), MAX_FITTED)]
        found = [vector for vector in represent(examples) if vector is not None]
        if num > len(found):
            raise UserError(
                f"config.modalities...num_clusters is {num}, but clusters are found "
                f"among {len(found):,} training examples; use 2 to {len(found)}."
            )
        from sklearn.cluster import MiniBatchKMeans

        kmeans = MiniBatchKMeans(num, random_state=0, batch_size=4096, n_init=3)
        kmeans.fit(np.stack(found).astype(np.float64))
        rows = np.round(kmeans.cluster_centers_, 5).tolist()
        return fields | {
            "centroids": tuple(map(tuple, rows)),
            "class_names": tuple(f"cluster {i}" for i in range(num)),
        }

    @staticmethod
    def representer_of(vectors: str) -> representers.Representer:
        """Where the vectors come from."""
        return Shrunk() if vectors == PIXELS else representers.build(vectors, (), ())

    @functools.cached_property
    def _representer(self) -> representers.Representer:
        return self.representer_of(self.vectors)

    @functools.cached_property
    def _centroids(self) -> np.ndarray:
        return np.asarray(self.centroids, np.float64)

    def clusters_of(self, examples: Sequence[Any]) -> np.ndarray:
        """Clusters of examples, int [N]; -1 where an example has no vector."""
        return np.array([self._nearest(v) for v in self._representer(examples)])

    def _nearest(self, vector: np.ndarray | None) -> int:
        if vector is None:
            return -1
        return int(np.argmin(np.sum((self._centroids - vector) ** 2, axis=-1)))

    def preprocess(self, example, rng):
        (found,) = self.clusters_of([example])
        return None if found < 0 else self._one_hot([int(found)])[0]


class Shrunk(representers.OfImages):
    """The pixels of an image in [0, 1], averaged over squares to at most 16 x 16."""

    def represent(self, images: np.ndarray) -> np.ndarray:
        """[N, D] of images, uint8 [N, H, W, C]."""
        num, height, width, channels = images.shape
        by = -(-max(height, width) // MAX_SIDE)
        rest = ((0, 0), (0, -height % by), (0, -width % by), (0, 0))
        padded = np.pad(images / 255, rest, mode="edge")
        squares = padded.reshape(num, -(-height // by), by, -(-width // by), by, -1)
        return squares.mean(axis=(2, 4)).reshape(num, -1)
