"""A fixed representation of the image: a vector [D] of PCA, CLIP or any encoder.

Values are normalised: (vector - mean) / std in each dimension, of the training set, so
that codes of unit RMS stand for vectors. Three encoders, two of them the paper's.

Where the vectors are those of images by a CLIP, words can be given as well. CLIP's
vectors of words lie elsewhere than those of images (Liang et al. 2022), so their mean
is moved to that of images, which are what the network has seen.
"""

import dataclasses
import functools
import math
import os
import pathlib
import types
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.data import representers, views
from mt_diffusion.data.representers import Representer
from mt_diffusion.errors import UserError
from mt_diffusion.files import captions, finding, vectors
from mt_diffusion.files import images as files
from mt_diffusion.files.names import shown
from mt_diffusion.modalities import build, words
from mt_diffusion.modalities.vector import Projected, Vector
from mt_diffusion.models import sentences
from mt_diffusion.models.clip import saved
from mt_diffusion.models.clip.images import Images
from mt_diffusion.protocol import Code
from mt_diffusion.spaces.space import Space

BRIGHTEST = 3.0  # standard deviations that have the strongest colour


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Representation(Vector):
    """A vector x of the image or of the data set.

    vectors: where they come from; 'pca' (of the training images, num_components),
    'feature:NAME' (of the data set; num_components is D for --mode=preflight without
    it), or 'package.module:function' (a frozen encoder, uint8 [N, H, W, C] -> float
    [N, D]).
    components, pixel_mean, vector_mean, vector_std: empty, for `fit` to fill.
    clip: the folder of the CLIP that the vectors are of, by which images and words are
    represented that are given; '' for none. gap: what is added to a vector of words,
    one of GAPS. text_mean (of the training captions by that CLIP), clip_digest (of its
    texts) and clip_images_digest ('' where it reads none): empty, for `fit` to fill.
    generator: of Pretrained alone. space: that images are in.
    """

    vectors: str
    num_components: int
    components: Sequence[Sequence[float]]
    pixel_mean: Sequence[float]
    vector_mean: Sequence[float]
    vector_std: Sequence[float]
    clip: str
    clip_digest: str
    clip_images_digest: str
    gap: str
    text_mean: Sequence[float]
    generator: str
    space: Space

    encoders = types.MappingProxyType({"clip": "clip_digest"})
    added = types.MappingProxyType(
        {"clip": "", "clip_digest": "", "clip_images_digest": ""}
        | {"gap": "shift", "text_mean": ()}
    )

    def __post_init__(self):
        """Refuses what is no way over the gap, and vectors of no numbers."""
        super().__post_init__()
        if self.vectors == representers.PCA:
            field = f"config.modalities.{self.name}.num_components"
            build.check_least(field, self.num_components, 1)
        if self.gap not in GAPS:
            raise UserError(
                f"config.modalities.{self.name}.gap is {self.gap!r}; choose one of "
                f"{list(GAPS)}."
            )

    def check_new(self, of_unit, schedule):
        super().check_new(of_unit, schedule)
        representers.build(self.vectors, (), ())
        if self.clip and not self.vector_mean:
            sentences.find(self.clip)

    @classmethod
    def fit(cls, fields, source):
        if fields["vector_mean"]:
            return fields
        way = fields["vectors"], fields["num_components"]
        fields = fields | representers.fit(source, *way)
        if not fields["clip"]:
            return fields
        encoder = sentences.find(fields["clip"])
        size = len(fields["vector_mean"])
        sentences.check_size(fields["clip"], encoder.size, size)
        fields["clip_digest"] = encoder.digest
        folder = pathlib.Path(fields["clip"]).expanduser()
        if saved.has(folder, saved.VISION):
            fields["clip_images_digest"] = Images(folder).digest
        if getattr(source, views.CAPTIONS, None):
            known = words.known(source, views.CAPTION)
            mean = sentences.cached(encoder, known, 0).pooled.mean(axis=0)
            fields["text_mean"] = tuple(mean.tolist())
        return fields

    @classmethod
    def stand_in(cls, fields):
        if not fields["vectors"].startswith(representers.FEATURE):
            return {}  # for they are made of images, of noise as well
        num = fields["num_components"]
        return {"vector_mean": (0.0,) * num, "vector_std": (1.0,) * num}

    @classmethod
    def named_code(cls, fields):
        module = representers.module_of(fields["vectors"])
        return {"vectors": module} if module else {}

    @property
    def size(self) -> int:
        of_pca = self.num_components if self.vectors == representers.PCA else 0
        return len(self.vector_mean) or of_pca

    @functools.cached_property
    def representer(self) -> Representer:
        """Where the vectors come from."""
        return representers.build(self.vectors, self.components, self.pixel_mean)

    @functools.cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.vector_mean), np.asarray(self.vector_std)

    def normalise(self, found: np.ndarray) -> np.ndarray:
        """Vectors [..., D] -> values. Raises UserError for another D."""
        mean, std = self._statistics
        if found.shape[-1] != self.size:
            raise UserError(
                f"config.modalities.{self.name} has vectors of {self.size} numbers, "
                f"but there is one of {found.shape[-1]}; make all by the same encoder."
            )
        return ((found - mean) / std).astype(np.float32)

    def preprocess(self, example, rng):
        (found,) = self.representer([example])
        return None if found is None else self.normalise(found)

    def placeholder(self):
        return np.zeros(self.size, np.float32)

    def read(self, text):
        path = pathlib.Path(os.path.expanduser(text))  # words may begin with ~
        if path.suffix in (".npy", ".npz"):
            found = vectors.read(path, self.name)
            vectors.check_finite(found, path)
        elif self.clip and captions.is_list(path):
            return self.of_words(captions.lines(path))
        elif self.clip and not (
            os.path.exists(path) or path.suffix in finding.SUFFIXES
        ):
            return self.of_words([text])
        else:
            found = self._of_images(text)
        return self.normalise(np.asarray(found))

    def _of_images(self, text: str) -> np.ndarray:
        paths = finding.image_files(text)
        represent: Callable[[np.ndarray], np.ndarray] = self.representer.represent
        if self.clip:
            sentences.check_named(self.clip, f"{self.name}.clip")
            represent = encoder = Images(pathlib.Path(self.clip).expanduser())
            # Of an earlier version, which had none, it is taken as it is.
            self._check_clip(self.clip_images_digest or encoder.digest, encoder.digest)
        # Of the data's size first, as those of training, for any encoder.
        images = [files.read_image(p, self.space.picture) for p in paths]
        return represent(np.stack(images))

    def of_words(self, texts: Sequence[str]) -> np.ndarray:
        """Values of texts by the CLIP, over the gap to those of images."""
        sentences.check_named(self.clip, f"{self.name}.clip")
        encoder = sentences.find(self.clip)
        self._check_clip(self.clip_digest, encoder.digest)
        found = encoder(texts, 0).pooled
        return self.normalise(found + GAPS[self.gap](self))

    def _check_clip(self, before: str, now: str) -> None:
        """Raises UserError for another one than that of training."""
        if before != now:
            raise UserError(
                f"config.modalities.{self.name}.clip = {shown(self.clip)!r} is not the "
                f"CLIP that this model was trained with ({before}, not {now}); put "
                "that one there."
            )

    def shift(self) -> np.ndarray:
        """From the mean of words to that of images, [D]; UserError without words."""
        if not self.text_mean:
            raise UserError(
                f"{self.name} can't be given as words: this model was trained without "
                "captions (config.data.captions), so where its CLIP has words and "
                f"images is not known; config.modalities.{self.name}.gap = 'none' "
                "takes them as they are."
            )
        return np.asarray(self.vector_mean) - np.asarray(self.text_mean)

    def take(self, given):
        if self.clip and isinstance(given, str):
            return self.of_words([given])
        is_list = isinstance(given, list | tuple) and len(given)
        if self.clip and is_list and all(isinstance(text, str) for text in given):
            return self.of_words(given)
        found = np.asarray(given, np.float32)
        found = found[None] if found.ndim == 1 else found
        if found.ndim != 2 or found.shape[1] != self.size:
            raise UserError(
                f"{self.name} has the shape {np.shape(given)}; this model takes "
                f"vectors of {self.size} numbers, one or several."
            )
        vectors.check_finite(found, self.name)
        return self.normalise(found)

    def postprocess(self, value):
        mean, std = self._statistics
        return (value * std + mean).astype(np.float32)

    def show(self, item):
        """A square of cells, row by row: blue below the mean, red above it."""
        side = math.ceil(math.sqrt(self.size))
        cells = np.zeros(side * side)
        cells[: self.size] = np.clip(self.normalise(item) / BRIGHTEST, -1, 1)
        rgb = 1 - np.stack([np.maximum(-cells, 0), abs(cells), np.maximum(cells, 0)])
        return np.round(255 * rgb.T).astype(np.uint8).reshape(side, side, 3)

    @classmethod
    def energy_of(cls, scale, fields, numbers):
        size = len(fields["vector_mean"]) or fields["num_components"]
        return super().energy_of(scale, fields, numbers) / size


GAPS: dict[str, Callable[[Representation], np.ndarray | float]] = {
    "shift": Representation.shift,
    "none": lambda _: 0.0,
}


class Projection(Projected, Representation):
    """Its code is a fixed isometry into the diffusion space."""


class SharedUNet(Representation):
    """The paper's encoder: the shared U-Net itself, reading the vector's tokens."""

    @property
    def token_shape(self):
        return (self.num_tokens, self.tokens["size"])

    def check_new(self, of_unit, schedule):
        super().check_new(of_unit, schedule)
        self.check_loud()

    def encode(self, value):
        return Code(tokens=self.as_tokens(value))


class Pretrained(Representation):
    """A frozen generator, 'package.module:function': vectors [B, D] -> [B, H, W, C].

    The function is traced by JAX; it gets the vectors as they are, not normalised, and
    its parameters become constants of the compiled program.
    """

    @classmethod
    def named_code(cls, fields):
        module = fields["generator"].partition(":")[0]
        return super().named_code(fields) | {"generator": module}

    def __post_init__(self):
        """Refuses a generator that is not there, or makes other shapes."""
        super().__post_init__()
        way = self.generator, self.generate
        if self.size:  # which only the data may know
            representers.check_generator(*way, self.size, self.shape)

    @functools.cached_property
    def generate(self) -> Callable[[jax.Array], jax.Array]:
        """The generator."""
        return representers.find_function(self.generator)

    def encode(self, value):
        mean, std = (jnp.asarray(x, value.dtype) for x in self._statistics)
        latent = self.generate(value * std[None] + mean[None])
        return Code(latent=latent.astype(value.dtype), tokens=self.as_tokens(value))
