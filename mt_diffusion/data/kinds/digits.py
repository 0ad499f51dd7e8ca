"""scikit-learn's digits."""

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import classes
from mt_diffusion.data.classes import CLASS
from mt_diffusion.data.splits import holdout
from mt_diffusion.files import images as files


class Digits:
    """scikit-learn's 1,797 real 8x8 digits, part of its wheel."""

    def __init__(self, config: ConfigDict, split: str):
        """Reads no field but the shape of the images."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        found = [str(name) for name in digits.target_names]
        self.class_names = classes.in_order(found, config)
        keep = holdout(len(digits.images), split)
        levels = np.round(digits.images[keep] * (255 / 16)).astype(np.uint8)
        shape = (config.image_size, config.image_size, config.channels)
        self.images = [files.resize(image[..., None], shape) for image in levels]
        self.labels = np.asarray(classes.table(found, self.class_names))[
            digits.target[keep]
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], CLASS: int(self.labels[i])}
