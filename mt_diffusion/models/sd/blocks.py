"""Stable Diffusion's attention of pixels, with its parameter layout (Rombach et al.).

Its U-Net is ADM's but for this block, which stands where ADM attends: one network with
another block. Submodules carry the names of the original state dict, as in layers.py.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.models import layers
from mt_diffusion.models.layers import Features

Tokens = Float[Array, "b l d"]
EPSILON = 1e-6  # of the norm before a transformer; of all others 1e-5


class SpatialTransformer(nn.Module):
    """Pixels through `depth` blocks, which also attend to tokens where there are any.

    Its output projection does not start at zero, for the reason that
    layers.CrossAttentionBlock has.
    """

    num_heads: int
    groups: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Features, tokens: Tokens | None) -> Features:
        b, height, width, c = x.shape
        dense = functools.partial(nn.Dense, c, dtype=self.dtype)
        h = layers.Norm(self.groups, EPSILON, name="norm")(x)
        h = dense(name="proj_in")(h.reshape(b, height * width, c))
        for i in range(self.depth):
            name = f"transformer_blocks_{i}"
            h = TransformerBlock(self.num_heads, self.dtype, name=name)(h, tokens)
        return x + dense(name="proj_out")(h).reshape(x.shape)


class TransformerBlock(nn.Module):
    """Attention among themselves, attention to tokens, a gated layer; each added."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Tokens, tokens: Tokens | None) -> Tokens:
        norm = functools.partial(
            nn.LayerNorm, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False
        )
        h = norm(name="norm1")(x)
        x = x + Attention(self.num_heads, self.dtype, name="attn1")(h, h)
        if tokens is not None:
            h = norm(name="norm2")(x)
            x = x + Attention(self.num_heads, self.dtype, name="attn2")(h, tokens)
        return x + FeedForward(self.dtype, name="ff")(norm(name="norm3")(x))


class Attention(nn.Module):
    """Attention of x to others, in as many numbers as x has."""

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Tokens, others: Tokens) -> Tokens:
        dense = functools.partial(nn.Dense, x.shape[-1], dtype=self.dtype)
        q, k, v = (
            y.reshape(*y.shape[:2], self.num_heads, -1)
            for y in (
                dense(use_bias=False, name="to_q")(x),
                dense(use_bias=False, name="to_k")(others),
                dense(use_bias=False, name="to_v")(others),
            )
        )
        return dense(name="to_out_0")(layers.attention(q, k, v).reshape(x.shape))


class FeedForward(nn.Module):
    """A layer four times as wide, gated by another (GEGLU, Shazeer 2020), and back."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        width = x.shape[-1]
        h = Gated(4 * width, self.dtype, name="net_0")(x)
        return nn.Dense(width, dtype=self.dtype, name="net_2")(h)


class Gated(nn.Module):
    """GEGLU."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        both = nn.Dense(2 * self.features, dtype=self.dtype, name="proj")(x)
        h, gate = jnp.split(both, 2, axis=-1)
        return h * jax.nn.gelu(gate, approximate=False)
