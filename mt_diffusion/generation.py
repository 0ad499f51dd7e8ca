"""Samples from a network: the jitted sampler and values as people have them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import guidance, sampler
from mt_diffusion.experiment import Experiment
from mt_diffusion.training import sharding

Guide = Callable[[Array, Array, Array], Array]  # z_t, t, eps -> eps


class Generator:
    """Draws examples jointly, any of their variables given.

    settings: config.sampling. mesh: the batch is split over all its devices. Raises
    UserError for a sampler, clipping or number of steps that there is not.
    """

    def __init__(
        self, experiment: Experiment, settings: ConfigDict, mesh: jax.sharding.Mesh
    ):
        self._experiment = experiment
        self._mesh = mesh
        self._settings = settings
        self._times = experiment.process.schedule.respaced(settings.num_steps)
        self._step = sampler.build_step(settings.sampler, settings.eta)
        self._clip = sampler.build_clip(settings.clip)

    def __call__(
        self, params: Any, seed: int, num: int, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """`num` examples as {variable: [num, ...]}, postprocessed.

        given: {variable: values [M, ...]}, repeated in turn up to num. Example i
        depends on (seed, i) and its given values alone.
        """
        values = self.values(params, seed, range(num), given)
        return {
            n: self._experiment.variables[n].postprocess(v) for n, v in values.items()
        }

    def values(
        self, params: Any, seed: int, rows: range, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Examples `rows` of all that there could be, as {variable: values}."""
        batch_size = self.batch_size(len(rows))
        batches = []
        for start in range(rows.start, rows.stop, batch_size):
            some = np.arange(start, start + batch_size)
            values = {name: v[some % len(v)] for name, v in given.items()}
            some, values = jax.device_put(
                (some, values), sharding.over_batch(self._mesh)
            )
            batches.append(sharding.fetch(self.draw(params, seed, some, values)))
        num = len(rows)
        return {k: np.concatenate([b[k] for b in batches])[:num] for k in batches[0]}

    def batch_size(self, num: int) -> int:
        """How many of `num` are drawn at a time: a multiple of the devices."""
        return sharding.batch_size(self._settings.batch_size, num, self._mesh)

    @functools.partial(jax.jit, static_argnums=0)
    def draw(self, params, seed, rows, given) -> dict[str, Array]:
        """One batch: rows [B] of all examples, given {variable: values [B, ...]}."""
        experiment = self._experiment
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(rows)
        network = functools.partial(experiment.network.apply, params)
        modalities = {m.name: m for m in experiment.modalities}
        given_values = {n: v for n, v in given.items() if n in modalities}
        given_codes = network(given_values, method="encode")
        known = {
            n: jnp.ones(rows.shape, bool)
            for n in given_codes
            if modalities[n].conditions
        }
        guide = self._build_guide(network, given_values, given_codes, known)
        fixed_v = 2 * self._settings.fixed_variance - 1

        def denoise(z_t, t):
            prediction = network(z_t, t, given_codes, known)
            eps, v = guide(z_t, t, prediction.eps), prediction.v
            generated = {
                n: modalities[n].mean(parameters)
                for n, parameters in prediction.heads.items()
                if n not in given
            }
            latents = {n: code.latent for n, code in given_codes.items()}
            if drift := self._settings.generated_drift:
                for name, code in network(generated, method="encode").items():
                    latents[name] = drift * code.latent
            v = jnp.full_like(eps, fixed_v) if v is None else v
            return sampler.Denoised(eps, v, given_values | generated, latents)

        def restrict(z0):
            z0 = self._clip(z0)
            for name, value in given.items():
                if fixed := experiment.variables[name].known(value):
                    z0 = jnp.where(fixed.mask > 0, fixed.pixels, z0)
            return z0

        result = sampler.sample(
            keys=keys,
            shape=experiment.shape,
            denoise=denoise,
            process=experiment.process,
            times=self._times,
            step=self._step,
            restrict=restrict,
        )
        return {experiment.primary.name: result.z0} | result.values

    def _build_guide(self, network, values, codes, known) -> Guide:
        """Both kinds of guidance towards the modalities given, in their interval.

        Both ask the network about u_t, where what is given does not drift and is not
        read, the absent state of training: from z_t the null would know the given value
        by its drift, and so would the heads.
        """
        settings, process = self._settings, self._experiment.process
        modalities = {m.name: m for m in self._experiment.modalities}
        latents = {n: code.latent for n, code in codes.items()}
        free = bool(known) and settings.guidance != 1
        by_heads = bool(values) and settings.head_guidance != 0

        def log_prob(u_t, t):
            heads = network(u_t, t, {}, {}).heads
            return sum(
                modalities[n].log_likelihood(heads[n], value)
                for n, value in values.items()
            )

        def guided(z_t, t, eps):
            u_t = z_t - process.aggregation.drift(latents, t)
            if free:
                eps_null = network(u_t, t, {}, {}).eps
                eps = guidance.classifier_free(eps, eps_null, settings.guidance)
            if by_heads:
                noise_t = jnp.asarray(np.sqrt(1 - process.schedule.alpha_bar))[t]
                ask = functools.partial(log_prob, t=t)
                scale = settings.head_guidance
                eps = guidance.by_classifier(eps, u_t, noise_t, ask, scale)
            return eps

        def guide(z_t, t, eps):
            if not (free or by_heads):
                return eps
            num_steps = process.schedule.num_steps
            inside = guidance.within(t[0], settings.guidance_interval, num_steps)
            unguided = lambda z_t, t, eps: eps  # noqa: E731
            return jax.lax.cond(inside, guided, unguided, z_t, t, eps)

        return guide
