"""MT-Diffusion's network: encoders, the shared U-Net, and one head per modality."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mt_diffusion.models.unet import UNet
from mt_diffusion.protocol import Code, Modality

TABLES = "tables"  # the collection of the modalities' tables, beside "params"
Image = Float[Array, "b h w c"]


class Output(NamedTuple):
    """What the network says of y_t, and the parameters of each p(x_i | y_t).

    out: what diffusion/prediction.py reads. v: the learned variance's place in its
    range; None where the variance is fixed. log_variances: of each modality's term in
    the loss, []; empty where not learned.
    """

    out: Image
    v: Image | None
    heads: dict[str, Array]
    log_variances: dict[str, Array]


class MTDiffusion(nn.Module):
    """The shared U-Net with the encoders and heads of its modalities.

    num_steps: T. unet: fields of UNet. learn_variance: whether it also predicts v.
    learn_balance: whether it also learns the log variance of each modality's term.
    learn_places: whether tokens say whose they are, and where among these; to
    attention they are a set.
    evident: {modality: numbers of the evidence} that join the embedding of t.
    """

    modalities: tuple[Modality, ...]
    unet: UNet
    num_steps: int
    learn_variance: bool
    learn_balance: bool
    learn_places: bool
    evident: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def setup(self):
        """One head per modality, a learned null and learned places of conditions."""
        self.heads = {m.name: m.head() for m in self.modalities}
        normal = nn.initializers.normal(1.0)
        self.null_tokens = {
            m.name: self.param(f"null_tokens_{m.name}", normal, m.token_shape)
            for m in self.modalities
            if m.token_shape
        }
        self.token_places = {  # of the size of tokens, whose RMS is about 1
            m.name: self.param(f"token_places_{m.name}", normal, m.token_shape)
            for m in self.modalities
            if m.token_shape and self.learn_places
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
        self.evidence = {
            m.name: nn.Dense(
                4 * self.unet.model_channels,
                use_bias=False,
                kernel_init=nn.initializers.normal(m.evidence_std),
            )
            for m in self.modalities
            if m.name in self.evident
        }

    def encode(self, values: Mapping[str, Array]) -> dict[str, Code]:
        """Codes of the values given, each with its latent, under stop_gradient.

        Where a modality leaves its latent open, the shared U-Net makes it from the
        tokens: E(x) = sg[rms_normalise(U-Net(z = 0, t = T, tokens(x)))], the paper's
        encoder (method.md, eq. 21).
        """
        codes, tables = {}, self.variables.get(TABLES, {})
        for m in self.modalities:
            if m.name in values:
                code = m.with_tables(tables.get(m.name, {})).encode(values[m.name])
                if code.latent is None:
                    code = code._replace(latent=self._encode_tokens(m, code))
                codes[m.name] = code._replace(latent=jax.lax.stop_gradient(code.latent))
        return codes

    def _encode_tokens(self, modality: Modality, code: Code) -> Image:
        assert code.tokens is not None  # as of all that leave their latent open
        batch = code.tokens.shape[0]
        z = jnp.zeros((batch, *modality.shape))
        t = jnp.full(batch, self.num_steps)
        here = {modality.name: jnp.ones(batch, bool)}
        out, _ = self._run(z, t, {modality.name: code}, here, {}, True)
        latent = out[..., : z.shape[-1]]
        mean_square = jnp.mean(latent**2, axis=(1, 2, 3), keepdims=True)
        # Inside the root, for the output layer starts at zero.
        return latent / jnp.sqrt(mean_square + 1e-6)

    def __call__(
        self,
        y_t: Image,
        t: Int[Array, " b"],
        codes: Mapping[str, Code],
        known: Mapping[str, Bool[Array, " b"]],
        evidence: Mapping[str, Float[Array, "b e"]] | None = None,
        deterministic: bool = True,
    ) -> Output:
        """Reads y_t, z_t without its frame, at t [B] in 1..T.

        codes: of the modalities that condition, `known` where it may be read [B]; all
        else is the learned null. evidence: vectors of those that have it.
        """
        out, features = self._run(y_t, t, codes, known, evidence or {}, deterministic)
        out, v = jnp.split(out, 2, axis=-1) if self.learn_variance else (out, None)
        heads = {name: head(features) for name, head in self.heads.items()}
        return Output(out, v, heads, dict(self.log_variances))

    def _placed(self, name: str, tokens: Array) -> Array:
        """Tokens [B, L, D] of a modality, as they are read (method.md, eq. 20)."""
        places = self.token_places.get(name)
        return tokens if places is None else tokens + places[None]

    def _run(self, z, t, codes, known, evidence, deterministic):
        """The U-Net with the conditions; t - 1, since ADM counts its steps from 0."""
        tokens, planes = [], [z]
        for name, null in self.null_tokens.items():
            null = jnp.broadcast_to(null, (z.shape[0], *null.shape))
            tokens.append(null)
            if name in known:
                told, here = (
                    self._placed(name, codes[name].tokens),
                    known[name][:, None],
                )
                if codes[name].mask is not None:
                    here = here & codes[name].mask
                tokens[-1] = jnp.where(here[..., None], told, null)
        for name, null in self.null_planes.items():
            null = jnp.broadcast_to(null, (*z.shape[:-1], null.shape[-1]))
            planes.append(null)
            if name in known:
                keep = known[name][:, None, None, None]
                planes[-1] = jnp.where(keep, codes[name].planes, null)
        x = jnp.concatenate(planes, axis=-1)
        context = jnp.concatenate(tokens, axis=1) if tokens else None
        found = [self.evidence[name](vector) for name, vector in evidence.items()]
        return self.unet(
            x,
            (t - 1).astype(jnp.float32),
            tokens=context,
            condition=sum(found) if found else None,
            deterministic=deterministic,
        )
