"""What a model says of z_t where it knows nothing else, and where it knows X."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import bound as bounds
from mt_diffusion.diffusion import sampler, variance
from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.process import Image, Process
from mt_diffusion.diffusion.variance import Errors
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.modalities import guess

JOINT, CONDITIONAL = "joint", "conditional"


class Believer:
    """Both readings of a batch, as bounds and measurements need them.

    settings: config.sampling. errors: {JOINT or CONDITIONAL: what was measured}. Raises
    UserError for a clipping or guess that there is not. held, drifting: modalities that
    are drawn first and kept; that drift at all.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: ConfigDict,
        errors: Mapping[str, Errors] | None = None,
    ):
        self._experiment = experiment
        self._modalities = {m.name: m for m in experiment.modalities}
        words = guess.parse(settings.guess, self._modalities)
        self._words = {n: guess.way(word, is_alone=True) for n, word in words.items()}
        process, errors = experiment.process, errors or {}
        times = np.arange(process.schedule.num_steps, -1, -1)
        self._readings = {
            n: readings(settings, errors.get(n), process) for n in (JOINT, CONDITIONAL)
        }
        word = settings.variance or variance.OF_BOUNDS
        self._v = {
            n: variance.places(word, errors.get(n), process, times)
            for n in (JOINT, CONDITIONAL)
        }
        self.clip = sampler.build_clip(settings.clip, experiment.space.limit)
        self.held = [n for n, word in self._words.items() if word == "held"]
        self.drifting = [n for n, word in self._words.items() if word != "absent"]

    def build(self, params, keys, batch, codes, latents) -> Callable:
        """(z_t, t [B]) -> `bounds.Belief` of the examples of a batch."""
        reads = {n: m for n, m in self._modalities.items() if m.conditions}
        known = {n: batch.available[n] for n in reads}
        read_held = [n for n in self.held if n in reads]

        def look(z_t, t, names):
            """What the model says where it reads these."""
            read = {n: known[n] for n in names}
            denoiser = self._experiment.denoiser
            return denoiser(params, z_t, t, codes, read, batch.values)

        def believe(z_t, t):
            # Of z_t alone; of what is drawn first and kept as well; of everything. All
            # that read the same are one pass, which XLA does not find.
            alone = look(z_t, t, ())
            kept = look(z_t, t, read_held) if read_held else alone
            informed = kept if len(known) == len(read_held) else look(z_t, t, known)
            heads = {
                n: (alone if n in self.held else kept).heads[n]
                for n in self._modalities
            }
            nll = {
                n: -m.log_likelihood(heads[n], batch.values[n])
                for n, m in self._modalities.items()
            }
            guessed = self._guess(params, keys, kept, t)
            believed = {
                n: latents[n] if n in self.held else guessed[n] for n in latents
            }
            return bounds.Belief(
                self._reading(kept, z_t, t, believed, JOINT),
                self._reading(informed, z_t, t, latents, CONDITIONAL),
                {n: jnp.where(batch.available[n], x, 0.0) for n, x in nll.items()},
            )

        return believe

    def _guess(self, params, keys, view, t):
        """Codes of what is guessed anew at each t; of `absent`, 0 drift."""
        own = {n: guess.split(keys, i) for i, n in enumerate(self._modalities)}
        made = {}
        for n, word in self._words.items():
            if word in guess.DRAWN:
                at_t = jax.vmap(jax.random.fold_in)(own[n], t)
                made[n] = self._modalities[n].draw(at_t, view.heads[n])
            else:
                made[n] = self._modalities[n].mean(view.heads[n])
        made = {n: x for n, x in made.items() if n not in self.held}
        encoded = self._experiment.denoiser.encode(params, made)
        return {
            n: code.latent * (self._words[n] != "absent") for n, code in encoded.items()
        }

    def _reading(self, view, z_t, t, latents, which):
        denoiser = self._experiment.denoiser
        step = denoiser.process.adjacent(t)
        z0 = denoiser.z0(view, step, step.to_comoving(z_t, latents))
        if self._readings[which] is not None:
            z0 = read_anew(self.clip(z0), t, self._readings[which])
        v = view.v
        if v is None:
            v = jnp.zeros_like(z0) + over(jnp.asarray(self._v[which])[t], z0)
        return bounds.Reading(z0, v, latents)


class Readings(NamedTuple):
    """How z_0 is read anew: k_t and the place of t among the times measured, by t.

    means: b_t of these times, [G, H, W, C]. mean: m, [H, W, C].
    """

    slopes: Array
    places: Array
    means: Array
    mean: Array


def readings(
    settings: ConfigDict, errors: Errors | None, process: Process
) -> Readings | None:
    """How z_0 is read; None where it is taken as it is."""
    if settings.correction != variance.MEASURED or errors is None:
        return None
    times = np.arange(1, process.schedule.num_steps + 1)
    slopes, places = (
        jnp.asarray(np.append(0, table), jnp.float32)
        for table in (
            errors.slopes_at(process, times),
            errors.places_at(process, times),
        )
    )
    means, mean = (jnp.asarray(x, jnp.float32) for x in (errors.means, errors.mean))
    return Readings(slopes, places, means, mean)


def read_anew(z0: Image, t: Array, how: Readings) -> Image:
    """The best affine reading of a clipped z_0 at t [B] (method.md, eq. 41)."""
    place = how.places[t]
    low = place.astype(int)
    high = jnp.minimum(low + 1, len(how.means) - 1)
    share = over(place - low, z0)
    mean = (1 - share) * how.means[low] + share * how.means[high]
    return how.mean[None] + over(how.slopes[t], z0) * (z0 - mean)
