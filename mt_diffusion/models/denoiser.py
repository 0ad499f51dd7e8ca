"""The model as a function of z_t: frames, evidence, the network, and what it means.

    z_t -> y_t = z_t - f_t, evidence -> network -> out, heads -> z_0, p(x_i | z_t)

Frames of what is read come out first; then, of what is left, the evidence of the rest.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.prediction import Prediction
from mt_diffusion.diffusion.process import Image, Process, Transition
from mt_diffusion.models.mt_diffusion import TABLES, MTDiffusion
from mt_diffusion.protocol import Code, Level, Modality, is_evident

Known = Mapping[str, Bool[Array, " b"]]


class View(NamedTuple):
    """What the model says of z_t.

    y_t: what its network read. out, v, log_variances: as of `Output`. features: the
    heads' parameters by the features alone. heads: the same with what codes say.
    """

    y_t: Image
    out: Image
    v: Image | None
    features: dict[str, Array]
    heads: dict[str, Array]
    log_variances: dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Denoiser:
    """The modalities, the process, the network, and what it predicts."""

    modalities: Sequence[Modality]
    process: Process
    network: MTDiffusion
    prediction: Prediction

    def encode(self, variables: Any, values: Mapping[str, Array]) -> dict[str, Code]:
        """Codes of the values given."""
        encoded: Any = self.network.apply(variables, values, method="encode")
        return encoded

    def __call__(
        self,
        variables: Any,
        z_t: Image,
        t: Int[Array, " b"],
        codes: Mapping[str, Code],
        known: Known,
        values: Mapping[str, Array],
        dropout_key: Any = None,
    ) -> View:
        """Looks at z_t, t [B] in 1..T.

        known: where the network may read a modality, [B]; codes, values: of these.
        dropout_key: None for a network without dropout.
        """
        tables = variables.get(TABLES, {})
        y_t = z_t - self._read_frame(t, codes, known)
        found = {
            m.name: self._evidence(
                m.with_tables(tables.get(m.name, {})), y_t, t, codes, known, values
            )
            for m in self.modalities
            if is_evident(m)
        }
        for name, (latent, _, _) in found.items():
            y_t = y_t - over(self._drift(name, z_t)[t], z_t) * latent
        output: Any = self.network.apply(
            variables,
            y_t,
            t,
            codes,
            known,
            {name: vector for name, (_, vector, _) in found.items()},
            dropout_key is None,
            rngs={} if dropout_key is None else {"dropout": dropout_key},
        )
        heads = dict(output.heads)
        for m in self.modalities:
            if m.name in found:
                heads[m.name] = m.combine(heads[m.name], found[m.name][2])
        out, v, features, log_variances = output
        return View(y_t, out, v, features, heads, log_variances)

    def z0(self, view: View, step: Transition, u_t: Image) -> Image:
        """The z_0 that a view implies; u_t: z_t in the frame of known or guessed X."""
        return self.prediction.z0(step, view.y_t, u_t, view.out)

    def _drift(self, name: str, like: Image) -> Float[Array, " t"]:
        return jnp.asarray(self.process.aggregation.alpha_tilde[name], like.dtype)

    def _framed(self, known: Known) -> set[str]:
        """Modalities whose drift is taken out of z_t where they are read."""
        return {m.name for m in self.modalities if m.frame != "none"} & set(known)

    def _read_frame(self, t, codes, known) -> Image | float:
        """The drift of what is read, the first part of f_t (method.md, eq. 18)."""
        latents = {
            m.name: codes[m.name].latent * over(known[m.name], codes[m.name].latent)
            for m in self.modalities
            if m.name in self._framed(known)
        }
        return self.process.aggregation.drift(latents, t)

    def _evidence(self, m, y_t, t, codes, known, values):
        """What is known of m, whether it is read or not; latent: what is yet in y_t."""
        alpha_bar = self.process.schedule.alpha_bar
        signal, noise = (
            jnp.asarray(np.sqrt(x), y_t.dtype)[t] for x in (alpha_bar, 1 - alpha_bar)
        )
        names = self.process.aggregation.alpha_tilde
        drifts = {name: self._drift(name, y_t)[t] for name in names}
        for name in self._framed(known) - {m.name}:
            drifts[name] *= ~known[name]  # its drift is out of y_t already
        guessed = m.evidence(y_t, Level(signal, noise, drifts))
        if m.name not in known:
            return guessed
        sure = m.certain(values[m.name], codes[m.name].latent)
        # What is read is out of y_t already.
        sure = sure._replace(latent=jnp.zeros_like(guessed.latent))
        read = known[m.name]
        return jax.tree.map(
            lambda a, b: jnp.where(over(read, a) > 0, a, b), sure, guessed
        )
