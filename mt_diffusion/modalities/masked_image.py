"""The same image with some patches hidden: masked-image training and restoration.

A value is [H, W, C + 1]: the image in its space, pixels in [-1, 1] or latents, hidden
ones at 0, and a last plane that is 1 where it is seen. What the head predicts is the
masked image; a generated value has no plane of its own and claims to see nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files import images as files
from mt_diffusion.modalities.image import OutputHead
from mt_diffusion.modalities.kinds import Identity
from mt_diffusion.protocol import Code, Known
from mt_diffusion.spaces.space import Space


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MaskedImage(Identity):
    """x = image * mask; encoder: identity; head: the output block, Gaussian.

    max_patches: m ~ Uniform{0..max_patches} patches are hidden, overlaps allowed.
    patches_per_side: how many patches would fill a side. num_groups: of the head.
    A bound treats the mask as known.
    """

    max_patches: int
    patches_per_side: int
    num_groups: int
    space: Space

    def __post_init__(self):
        """Refuses an image that the patches do not divide."""
        super().__post_init__()
        size, number = self.shape[0], self.patches_per_side
        if number < 1 or size % number or self.max_patches < 0:
            raise UserError(
                f"images of size {size} can't be masked by up to {self.max_patches} "
                f"patches of a {number}th of their side; choose a "
                f"config.data.image_size divisible by patches_per_side = {number}, and "
                "max_patches of 0 or more."
            )

    @property
    def _patch(self) -> int:
        return self.shape[0] // self.patches_per_side

    @property
    def num_planes(self):
        return self.shape[-1] + 1 if self.conditions else 0

    def preprocess(self, example, rng):
        num_patches = int(rng.integers(self.max_patches + 1))
        mask = self.draw_mask(num_patches, rng)[None]
        # Hidden first, and then encoded: latents of the whole image would tell.
        seen = self.space.seen(mask)
        return self.hide(*self.space.masked(example["image"][None], seen))[0]

    def draw_mask(self, num_patches: int, rng: np.random.Generator) -> np.ndarray:
        """1 where a value is seen; num_patches at uniform places are not. [H, W, 1]."""
        mask = np.ones((*self.shape[:2], 1), np.float32)
        corners = rng.integers(self.shape[0] - self._patch + 1, size=(num_patches, 2))
        for row, column in corners:
            mask[row : row + self._patch, column : column + self._patch] = 0
        return mask

    def hide(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The value [..., H, W, C + 1] of an image in its space under a mask."""
        return np.concatenate([image * mask, mask], axis=-1)

    def placeholder(self):
        return np.zeros((*self.shape[:2], self.shape[2] + 1), np.float32)

    def read(self, text):
        values = []
        for path in finding.image_files(text):
            image, mask = files.read_masked(path, self.space.picture)
            values.append((image, mask))
        images, masks = map(np.stack, zip(*values, strict=True))
        return self.hide(*self.space.masked(images, masks))

    def take(self, given):
        # (images, seen): True, or a number above 0, where a pixel is seen; or images
        # with an alpha channel, as files have it.
        picture = self.space.picture
        if isinstance(given, tuple) and len(given) == 2:
            pixels = files.as_pixels(given[0], picture, self.name)
            seen = np.asarray(given[1]) > 0
            seen = seen[..., None] if seen.shape[-2:] == picture[:2] else seen
        else:
            both = files.as_pixels(given, picture, self.name, (picture[-1] + 1,))
            pixels, seen = both[..., :-1], both[..., -1:] > 0
        mask = np.broadcast_to(seen, (*pixels.shape[:3], 1)).astype(np.float32)
        return self.hide(*self.space.masked(pixels, mask))

    def postprocess(self, value):
        return self.space.decode(value[..., :-1], value[..., -1:])

    def show(self, item):
        return item

    def between(self, a, b, shares):
        if not np.array_equal(a[..., -1], b[..., -1]):
            raise UserError(
                f"two values of {self.name} hide different pixels, and between a pixel "
                "that is hidden and one that is seen there is none: hide the same."
            )
        return super().between(a, b, shares)

    def known(self, value):
        return Known(value[..., :-1], value[..., -1:])

    def encode(self, value):
        return Code(latent=value[..., :-1], planes=value)

    def head(self):
        return OutputHead(self.shape, self.num_groups)

    def nll(self, prediction, value):
        return jnp.mean((prediction - value[..., :-1]) ** 2, axis=(1, 2, 3))

    def log_likelihood(self, prediction, value):
        # Of the seen pixels: given the mask, the hidden ones are certain.
        log_variance = 2 * jnp.log(self.std)
        mass = self.space.log_prob(value[..., :-1], prediction, log_variance)
        return jnp.sum(mass * value[..., -1:], axis=(1, 2, 3))

    def _counts(self, value):
        return value[..., -1:]

    def comparable(self, value):
        return value[..., :-1]

    def mean(self, prediction):
        return self._unseen(jnp.clip(prediction, -self.space.limit, self.space.limit))

    def draw(self, keys, prediction):
        return self._unseen(super().draw(keys, prediction)[..., :-1])

    def _unseen(self, pixels: jax.Array) -> jax.Array:
        """A value that claims to see nothing."""
        return jnp.concatenate([pixels, jnp.zeros_like(pixels[..., :1])], axis=-1)
