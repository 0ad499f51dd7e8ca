"""Samples from a network: the jitted sampler and values as people have them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import sampler
from mt_diffusion.experiment import Experiment
from mt_diffusion.training import sharding


class Generator:
    """Draws examples jointly, any of their variables given.

    settings: config.sampling. mesh: the batch is split over all its devices. Raises
    UserError for a sampler or a number of steps that there is not.
    """

    def __init__(
        self, experiment: Experiment, settings: ConfigDict, mesh: jax.sharding.Mesh
    ):
        self._experiment = experiment
        self._mesh = mesh
        self._batch_size = settings.batch_size
        self._fixed_v = 2 * settings.fixed_variance - 1
        self._times = experiment.process.schedule.respaced(settings.num_steps)
        self._step = sampler.build_step(settings.sampler, settings.eta)

    def __call__(
        self, params: Any, seed: int, num: int, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """`num` examples as {variable: [num, ...]}, postprocessed.

        given: {variable: values [M, ...]}, repeated in turn up to num. Example i
        depends on (seed, i) and its given values alone.
        """
        batch_size = min(self._batch_size, num)
        batch_size += -batch_size % self._mesh.size
        batches = []
        for start in range(0, num, batch_size):
            rows = np.arange(start, start + batch_size)
            values = {name: v[rows % len(v)] for name, v in given.items()}
            rows, values = jax.device_put(
                (rows, values), sharding.over_batch(self._mesh)
            )
            batches.append(jax.device_get(self._draw(params, seed, rows, values)))
        joined = {k: np.concatenate([b[k] for b in batches])[:num] for k in batches[0]}
        return {
            n: self._experiment.variables[n].postprocess(v) for n, v in joined.items()
        }

    @functools.partial(jax.jit, static_argnums=0)
    def _draw(self, params, seed, rows, given) -> dict[str, Array]:
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

        def denoise(z_t, t):
            eps, v, heads = network(z_t, t, given_codes, known)
            if v is None:
                v = jnp.full_like(eps, self._fixed_v)
            generated = {
                n: modalities[n].mean(prediction)
                for n, prediction in heads.items()
                if n not in given
            }
            codes = given_codes | network(generated, method="encode")
            latents = {n: code.latent for n, code in codes.items()}
            return sampler.Denoised(eps, v, given_values | generated, latents)

        def restrict(z0):
            z0 = jnp.clip(z0, -1, 1)
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
