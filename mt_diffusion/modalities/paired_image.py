"""The second image of a pair: another domain, a segmentation map, edges."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np

from mt_diffusion.data import pairs
from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files import images as files
from mt_diffusion.files.names import shown
from mt_diffusion.modalities.image import OutputHead, read_pixels
from mt_diffusion.modalities.kinds import Identity
from mt_diffusion.protocol import Code
from mt_diffusion.spaces.space import Space

LOOKED_AT = 1000  # examples, at most, to find one with a second image


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PairedImage(Identity):
    """x in its space; encoder: identity; head: the output block, Gaussian.

    num_groups: of the head.
    levels: ids in a mask, spread over all grey levels; 0 for pixels as they are.
    """

    num_groups: int
    levels: int
    space: Space

    @classmethod
    def fit(cls, fields, source):
        if not any("pair" in source[i] for i in range(min(len(source), LOOKED_AT))):
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
        return self.space.value(example, "pair") if "pair" in example else None

    def placeholder(self):
        return np.zeros(self.shape, np.float32)

    def read(self, text):
        if not self.levels:
            return self.space.encode(read_pixels(text, self.space.picture))
        masks = [self._read_mask(path) for path in finding.image_files(text)]
        return self.space.encode(np.stack(masks))

    def take(self, given):
        picture = self.space.picture
        if not self.levels:
            return self.space.encode(files.as_pixels(given, picture, self.name))
        ids = files.as_ids(given, picture, self.name)
        return self.space.encode(np.stack([self._spread(i, self.name) for i in ids]))

    def _read_mask(self, path: pathlib.Path) -> np.ndarray:
        return self._spread(files.read_exact_ids(path, self.space.picture), path)

    def _spread(self, ids: np.ndarray, what: str | pathlib.Path) -> np.ndarray:
        if ids.max() >= self.levels:
            raise UserError(
                f"{shown(what)} has the id {ids.max()}, but the masks that this model "
                f"was trained with have ids from 0 to {self.levels - 1}, which are "
                "spread over the grey levels as they are read. Give ids; a picture "
                "whose levels are spread already, as of a sample, has to go back to "
                "them."
            )
        return pairs.spread(ids, self.levels, self.space.picture)

    def postprocess(self, value):
        return self.space.decode(value)

    def show(self, item):
        return item

    def encode(self, value):
        return Code(latent=value, planes=value)

    def head(self):
        return OutputHead(self.shape, self.num_groups)

    def nll(self, prediction, value):
        return jnp.mean((prediction - value) ** 2, axis=(1, 2, 3))

    def log_likelihood(self, prediction, value):
        log_variance = 2 * jnp.log(self.std)
        mass = self.space.log_prob(value, prediction, log_variance)
        return jnp.sum(mass, axis=(1, 2, 3))

    def mean(self, prediction):
        return jnp.clip(prediction, -self.space.limit, self.space.limit)
