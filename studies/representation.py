"""How well images and representations of digits belong together: scikit-learn alone.

python -m studies.representation write FOLDER        test images and their vectors
python -m studies.representation images SAMPLES.npz  images against their vectors
python -m studies.representation vectors SAMPLES.npz vectors read off given images

The judge represents images by its own 16 principal components of the training images,
each over its standard deviation there, as `configs/image_representation.py` does.
R@1 is the share of images whose nearest vector, of all in the file, is their own.
"""

import argparse
import pathlib

import numpy as np
import PIL.Image
from sklearn.decomposition import PCA

from studies.digits import load

NUM_COMPONENTS = 16


class Judge:
    """Principal components of the training images; vectors of unit variance."""

    def __init__(self):
        pixels = self._pixels(load("train")[0])
        self._pca = PCA(NUM_COMPONENTS, random_state=0).fit(pixels)
        self._std = self._pca.transform(pixels).std(axis=0)

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / 255

    def raw(self, images: np.ndarray) -> np.ndarray:
        """Images, uint8 [N, 8, 8] -> [N, 16], as files have them."""
        return self._pca.transform(self._pixels(images))

    def normalise(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of a file -> of unit variance in each dimension."""
        return vectors / self._std


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, M] of the rows of a and b."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean, [N, M]."""
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def recall(similarity: np.ndarray, vectors: np.ndarray) -> float:
    """Share of rows of [N, N] with the greatest entry at a vector equal to their own.

    A vector may stand in the file several times.
    """
    nearest = vectors[np.argmax(similarity, axis=1)]
    return float(np.mean(np.all(nearest == vectors, axis=1)))


def compare(queries: np.ndarray, vectors: np.ndarray) -> None:
    """Prints how well queries, normalised [N, 16], find their own vectors."""
    similarity = cosines(queries, vectors)
    num_vectors = len(np.unique(vectors, axis=0))
    own = np.diag(similarity)
    shuffled = similarity[np.arange(len(own)), np.roll(np.arange(len(own)), 1)]
    print(f"pairs, and different vectors           {len(queries)}, {num_vectors}")
    print(f"R@1, cosine                            {recall(similarity, vectors):.1%}")
    euclid = recall(-distances(queries, vectors), vectors)
    print(f"R@1, Euclidean distance                {euclid:.1%}")
    print(f"... by chance                          {1 / num_vectors:.2%}")
    print(f"cosine with the own vector             {own.mean():.3f}")
    print(f"... with another one's                 {shuffled.mean():.3f}")
    error = np.mean((queries - vectors) ** 2)
    print(f"mean squared error, of variance 1      {error:.3f}")


def write(folder: pathlib.Path) -> None:
    """Writes the test images as folder/images/*.png, and folder/vectors.npy."""
    images, _ = load("test")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / "images" / f"{i:04d}.png")
    np.save(folder / "vectors.npy", Judge().raw(images).astype(np.float32))
    print(f"wrote {len(images)} test images, and vectors.npy, to {folder}")


def images(samples: pathlib.Path) -> None:
    """Generated images against the vectors they were generated for, or with."""
    judge, (made, vectors) = Judge(), read(samples)
    compare(judge.normalise(judge.raw(made)), judge.normalise(vectors))


def vectors(samples: pathlib.Path) -> None:
    """Generated vectors against the true ones of the images they were read off."""
    judge, (given, made) = Judge(), read(samples)
    compare(judge.normalise(made), judge.normalise(judge.raw(given)))


def read(samples: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(images, vectors) of a file."""
    found = np.load(samples, allow_pickle=False)
    return found["image"][..., 0], found["representation"].astype(np.float64)


def main() -> None:
    """Runs the named part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"write": write, "images": images, "vectors": vectors}
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("path", type=pathlib.Path)
    args = parser.parse_args()
    parts[args.part](args.path)


if __name__ == "__main__":
    main()
