"""Stable Diffusion's autoencoder, AutoencoderKL, with diffusers' parameter layout.

Rombach et al. 2022. Submodules carry the names of diffusers' state dict, dots as
underscores, so that `layout.py` translates by name. All arithmetic is float32.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.models.layers import Features, GroupNorm, upsample

PRECISION = jax.lax.Precision.HIGHEST  # for a TPU's single pass of bfloat16 is coarse
LOG_VARIANCES = (-30.0, 20.0)  # to which diffusers clips

Conv = functools.partial(nn.Conv, precision=PRECISION)
Dense = functools.partial(nn.Dense, precision=PRECISION)
Norm = functools.partial(GroupNorm, epsilon=1e-6, centred=True)


class Form(NamedTuple):
    """What its config says of the architecture, by diffusers' names."""

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    use_quant_conv: bool
    use_post_quant_conv: bool
    mid_block_add_attention: bool

    @property
    def factor(self) -> int:
        """Pixels on a side of a latent's cell."""
        return 2 ** (len(self.block_out_channels) - 1)


class Moments(NamedTuple):
    """The Gaussian of an image's latents, as the encoder has it, unscaled."""

    mean: Float[Array, "b h w c"]
    std: Float[Array, "b h w c"]


class Resnet(nn.Module):
    """Two convolutions, each after a norm, beside a way around them."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        h = nn.silu(Norm(self.groups, name="norm1")(x))
        h = Conv(self.features, (3, 3), padding=1, name="conv1")(h)
        h = nn.silu(Norm(self.groups, name="norm2")(h))
        h = Conv(self.features, (3, 3), padding=1, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1), name="conv_shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over all pixels, with one head."""

    groups: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        b, height, width, c = x.shape
        h = Norm(self.groups, name="group_norm")(x)
        h = h.reshape(b, height * width, c)
        q, k, v = (Dense(c, name=name)(h) for name in ("to_q", "to_k", "to_v"))
        logits = jnp.einsum("bqc,bkc->bqk", q, k, precision=PRECISION)
        shares = jax.nn.softmax(logits * c**-0.5)
        h = jnp.einsum("bqk,bkc->bqc", shares, v, precision=PRECISION)
        return x + Dense(c, name="to_out_0")(h).reshape(x.shape)


class Middle(nn.Module):
    """What both ways do at the lowest resolution."""

    features: int
    groups: int
    has_attention: bool

    @nn.compact
    def __call__(self, x: Features) -> Features:
        x = Resnet(self.features, self.groups, name="resnets_0")(x)
        if self.has_attention:
            x = Attention(self.groups, name="attentions_0")(x)
        return Resnet(self.features, self.groups, name="resnets_1")(x)


class Down(nn.Module):
    """One resolution on the way down; strided convolutions see no pixel before 0."""

    features: int
    groups: int
    layers: int
    is_last: bool

    @nn.compact
    def __call__(self, x: Features) -> Features:
        for i in range(self.layers):
            x = Resnet(self.features, self.groups, name=f"resnets_{i}")(x)
        if self.is_last:
            return x
        return Halved(self.features, name="downsamplers_0")(x)


class Halved(nn.Module):
    """A strided convolution, padded behind alone."""

    features: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        behind = ((0, 1), (0, 1))
        return Conv(self.features, (3, 3), (2, 2), padding=behind, name="conv")(x)


class Doubled(nn.Module):
    """Each pixel becomes 2x2, and a convolution."""

    features: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return Conv(self.features, (3, 3), padding=1, name="conv")(upsample(x))


class Up(nn.Module):
    """One resolution on the way up."""

    features: int
    groups: int
    layers: int
    is_last: bool

    @nn.compact
    def __call__(self, x: Features) -> Features:
        for i in range(self.layers):
            x = Resnet(self.features, self.groups, name=f"resnets_{i}")(x)
        return x if self.is_last else Doubled(self.features, name="upsamplers_0")(x)


class Encoder(nn.Module):
    """Images [B, H, W, C] to twice as many channels as latents have."""

    form: Form

    @nn.compact
    def __call__(self, x: Features) -> Features:
        f, widths = self.form, self.form.block_out_channels
        groups, last = f.norm_num_groups, len(f.block_out_channels) - 1
        x = Conv(widths[0], (3, 3), padding=1, name="conv_in")(x)
        for i, width in enumerate(widths):
            name = f"down_blocks_{i}"
            x = Down(width, groups, f.layers_per_block, i == last, name=name)(x)
        has_attention = f.mid_block_add_attention
        x = Middle(widths[-1], groups, has_attention, name="mid_block")(x)
        x = nn.silu(Norm(groups, name="conv_norm_out")(x))
        return Conv(2 * f.latent_channels, (3, 3), padding=1, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents to images."""

    form: Form

    @nn.compact
    def __call__(self, z: Features) -> Features:
        f, widths = self.form, self.form.block_out_channels[::-1]
        groups, last = f.norm_num_groups, len(f.block_out_channels) - 1
        x = Conv(widths[0], (3, 3), padding=1, name="conv_in")(z)
        has_attention = f.mid_block_add_attention
        x = Middle(widths[0], groups, has_attention, name="mid_block")(x)
        for i, width in enumerate(widths):
            name = f"up_blocks_{i}"
            x = Up(width, groups, f.layers_per_block + 1, i == last, name=name)(x)
        x = nn.silu(Norm(groups, name="conv_norm_out")(x))
        return Conv(f.out_channels, (3, 3), padding=1, name="conv_out")(x)


class AutoencoderKL(nn.Module):
    """Both ways; images in [-1, 1], latents unscaled."""

    form: Form

    def setup(self):
        """The ways, and the 1x1 convolutions between them and the latents."""
        f = self.form
        self.encoder, self.decoder = Encoder(f), Decoder(f)
        if f.use_quant_conv:
            self.quant_conv = Conv(2 * f.latent_channels, (1, 1))
        if f.use_post_quant_conv:
            self.post_quant_conv = Conv(f.latent_channels, (1, 1))

    def encode(self, images: Features) -> Moments:
        """The Gaussian of each image's latents."""
        h = self.encoder(images)
        if self.form.use_quant_conv:
            h = self.quant_conv(h)
        mean, log_variance = jnp.split(h, 2, axis=-1)
        return Moments(mean, jnp.exp(0.5 * jnp.clip(log_variance, *LOG_VARIANCES)))

    def decode(self, latents: Features) -> Features:
        """The images of latents."""
        if self.form.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def __call__(self, images: Features) -> Features:
        """There and back by the mean; it makes all parameters."""
        return self.decode(self.encode(images).mean)
