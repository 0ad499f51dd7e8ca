"""The shared U-Net: guided-diffusion's `UNetModel`, with tokens and named features."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mt_diffusion.models import layers, patches
from mt_diffusion.models.layers import Features
from mt_diffusion.models.sd.blocks import SpatialTransformer

CROSS = "_cross"  # at the end of names that guided-diffusion has not
PRODUCTS = {jax.lax.conv_general_dilated_p, jax.lax.dot_general_p}
REMAT = {
    "none": lambda kind, **_: kind,
    # Keeps what convolutions and matrix products give; the rest is quick.
    "pointwise": functools.partial(
        nn.remat, policy=lambda primitive, *_, **__: primitive in PRODUCTS
    ),
    "blocks": nn.remat,  # keeps what goes into a block alone
}


class UNet(nn.Module):
    """ADM's U-Net; fields as in guided-diffusion unless said otherwise.

    patch: pixels in the side of the squares that it reads and says as one place each.
    attention_resolutions: downsampling factors, of these, at which to attend.
    num_head_channels: channels per head; 0 for `num_heads` heads at every resolution.
    num_classes: 0 for an unconditional network.
    num_groups: of every normalisation (32 in ADM).
    use_tokens: a cross-attention block follows each self-attention.
    transformer_depth: of Stable Diffusion's blocks, which stand for both; 0: ADM's.
    remat: what blocks compute again for the gradient, one of REMAT; less memory.
    """

    model_channels: int
    out_channels: int
    patch: int
    num_res_blocks: int
    channel_mult: tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    num_heads: int
    num_head_channels: int
    dropout: float
    use_scale_shift_norm: bool
    resblock_updown: bool
    transformer_depth: int
    use_new_attention_order: bool
    num_classes: int
    num_groups: int
    use_tokens: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Features,
        t: Float[Array, " b"],
        y: Int[Array, " b"] | None = None,
        tokens: Float[Array, "b l d"] | None = None,
        condition: Float[Array, "b e"] | None = None,
        deterministic: bool = True,
    ) -> tuple[Features, dict[str, Features]]:
        """Reads x [B, H, W, C_in] at time t [B] (0-based, as in ADM).

        y [B]: classes, for a class-conditional network. tokens [B, L, D]: for
        use_tokens. condition [B, 4 model_channels]: what joins the embedding of
        t. Returns the output [B, H, W, out_channels] in float32, and the
        features that heads read: 'mid', the middle block's, and 'out', what the last
        block sees, [B, H / patch, W / patch, D].
        """
        emb = layers.TimeEmbedding(
            self.model_channels, 4 * self.model_channels, name="time_embed"
        )(t)
        if self.num_classes:
            classes = nn.Embed(self.num_classes, emb.shape[-1], name="label_emb")
            emb += classes(y)
        if condition is not None:
            emb += condition
        res = functools.partial(self._res, emb=emb, deterministic=deterministic)
        attend = functools.partial(self._attend, tokens=tokens)
        levels = list(enumerate(self.channel_mult))

        width = self.channel_mult[0] * self.model_channels
        h = layers.conv(width, "input_blocks_0_0", self.dtype)(
            patches.fold(x, self.patch).astype(self.dtype)
        )
        skips = [h]
        for level, mult in levels:
            for _ in range(self.num_res_blocks):
                block = f"input_blocks_{len(skips)}"
                h = res(h, f"{block}_0", mult * self.model_channels)
                if 2**level in self.attention_resolutions:
                    h = attend(h, f"{block}_1")
                skips.append(h)
            if level != levels[-1][0]:
                h = self._resample(h, f"input_blocks_{len(skips)}_0", res, up=False)
                skips.append(h)

        num_skips = len(skips)
        h = res(h, "middle_block_0", h.shape[-1])
        h = attend(h, "middle_block_1")
        h = mid = res(h, "middle_block_2", h.shape[-1])

        for level, mult in reversed(levels):
            for i in range(self.num_res_blocks + 1):
                block = f"output_blocks_{num_skips - len(skips)}"
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = res(h, f"{block}_0", mult * self.model_channels)
                attends = 2**level in self.attention_resolutions
                if attends:
                    h = attend(h, f"{block}_1")
                if level and i == self.num_res_blocks:
                    h = self._resample(h, f"{block}_{1 + attends}", res, up=True)
        out = layers.OutputBlock(
            self.out_channels, self.num_groups, self.patch, name="out"
        )(h)
        return out, {"mid": mid, "out": h}

    def _remat(self, kind, **options):
        return REMAT[self.remat](kind, **options)

    def _res(self, h, name, features, *, emb, deterministic, resample=layers.same):
        block = self._remat(layers.ResBlock, static_argnums=(3,))(  # deterministic
            features,
            self.num_groups,
            self.dropout,
            self.use_scale_shift_norm,
            self.dtype,
            resample,
            name=name,
        )
        return block(h, emb, deterministic)

    def _attend(self, h, name, *, tokens):
        channels = h.shape[-1]
        heads = self.num_heads
        if self.num_head_channels:
            heads = channels // self.num_head_channels
        if self.transformer_depth:
            transformer = self._remat(SpatialTransformer)(
                heads, self.num_groups, self.transformer_depth, self.dtype, name=name
            )
            return transformer(
                h, tokens.astype(self.dtype) if self.use_tokens else None
            )
        h = self._remat(layers.AttentionBlock)(
            heads,
            self.num_groups,
            not self.use_new_attention_order,
            self.dtype,
            name=name,
        )(h)
        if not self.use_tokens:
            return h
        cross = self._remat(layers.CrossAttentionBlock)(
            heads, self.num_groups, self.dtype, name=f"{name}{CROSS}"
        )
        return cross(h, tokens.astype(self.dtype))

    def _resample(self, h, name, res, up):
        if self.resblock_updown:
            change = layers.upsample if up else layers.downsample
            return res(h, name, h.shape[-1], resample=change)
        return layers.Resample(h.shape[-1], up, self.dtype, name=name)(h)
