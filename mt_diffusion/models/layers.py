"""Blocks of the ADM U-Net (guided-diffusion), with ADM's parameter layout.

Submodules carry the names of guided-diffusion's state dict, dots as underscores, so
that `models/adm.py` can translate by name. Parameters and normalisation are float32;
`dtype` is that of all other arithmetic.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.errors import UserError
from mt_diffusion.models import patches
from mt_diffusion.models.attention import attention

Features = Float[Array, "b h w c"]
ZERO = nn.initializers.zeros_init()


def conv(features: int, name: str, dtype: Any, **options: Any) -> nn.Conv:
    """3x3 convolution with symmetric padding of one pixel, as PyTorch has it."""
    return nn.Conv(features, (3, 3), padding=1, name=name, dtype=dtype, **options)


class GroupNorm(nn.Module):
    """Group normalisation; means go over pixels first, over a group's channels last.

    Flax's reduces both at once, in rows as short as a group: on a CPU that takes up to
    eight times as long. The result is the same but for rounding. centred: whether the
    variance is of x less its mean, which takes longer: else a mean of a hundred
    deviations leaves it 3 of its 7 digits.
    """

    groups: int
    epsilon: float = 1e-5
    centred: bool = False

    @nn.compact
    def __call__(self, x: Features) -> Features:
        channels = x.shape[-1]
        if self.groups < 1 or channels % self.groups:
            raise UserError(
                f"{channels} channels can't be normalised in {self.groups} groups; "
                "change num_groups (of config.unet, or of the modality's head)."
            )
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", ZERO, (channels,))

        def over_groups(mean):
            grouped = mean.reshape(len(x), self.groups, -1).mean(axis=-1)
            return jnp.repeat(grouped, channels // self.groups, axis=-1)

        mean = over_groups(x.mean(axis=(1, 2)))
        if self.centred:
            off = jnp.square(x - mean[:, None, None])
            variance = over_groups(off.mean(axis=(1, 2)))
        else:
            mean_square = over_groups(jnp.square(x).mean(axis=(1, 2)))
            variance = jnp.maximum(mean_square - jnp.square(mean), 0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale[None]
        mean, factor = mean[:, None, None], factor[:, None, None]
        return (x - mean) * factor + bias[None, None, None]


class Norm(nn.Module):
    """ADM's GroupNorm32: in float32, whatever its input is; returns its dtype."""

    groups: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Features) -> Features:
        norm = GroupNorm(self.groups, self.epsilon, name="GroupNorm")
        return norm(x.astype(jnp.float32)).astype(x.dtype)


def downsample(x: Features) -> Features:
    """Mean over 2x2 pixels."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def upsample(x: Features) -> Features:
    """Each pixel becomes 2x2."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def same(x: Features) -> Features:
    """Neither down nor up."""
    return x


class TimeEmbedding(nn.Module):
    """Sinusoids of t followed by two dense layers; t [B] -> [B, features], float32."""

    sinusoids: int
    features: int

    @nn.compact
    def __call__(self, t: Float[Array, " b"]) -> Float[Array, "b d"]:
        half = self.sinusoids // 2
        frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / half)
        angle = t.astype(jnp.float32)[:, None] * frequencies[None]
        h = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        h = nn.Dense(self.features, name="time_embed_0")(h)
        return nn.Dense(self.features, name="time_embed_2")(nn.silu(h))


class ResBlock(nn.Module):
    """ADM's residual block; `resample` changes the resolution inside it (BigGAN).

    emb: of time; None for a block that does not depend on it.
    """

    features: int
    groups: int
    dropout: float
    scale_shift_norm: bool
    dtype: Any
    resample: Any = same

    @nn.compact
    def __call__(
        self, x: Features, emb: Float[Array, "b d"] | None, deterministic: bool
    ) -> Features:
        h = nn.silu(Norm(self.groups, name="in_layers_0")(x))
        h = conv(self.features, "in_layers_2", self.dtype)(self.resample(h))
        x = self.resample(x)
        norm = Norm(self.groups, name="out_layers_0")
        h = norm(h) if emb is None else self._norm_at(emb, norm, h)
        h = nn.Dropout(self.dropout)(nn.silu(h), deterministic)
        h = conv(self.features, "out_layers_3", self.dtype, kernel_init=ZERO)(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="skip_connection")(x)
        return x + h

    def _norm_at(self, emb, norm, h):
        width = self.features * (2 if self.scale_shift_norm else 1)
        emb = nn.Dense(width, dtype=self.dtype, name="emb_layers_1")(nn.silu(emb))
        emb = emb[:, None, None, :]
        if not self.scale_shift_norm:
            return norm(h + emb)
        scale, shift = jnp.split(emb, 2, axis=-1)
        return norm(h) * (1 + scale) + shift


class Resample(nn.Module):
    """ADM's plain resampling: a strided convolution, or nearest neighbour and one."""

    features: int
    up: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Features) -> Features:
        if self.up:
            return conv(self.features, "conv", self.dtype)(upsample(x))
        return conv(self.features, "op", self.dtype, strides=(2, 2))(x)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels.

    interleaved_heads: the layout of the fused projection's outputs in the checkpoint,
    [heads, 3, channels] (True; guided-diffusion's legacy order) or
    [3, heads, channels].
    """

    num_heads: int
    groups: int
    interleaved_heads: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Features) -> Features:
        b, height, width, c = x.shape
        h = Norm(self.groups, name="norm")(x).reshape(b, height * width, c)
        qkv = nn.Dense(3 * c, dtype=self.dtype, name="qkv")(h)
        if self.interleaved_heads:
            qkv = qkv.reshape(b, height * width, self.num_heads, 3, -1)
            q, k, v = jnp.unstack(qkv, axis=3)
        else:
            qkv = qkv.reshape(b, height * width, 3, self.num_heads, -1)
            q, k, v = jnp.unstack(qkv, axis=2)
        h = attention(q, k, v).reshape(x.shape)
        return x + nn.Dense(c, dtype=self.dtype, kernel_init=ZERO, name="proj_out")(h)


class CrossAttentionBlock(nn.Module):
    """Attention of all pixels to tokens [B, L, D].

    Its output projection does not start at zero: the shared-U-Net encoder runs under
    stop_gradient, so a code could otherwise never come to depend on its tokens.
    """

    num_heads: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Features, tokens: Float[Array, "b l d"]) -> Features:
        b, height, width, c = x.shape
        dense = functools.partial(nn.Dense, c, dtype=self.dtype)
        h = Norm(self.groups, name="norm")(x).reshape(b, height * width, c)
        q, k, v = (
            y.reshape(b, y.shape[1], self.num_heads, -1)
            for y in (
                dense(name="q")(h),
                dense(name="k")(tokens),
                dense(name="v")(tokens),
            )
        )
        h = attention(q, k, v).reshape(x.shape)
        return x + dense(name="proj_out")(h)


class AttentionPool(nn.Module):
    """ADM's and CLIP's pooling: the mean over pixels attends to itself and all pixels.

    Positions are learnt, so the resolution is fixed; float32, gives [B, outputs].
    """

    outputs: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "b k"]:
        b, height, width, c = x.shape
        h = x.reshape(b, height * width, c)
        h = jnp.concatenate([h.mean(axis=1, keepdims=True), h], axis=1)
        normal = nn.initializers.normal(c**-0.5)
        h += self.param("positional_embedding", normal, h.shape[1:])[None]
        qkv = nn.Dense(3 * c, name="qkv_proj")(h)
        qkv = qkv.reshape(b, h.shape[1], 3, self.num_heads, -1)
        q, k, v = jnp.unstack(qkv, axis=2)
        pooled = attention(q[:, :1], k, v).reshape(b, c)
        return nn.Dense(self.outputs, name="c_proj")(pooled)


class OutputBlock(nn.Module):
    """ADM's last block (norm, SiLU, zero convolution), in float32; heads copy it.

    features: of each pixel. patch: pixels in the side of what a place of h is of.
    """

    features: int
    groups: int
    patch: int

    @nn.compact
    def __call__(self, h: Features) -> Features:
        h = nn.silu(Norm(self.groups, name="out_0")(h.astype(jnp.float32)))
        num = self.features * self.patch**2
        h = conv(num, "out_2", jnp.float32, kernel_init=ZERO)(h)
        return patches.unfold(h, self.patch)


class PooledMLP(nn.Module):
    """Head M: one MLP on the pooled middle block, in float32; gives [B, outputs].

    Its last layer is called 'logits' whatever the outputs are: checkpoints know it so.
    """

    outputs: int
    width: int

    def __post_init__(self):
        """Refuses a width that is none."""
        super().__post_init__()
        if self.width < 1:
            raise UserError(
                f"the hidden layer of a head has a width of {self.width}; it must be 1 "
                "or more (head_width, or heads.M.width, of the modality)."
            )

    @nn.compact
    def __call__(self, features: Mapping[str, Features]) -> Float[Array, "b k"]:
        pooled = features["mid"].astype(jnp.float32).mean(axis=(1, 2))
        h = nn.silu(
            nn.Dense(self.width, name="hidden")(nn.LayerNorm(name="norm")(pooled))
        )
        return nn.Dense(self.outputs, name="logits")(h)
