"""scikit-learn's digits."""

import importlib.util
import pathlib

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import classes
from mt_diffusion.data.classes import CLASS
from mt_diffusion.data.splits import holdout
from mt_diffusion.files import images as files

# Of scikit-learn, whose own reader takes a second to import.
TABLE = "datasets/data/digits.csv.gz"


def load() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 8, 8] of 0 to 16, and which digit each is, [1797]."""
    spec = importlib.util.find_spec("sklearn")
    table = pathlib.Path(spec.origin if spec and spec.origin else "").parent / TABLE
    if not table.is_file():  # of a release that keeps it elsewhere
        from sklearn.datasets import load_digits

        return load_digits().images, load_digits().target
    rows = np.loadtxt(table, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)


class Digits:
    """scikit-learn's 1,797 real 8x8 digits, part of its wheel."""

    def __init__(self, config: ConfigDict, split: str):
        """Reads no field but the shape of the images."""
        images, targets = load()
        found = [str(name) for name in range(10)]
        self.class_names = classes.in_order(found, config)
        keep = holdout(len(images), split)
        levels = np.round(images[keep] * (255 / 16)).astype(np.uint8)
        shape = (config.image_size, config.image_size, config.channels)
        self.images = [files.resize(image[..., None], shape) for image in levels]
        self.labels = np.asarray(classes.table(found, self.class_names))[targets[keep]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], CLASS: int(self.labels[i])}
