"""The training objective: the multi-task ELBO, a weighted sum of per-example terms."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion.diffusion import weighting
from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.bound import variational_bound
from mt_diffusion.errors import UserError
from mt_diffusion.modalities.base import Batch


@struct.dataclass
class Draws:
    """What is random in the loss of a batch, per example.

    t [B] in 1..T, eps [B, H, W, C], and by modality: present [B], whether it drifts,
    and known [B], whether the network may also read it.
    """

    t: Any
    eps: Any
    present: Mapping[str, Any]
    known: Mapping[str, Any]


def uniform(key: PRNGKeyArray, num: int, num_steps: int) -> Int[Array, " b"]:
    """Independent times, [num], uniform on 1..T."""
    return jax.random.randint(key, (num,), 1, num_steps + 1)


def stratified(key: PRNGKeyArray, num: int, num_steps: int) -> Int[Array, " b"]:
    """Times [num] evenly spread over 1..T, each uniform (VDM's low discrepancy)."""
    first = jax.random.randint(key, (), 0, num_steps)
    return 1 + (first + jnp.arange(num) * num_steps // num) % num_steps


TIMES = {"uniform": uniform, "stratified": stratified}


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The loss of an experiment (paper eq. 7).

    l = weights_t mean||out - target||^2 + sum_i lambda_i nll_i [+ variance_weight *
    L_vlb], with the target of diffusion/prediction.py; the term 'eps' is its mean
    square error. L_vlb, a sum over t, is T times the mean of its terms (ADM's hybrid
    loss). A learned balance makes it lambda_i (exp(-s_i) nll_i + s_i), with the log
    variances s_i among the parameters (Kendall et al. 2018).

    experiment: its denoiser and presence. weights: float64 [T + 1]. tasks: names of the
    variables whose terms count.
    """

    experiment: Any
    draw_times: Callable[[PRNGKeyArray, int, int], Array]
    weights: np.ndarray
    variance_weight: float
    tasks: frozenset[str]

    def draw(self, key: PRNGKeyArray, batch: Batch) -> Draws:
        """All that is random in the loss of this batch, dropout aside."""
        time_key, noise_key, presence_key = jax.random.split(key, 3)
        num_steps = self.experiment.process.schedule.num_steps
        names = [m.name for m in self.experiment.modalities]
        available = {name: batch.available[name] for name in names}
        present, known = self.experiment.presence.draw(presence_key, available)
        return Draws(
            t=self.draw_times(time_key, len(batch.z0), num_steps),
            eps=jax.random.normal(noise_key, batch.z0.shape, batch.z0.dtype),
            present=present,
            known=known,
        )

    def counts(self, batch: Batch) -> dict[str, Array]:
        """Over how many examples of a batch each modality's mean goes; 1 for none."""
        return {n: jnp.maximum(jnp.sum(a), 1) for n, a in batch.available.items()} | {
            self.experiment.primary.name: jnp.asarray(len(batch.z0))
        }

    def loss(
        self,
        params: Any,
        batch: Batch,
        draws: Draws,
        counts: Mapping[str, Array],
        dropout_key: PRNGKeyArray | None,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, and its named terms, all without their weights but `loss` itself.

        counts: of the whole batch, where this is a part of one: then losses, terms and
        gradients of the parts add up to those of the whole. dropout_key: None for a
        loss without dropout.
        """
        parts, terms = self.parts(params, batch, draws, counts, dropout_key)
        total = sum(parts[name] for name in parts if name in self.tasks)
        return total, terms | {"loss": total}

    def parts(
        self,
        params: Any,
        batch: Batch,
        draws: Draws,
        counts: Mapping[str, Array],
        dropout_key: PRNGKeyArray | None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What each variable adds to the loss if it is among the tasks, and the terms.

        Arguments and terms as in `loss`.
        """
        latents, z_t, view = self._look(params, batch, draws, dropout_key)
        denoiser, primary = self.experiment.denoiser, self.experiment.primary.name
        step, num = denoiser.process.adjacent(draws.t), counts[primary]
        target = denoiser.prediction.target(step, view.y_t, batch.z0, draws.eps)
        error = jnp.mean((view.out - target) ** 2, axis=(1, 2, 3))
        weights = over(jnp.asarray(self.weights)[draws.t], error)
        terms = {"eps": jnp.sum(error) / num}
        parts = {primary: jnp.sum(weights * error) / num}
        for m in self.experiment.modalities:
            # By the features alone: where a code is legible it says all, and nothing
            # would be left for a head to learn (labels read: 61% so, 14x14).
            nll = m.nll(view.features[m.name], batch.values[m.name])
            there = batch.available[m.name]
            terms[m.name] = jnp.sum(nll * there) / counts[m.name]
            parts[m.name] = m.loss_weight * terms[m.name]
            if m.name in view.log_variances:
                s = view.log_variances[m.name]
                share = jnp.sum(there) / counts[m.name]
                balanced = jnp.exp(-s) * terms[m.name] + s * share
                parts[m.name] = m.loss_weight * balanced
                terms[f"log_variance_{m.name}"] = s * share
        if view.v is not None:
            frozen = view._replace(out=jax.lax.stop_gradient(view.out))
            z0 = denoiser.z0(frozen, step, step.to_comoving(z_t, latents))
            bits = variational_bound(step, z_t, batch.z0, z0, view.v, latents)
            terms["variance"] = jnp.sum(bits) / num
            scale = self.variance_weight * denoiser.process.schedule.num_steps
            parts[primary] += scale * terms["variance"]
        return parts, terms

    def _look(self, params, batch, draws, dropout_key):
        """Codes' latents where present, z_t, and what the model says of it."""
        denoiser = self.experiment.denoiser
        codes = denoiser.encode(params, batch.values)
        latents = {
            n: code.latent * draws.present[n][:, None, None, None]
            for n, code in codes.items()
        }
        conditions = [m.name for m in self.experiment.modalities if m.conditions]
        known = {name: draws.known[name] for name in conditions}
        z_t = denoiser.process.diffuse(batch.z0, latents, draws.t, draws.eps)
        view = denoiser(params, z_t, draws.t, codes, known, batch.values, dropout_key)
        return latents, z_t, view


def build(config: ConfigDict, experiment: Any) -> Objective:
    """The objective that config.objective describes; UserError for what can't be."""
    settings, schedule = config.objective, experiment.process.schedule
    if settings.times not in TIMES:
        raise UserError(
            f"config.objective.times is {settings.times!r}; choose one of "
            f"{list(TIMES)}."
        )
    names = [experiment.primary.name, *(m.name for m in experiment.modalities)]
    tasks = [t.strip() for t in settings.tasks.split(",")] if settings.tasks else names
    if wrong := sorted(set(tasks) - set(names)):
        raise UserError(
            f"config.objective.tasks names {wrong}, which this config does not have; "
            f"give some of {', '.join(names)}, separated by commas, or '' for all."
        )
    return Objective(
        experiment=experiment,
        draw_times=TIMES[settings.times],
        weights=weighting.build(settings, schedule, experiment.denoiser.prediction),
        variance_weight=settings.variance_weight,
        tasks=frozenset(tasks),
    )
