"""A fixed representation of the image: a vector [D] of PCA, CLIP or any encoder.

Values are normalised: (vector - mean) / std in each dimension, of the training set, so
that codes of unit RMS stand for vectors. Three encoders, two of them the paper's.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.data import representers
from mt_diffusion.data.representers import Representer
from mt_diffusion.diffusion import likelihood
from mt_diffusion.errors import UserError
from mt_diffusion.files import finding, vectors
from mt_diffusion.files import images as files
from mt_diffusion.modalities import codes, evidence, tokens
from mt_diffusion.modalities.kinds import Coded, Gaussian
from mt_diffusion.models.layers import PooledMLP
from mt_diffusion.protocol import Code, Evidence

LEAST_VARIANCE = 1e-6  # of a vector that is read off its code
BRIGHTEST = 3.0  # standard deviations that have the strongest colour


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Representation(Coded, Gaussian):
    """A vector x; head: one MLP on the pooled middle block, Gaussian.

    A prediction is [B, D], or [B, D + 1] with kappa, how much of the prior's variance
    the code takes away (see `combine`).

    vectors: where they come from; 'pca' (of the training images, num_components),
    'feature:NAME' (of the data set), or 'package.module:function' (a frozen encoder,
    uint8 [N, H, W, C] -> float [N, D]).
    components, pixel_mean, vector_mean, vector_std: empty, for `fit` to fill.
    head_width: of the head's MLP. generator: of Pretrained alone.
    """

    vectors: str
    num_components: int
    components: Sequence[Sequence[float]]
    pixel_mean: Sequence[float]
    vector_mean: Sequence[float]
    vector_std: Sequence[float]
    head_width: int
    generator: str

    @classmethod
    def fit(cls, fields, source):
        if fields["vector_mean"]:
            return fields
        way = fields["vectors"], fields["num_components"]
        return fields | representers.fit(source, *way)

    @classmethod
    def named_code(cls, fields):
        module = representers.module_of(fields["vectors"])
        return {"vectors": module} if module else {}

    @property
    def size(self) -> int:
        """D."""
        return len(self.vector_mean)

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
        path = pathlib.Path(text).expanduser()
        if path.suffix in (".npy", ".npz"):
            found = vectors.read(path, self.name)
            vectors.check_finite(found, path)
        else:
            paths = finding.image_files(text)
            images = np.stack([files.read_image(p, self.shape) for p in paths])
            found = self.representer.represent(images)
        return self.normalise(np.asarray(found))

    def take(self, given):
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

    def head(self):
        return PooledMLP(self.size, self.head_width)

    @classmethod
    def energy_of(cls, scale, fields, numbers):
        size = len(fields["vector_mean"]) or fields["num_components"]
        return super().energy_of(scale, fields, numbers) / size

    @property
    def scale(self):
        return math.sqrt(self.energy * self.size / math.prod(self.shape))

    def _split(self, prediction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean [B, D], and the variance around it, [B, 1]."""
        mean, kappa = prediction[:, : self.size], prediction[:, self.size :]
        if not kappa.size:
            return mean, jnp.full_like(mean[:, :1], self.std**2)
        left = self.std**2 * (1 - kappa) / self._precision(kappa)
        return mean, jnp.maximum(left, LEAST_VARIANCE)

    def _precision(self, kappa: jax.Array) -> jax.Array:
        """That of code and features together, times std^2 (1 - kappa)."""
        return 1 - kappa + kappa * self.std**2

    def nll(self, prediction, value):
        mean, _ = self._split(prediction)
        return jnp.mean((mean - value) ** 2, axis=-1)

    def log_likelihood(self, prediction, value):
        mean, variance = self._split(prediction)
        log_variance = jnp.broadcast_to(jnp.log(variance), mean.shape)
        return jnp.sum(likelihood.gaussian(value, mean, log_variance), axis=-1)

    def mean(self, prediction):
        return self._split(prediction)[0]

    def draw(self, keys, prediction):
        mean, variance = self._split(prediction)
        noise = jax.vmap(lambda key: jax.random.normal(key, (self.size,)))(keys)
        return mean + jnp.sqrt(variance) * noise

    @property
    def num_tokens(self) -> int:
        """L: as many as hold D numbers."""
        return math.ceil(self.size / self.tokens["size"])

    @property
    def token_shape(self):
        shape = (self.num_tokens, self.tokens["size"])
        return shape if self.conditions else None

    def as_tokens(self, value: jax.Array) -> jax.Array:
        """[B, L, D of a token]: an isometry of the value, of its RMS."""
        room = self.num_tokens * self.tokens["size"]
        seed = tokens.seed_of(self.tokens, self.name)
        table = tokens.isometry(self.size, room, seed)
        flat = value @ jnp.asarray(table, value.dtype)
        return flat.reshape(-1, self.num_tokens, self.tokens["size"])


class Projection(Representation):
    """A fixed isometry into the diffusion space: images of the value's RMS."""

    tables = ("images",)
    has_evidence = True

    def __post_init__(self):
        """Refuses vectors that the diffusion space has no room for."""
        super().__post_init__()
        codes.check(self.codes, self.size, self.shape, self.name)

    @property
    def num_codes(self):
        return self.size

    @functools.cached_property
    def images(self) -> np.ndarray:
        """What a unit of each dimension adds, [D, H, W, C], orthogonal."""
        if self.codes["version"] == 0:
            table = tokens.isometry(self.size, math.prod(self.shape))
            return table.reshape(self.size, *self.shape).astype(np.float32)
        return (self.make_codes() / math.sqrt(self.size)).astype(np.float32)

    def _project(self, vectors: jax.Array) -> jax.Array:
        table = jnp.asarray(self.images, vectors.dtype).reshape(self.size, -1)
        return (vectors @ table).reshape(-1, *self.shape)

    def encode(self, value):
        return Code(latent=self._project(value), tokens=self.as_tokens(value))

    def measure(self, values, sources):
        return {"measured": evidence.measure(self.images, sources)}

    @property
    def evidence_size(self):
        return self.size + 2

    def evidence(self, y_t, level):
        mean, variance = evidence.leaked(self.measured, level)
        length = math.sqrt(math.prod(self.shape) / self.size)  # of each of `images`
        strength = level.drifts[self.name] * length
        unit_rms = jnp.asarray(self.images, y_t.dtype) * math.sqrt(self.size)
        seen = evidence.along(y_t, unit_rms)
        absent = self.measured["absent"]
        found = evidence.of_vector(seen - mean, strength, variance, absent)
        value, kappa, none = map(jax.lax.stop_gradient, found)
        return self._evidence(value, kappa, none, self._project(value))

    def certain(self, value, latent):
        ones = jnp.ones_like(value[:, 0])
        return self._evidence(value, ones, 0 * ones, latent)

    def _evidence(self, value, kappa, none, latent) -> Evidence:
        here = (1 - none)[:, None]
        vector = [here * value, here * kappa[:, None], none[:, None]]
        gain = jnp.concatenate([here * value, here * kappa[:, None]], axis=-1)
        shown = latent * here[..., None, None]
        return Evidence(shown, jnp.concatenate(vector, axis=-1), gain)

    def combine(self, prediction, gain):
        # method.md, eq. 17.
        # Two measurements of x: the features', of variance std^2, and the code's, whose
        # posterior mean `value` shrinks by kappa towards the mean 0 of all vectors.
        value, kappa = gain[:, :-1], gain[:, -1:]
        mean = (1 - kappa) * prediction + self.std**2 * value
        return jnp.concatenate([mean / self._precision(kappa), kappa], axis=-1)


class SharedUNet(Representation):
    """The paper's encoder: the shared U-Net itself, reading the vector's tokens."""

    @property
    def token_shape(self):
        return (self.num_tokens, self.tokens["size"])

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
        representers.check_generator(*way, self.size, self.shape)

    @functools.cached_property
    def generate(self) -> Callable[[jax.Array], jax.Array]:
        """The generator."""
        return representers.find_function(self.generator)

    def encode(self, value):
        mean, std = (jnp.asarray(x, value.dtype) for x in self._statistics)
        latent = self.generate(value * std[None] + mean[None])
        return Code(latent=latent.astype(value.dtype), tokens=self.as_tokens(value))
