"""Vectors: their head, their likelihood, their tokens, and a linear code with evidence.

What is common to all whose value has D numbers, wherever these come from.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.diffusion import likelihood
from mt_diffusion.modalities import codes, evidence, tokens
from mt_diffusion.modalities.kinds import Coded, Gaussian
from mt_diffusion.models.layers import PooledMLP
from mt_diffusion.protocol import Code, Evidence, is_evident

LEAST_VARIANCE = 1e-6  # of a vector that is read off its code


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vector(Coded, Gaussian):
    """A vector x [D] of about unit variance; head: one MLP on the pooled middle block.

    A prediction is [B, D], Gaussian, or [B, D + 1] with kappa, how much of the prior's
    variance the code takes away (see `combine`).

    head_width: of the head's MLP.
    """

    head_width: int

    @property
    def size(self) -> int:
        """D; 0 where the data have yet to say it."""
        raise NotImplementedError

    def head(self):
        return PooledMLP(self.size, self.head_width)

    @property
    def scale(self):
        return math.sqrt(self.energy * self.size / math.prod(self.shape))

    @property
    def num_read_together(self):
        # By evidence each by itself, by a network the whole code.
        return 1 if is_evident(self) else self.size

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


class Projected(Vector):
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
