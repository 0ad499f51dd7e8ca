"""What a walk asks at each step: the model's view of z_t, with its guesses fed back."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import sampler, variance
from mt_diffusion.diffusion.variance import Errors
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.roles import Roles
from mt_diffusion.inference.believer import CONDITIONAL, JOINT, read_anew, readings
from mt_diffusion.inference.guiding import Guiding, Seen, Weights
from mt_diffusion.modalities import guess
from mt_diffusion.protocol import DRAW


@dataclasses.dataclass(frozen=True)
class Denoising:
    """Builds it for any variables that are given.

    settings: config.sampling. times: of the walk. errors: as of `Believer`.
    """

    experiment: Experiment
    settings: ConfigDict
    times: np.ndarray
    roles: Roles
    guiding: Guiding
    errors: Mapping[str, Errors]

    def build(
        self,
        params: Any,
        keys: Array,
        given: Mapping[str, Array],
        keep: bool = False,
    ) -> sampler.Denoise:
        """What the model says of z_t, given these values: guesses, codes, z_0.

        params: the model's variables, or `Weights`. keys: [B], of guesses that are
        drawn. given: {variable: values [B, ...]}. keep: whether it also tells the mean
        of each modality that is generated.
        """
        denoiser = self.experiment.denoiser
        weights = params if isinstance(params, Weights) else Weights(params)
        params = weights.own
        modalities = {m.name: m for m in self.experiment.modalities}
        generated = self.roles.generated(given)
        given = {n: v for n, v in given.items() if n in modalities}
        given_codes = denoiser.encode(params, given)
        drifting = [n for n, word in generated.items() if word != "absent"]
        read_held = [
            n for n in drifting if generated[n] == "held" and modalities[n].conditions
        ]
        here = jnp.ones(keys.shape, bool)
        known = {n: here for n in given_codes if modalities[n].conditions}
        own_keys = {n: guess.split(keys, i) for i, n in enumerate(modalities)}
        guide = self.guiding.build(weights, given, given_codes)
        fixed_v = jnp.asarray(self._places(given), jnp.float32)
        clip = sampler.build_clip(self.settings.clip, self.experiment.space.limit)
        anew = readings(self.settings, self._errors_of(given), denoiser.process)

        def make_guess(name, view, t, is_first, before):
            parameters, own = view.heads[name], own_keys[name]
            make = guess.WAYS[generated[name]]
            return make(modalities[name], parameters, own, t, is_first, before)

        def tell(view, t, guesses):
            """What is reported: the head's, a draw beside it, or what was drawn."""
            found = {}
            for n, word in generated.items():
                m, parameters = modalities[n], view.heads[n]
                found[n] = guesses[n] if word == "held" else m.mean(parameters)
                if m.is_continuous:
                    # One noise for all t: what heads say is averaged, noise is not.
                    around = guess.coherent(m, parameters, own_keys[n], t, None, None)
                    found[n + DRAW] = guesses[n] if word in guess.DRAWN else around
            return found

        def denoise(z_t, step, is_first, guesses):
            t = jnp.full(keys.shape, step.t)
            held = {n: guesses[n] for n in read_held}
            codes = given_codes | denoiser.encode(params, held)
            read = known | dict.fromkeys(read_held, here & ~is_first)
            view = denoiser(params, z_t, t, codes, read, given | held)
            guesses = {
                n: make_guess(n, view, t, is_first, guesses[n]) for n in generated
            }
            fed = denoiser.encode(params, {n: guesses[n] for n in drifting})
            latents = {n: code.latent for n, code in (given_codes | fed).items()}
            u_t = step.to_comoving(z_t, latents)
            seen = Seen(z_t, step, codes, read, given | held)
            z0 = guide(seen, u_t, denoiser.z0(view, step, u_t))
            if anew is not None:
                z0 = read_anew(clip(z0), t, anew)
            v = jnp.full_like(z0, fixed_v[step.t]) if view.v is None else view.v
            told = tell(view, t, guesses)
            means = {n: modalities[n].mean(view.heads[n]) for n in generated if keep}
            return sampler.Denoised(z0, v, given | told, guesses, latents, means)

        return denoise

    def _errors_of(self, given: Collection[str]) -> Errors | None:
        """What was measured where these, or as few, are given."""
        names = {m.name for m in self.experiment.modalities}
        return self.errors.get(CONDITIONAL if names <= set(given) else JOINT)

    def _places(self, given: Collection[str]) -> np.ndarray:
        """The v by t, [T + 1], of a network that learns none, with these given."""
        return variance.places(
            self.settings.variance or variance.OF_STEPS,
            self._errors_of(given),
            self.experiment.process,
            self.times,
            {m.name for m in self.experiment.modalities} & set(given),
        )
