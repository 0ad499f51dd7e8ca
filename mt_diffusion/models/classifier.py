"""ADM's encoder classifier: the U-Net's way down, then attention pooling."""

import itertools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.errors import UserError
from mt_diffusion.models import layers
from mt_diffusion.models.layers import Features


class EncoderClassifier(nn.Module):
    """Head E: guided-diffusion's `EncoderUNetModel` on the U-Net's final features.

    It reads 'out', what the U-Net's last block reads, and not eps itself: all that eps
    is made of is there, and eps starts at zero, where nothing could be learnt from it.
    There is no t, since these features know it. Attention is at the lowest resolution.
    width, channel_mult, num_res_blocks, num_heads, num_head_channels (0: num_heads),
    num_groups: as in UNet; the resolution halves between the levels.
    """

    outputs: int
    width: int
    channel_mult: Sequence[int]
    num_res_blocks: int
    num_heads: int
    num_head_channels: int
    num_groups: int

    def __post_init__(self):
        """Refuses widths that the groups or the heads do not divide."""
        super().__post_init__()
        if self.num_res_blocks < 1 or not self.channel_mult or self.width < 1:
            raise UserError(
                f"head E has width {self.width}, channel_mult {self.channel_mult} and "
                f"num_res_blocks {self.num_res_blocks}; each of them is 1 or more "
                "(heads.E of the label in the config)."
            )
        for mult in self.channel_mult:
            for number in (self.num_groups, self.num_head_channels or self.num_heads):
                if number < 1 or mult < 1 or mult * self.width % number:
                    raise UserError(
                        f"head E has a level of {mult * self.width} channels, which "
                        f"{number} groups or heads do not divide; change its width, "
                        "channel_mult, num_groups, num_heads or num_head_channels "
                        "(heads.E of the label in the config)."
                    )

    @nn.compact
    def __call__(self, features: Mapping[str, Features]) -> Float[Array, "b k"]:
        """Logits, or what else the outputs are, in float32."""
        h = features["out"]
        width = self.channel_mult[0] * self.width
        h = layers.conv(width, "input_blocks_0_0", h.dtype)(h)
        numbers = itertools.count(1)
        for level, mult in enumerate(self.channel_mult):
            if level:
                name = f"input_blocks_{next(numbers)}_0"
                h = self._res(h, name, resample=layers.downsample)
            for _ in range(self.num_res_blocks):
                name = f"input_blocks_{next(numbers)}_0"
                h = self._res(h, name, mult * self.width)
        heads = self.num_heads
        if self.num_head_channels:
            heads = h.shape[-1] // self.num_head_channels
        h = self._res(h, "middle_block_0")
        h = layers.AttentionBlock(
            heads, self.num_groups, False, h.dtype, name="middle_block_1"
        )(h)
        h = self._res(h, "middle_block_2").astype(jnp.float32)
        h = nn.silu(layers.Norm(self.num_groups, name="out_0")(h))
        return layers.AttentionPool(self.outputs, heads, name="out_2")(h)

    def _res(self, h, name, features=None, resample=layers.same):
        block = layers.ResBlock(
            features or h.shape[-1],
            self.num_groups,
            0.0,
            False,
            h.dtype,
            resample,
            name=name,
        )
        return block(h, None, True)
