"""The second image of a pair: another domain, a segmentation map, edges."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from mt_diffusion.diffusion import likelihood
from mt_diffusion.errors import UserError
from mt_diffusion.modalities.base import Code, Gaussian
from mt_diffusion.modalities.image import OutputHead, read_images, to_uint8, to_unit

LOOKED_AT = 1000  # examples, at most, to find one with a second image


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairedImage(Gaussian):
    """x [H, W, C] in [-1, 1]; encoder: identity; head: the output block, Gaussian.

    num_groups: of the head.
    """

    num_groups: int

    @classmethod
    def fit(cls, fields, source):
        looked_at = range(min(len(source), LOOKED_AT))
        if not any("pair" in source[i] for i in looked_at):
            raise UserError(
                "the data has no second images, so it can't train a pair of them; say "
                "with --config.data.pair how they are had, such as left_right (halves "
                "of each file), folders (a second folder) or edges (of the image)."
            )
        return fields

    @property
    def num_planes(self):
        return self.shape[-1] if self.conditions else 0

    def preprocess(self, example, rng):
        return to_unit(example["pair"]) if "pair" in example else None

    def placeholder(self):
        return np.zeros(self.shape, np.float32)

    def read(self, text):
        return read_images(text, self.shape)

    def postprocess(self, value):
        return to_uint8(value)

    def show(self, item):
        return item

    def encode(self, value):
        return Code(latent=value, planes=value)

    def head(self):
        return OutputHead(self.shape[-1], self.num_groups)

    def nll(self, prediction, value):
        return jnp.mean((prediction - value) ** 2, axis=(1, 2, 3))

    def log_likelihood(self, prediction, value):
        log_variance = 2 * jnp.log(self.std)
        mass = likelihood.discretised(value, prediction, log_variance)
        return jnp.sum(mass, axis=(1, 2, 3))

    def mean(self, prediction):
        return jnp.clip(prediction, -1, 1)
