"""Guidance of a walk: pushes of its z_0, towards what is given and away from a guide.

Each push is added to the plain estimate, within one interval of times.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import guidance
from mt_diffusion.diffusion.process import Image, Transition
from mt_diffusion.models.denoiser import Denoiser, Known


class Weights(NamedTuple):
    """Variables of the model, and of the guide that it has, or None."""

    own: Any
    guide: Any = None


class Seen(NamedTuple):
    """What the model looked at: z_t before t -> s, and what is known of the rest."""

    z_t: Image
    step: Transition
    codes: Mapping[str, Any]
    known: Known
    values: Mapping[str, Array]


Guide = Callable[[Seen, Image, Image], Image]  # what was seen, u_t, z_0


@dataclasses.dataclass(frozen=True, eq=False)
class Guiding:
    """All guidance that config.sampling asks for.

    settings: config.sampling. weak: a smaller or less trained model of the same process
    and codes (Karras et al. 2024, autoguidance), or None.
    """

    denoiser: Denoiser
    settings: ConfigDict
    weak: Denoiser | None = None

    def build(
        self, weights: Weights, values: Mapping[str, Array], codes: Mapping[str, Any]
    ) -> Guide:
        """The guide of a walk, where these values with these codes are given."""
        pushes = []
        if values and self.settings.guidance != 1:
            pushes.append(self._free(weights, codes))
        if values and self.settings.head_guidance != 0:
            pushes.append(self._by_heads(weights, values, codes))
        if self.weak is not None and self.settings.autoguidance != 1:
            pushes.append(self._auto(weights))
        num_steps = self.denoiser.process.schedule.num_steps

        def pushed(seen, u_t, z0):
            return z0 + sum(push(seen, u_t, z0) for push in pushes)

        def guide(seen, u_t, z0):
            if not pushes:
                return z0
            interval = self.settings.guidance_interval
            inside = guidance.within(seen.step.t, interval, num_steps)
            plain = lambda seen, u_t, z0: z0  # noqa: E731
            return jax.lax.cond(inside, pushed, plain, seen, u_t, z0)

        return guide

    def _absent(self, weights: Weights, undrifted: Image, step: Transition):
        """What the model says where nothing is given: the absent state of training.

        Not of z_t: from its drift the null would know the given value, and the heads.
        """
        t = jnp.full(len(undrifted), step.t)
        return self.denoiser(weights.own, undrifted, t, {}, {}, {})

    def _free(self, weights, codes) -> Guide:
        latents = {n: code.latent for n, code in codes.items()}

        def push(seen, u_t, z0):
            undrifted = seen.step.to_comoving(seen.z_t, latents)
            view = self._absent(weights, undrifted, seen.step)
            null = self.denoiser.z0(view, seen.step, u_t)
            return guidance.classifier_free(z0, null, self.settings.guidance) - z0

        return push

    def _by_heads(self, weights, values, codes) -> Guide:
        latents = {n: code.latent for n, code in codes.items()}
        modalities = {m.name: m for m in self.denoiser.modalities}

        def push(seen, u_t, z0):
            def log_prob(undrifted):
                # Features alone: log q would push z along the code.
                features = self._absent(weights, undrifted, seen.step).features
                return sum(
                    modalities[n].log_density(features[n], value)
                    for n, value in values.items()
                )

            undrifted = seen.step.to_comoving(seen.z_t, latents)
            scale = self.settings.head_guidance
            step, none = seen.step, jnp.zeros_like(z0)
            return guidance.by_classifier(none, undrifted, step, log_prob, scale)

        return push

    def _auto(self, weights) -> Guide:
        def push(seen, u_t, z0):
            z_t, step, codes, known, values = seen
            t = jnp.full(len(z_t), step.t)
            view = self.weak(weights.guide, z_t, t, codes, known, values)
            weak = self.weak.z0(view, step, u_t)
            return guidance.away(z0, weak, self.settings.autoguidance) - z0

        return push
