"""MT-Diffusion's network: encoders, the shared U-Net, and one head per modality."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mt_diffusion.modalities.base import Code, Modality
from mt_diffusion.models.unet import UNet

Image = Float[Array, "b h w c"]


class Prediction(NamedTuple):
    """What the network says of z_t: its noise, and the parameters of each p(x_i | z_t).

    v: the learned variance's place in its range; None where the variance is fixed.
    log_variances: of each modality's term in the loss, []; empty where not learned.
    """

    eps: Image
    v: Image | None
    heads: dict[str, Array]
    log_variances: dict[str, Array]


class MTDiffusion(nn.Module):
    """The shared U-Net with the encoders and heads of its modalities.

    num_steps: T. unet: fields of UNet. learn_variance: whether it also predicts v.
    learn_balance: whether it also learns the log variance of each modality's term.
    """

    modalities: tuple[Modality, ...]
    unet: UNet
    num_steps: int
    learn_variance: bool
    learn_balance: bool

    def setup(self):
        """One head per modality, and a learned null for every condition."""
        self.heads = {m.name: m.head() for m in self.modalities}
        normal = nn.initializers.normal(1.0)
        self.null_tokens = {
            m.name: self.param(f"null_tokens_{m.name}", normal, m.token_shape)
            for m in self.modalities
            if m.token_shape
        }
        zeros = nn.initializers.zeros_init()
        self.null_planes = {
            m.name: self.param(f"null_planes_{m.name}", zeros, (m.num_planes,))
            for m in self.modalities
            if m.num_planes
        }

        self.log_variances = {
            m.name: self.param(f"log_variance_{m.name}", zeros, ())
            for m in self.modalities
            if self.learn_balance
        }

    def encode(self, values: Mapping[str, Array]) -> dict[str, Code]:
        """Codes of the values given, each with its latent, under stop_gradient.

        Where a modality leaves its latent open, the shared U-Net makes it from the
        tokens: E(x) = sg[rms_normalise(U-Net(z = 0, t = T, tokens(x)))].
        """
        codes = {}
        for m in self.modalities:
            if m.name in values:
                code = m.encode(values[m.name])
                if code.latent is None:
                    code = code._replace(latent=self._encode_tokens(m, code))
                codes[m.name] = code._replace(latent=jax.lax.stop_gradient(code.latent))
        return codes

    def _encode_tokens(self, modality: Modality, code: Code) -> Image:
        batch = code.tokens.shape[0]
        z = jnp.zeros((batch, *modality.shape))
        t = jnp.full(batch, self.num_steps)
        here = {modality.name: jnp.ones(batch, bool)}
        out, _ = self._run(z, t, {modality.name: code}, here, True)
        latent = out[..., : z.shape[-1]]
        mean_square = jnp.mean(latent**2, axis=(1, 2, 3), keepdims=True)
        # Inside the root, for the output layer starts at zero.
        return latent / jnp.sqrt(mean_square + 1e-6)

    def __call__(
        self,
        z_t: Image,
        t: Int[Array, " b"],
        codes: Mapping[str, Code],
        known: Mapping[str, Bool[Array, " b"]],
        deterministic: bool = True,
    ) -> Prediction:
        """Reads z_t at t [B] in 1..T.

        codes: of the modalities that condition, `known` where it may be read [B]; all
        else is the learned null.
        """
        out, features = self._run(z_t, t, codes, known, deterministic)
        eps, v = jnp.split(out, 2, axis=-1) if self.learn_variance else (out, None)
        heads = {name: head(features) for name, head in self.heads.items()}
        return Prediction(eps, v, heads, dict(self.log_variances))

    def _run(self, z, t, codes, known, deterministic):
        """The U-Net with the conditions; t - 1, since ADM counts its steps from 0."""
        tokens, planes = [], [z]
        for name, null in self.null_tokens.items():
            null = jnp.broadcast_to(null, (z.shape[0], *null.shape))
            tokens.append(null)
            if name in known:
                tokens[-1] = jnp.where(
                    known[name][:, None, None], codes[name].tokens, null
                )
        for name, null in self.null_planes.items():
            null = jnp.broadcast_to(null, (*z.shape[:-1], null.shape[-1]))
            planes.append(null)
            if name in known:
                keep = known[name][:, None, None, None]
                planes[-1] = jnp.where(keep, codes[name].planes, null)
        x = jnp.concatenate(planes, axis=-1)
        context = jnp.concatenate(tokens, axis=1) if tokens else None
        return self.unet(
            x, (t - 1).astype(jnp.float32), tokens=context, deterministic=deterministic
        )
