"""The training objective: the multi-task ELBO, a weighted sum of per-example terms."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.bound import variational_bound
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.presence import Bits, Presence
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.protocol import Batch, is_evident
from mt_diffusion.training import weighting


@struct.dataclass
class Draws:
    """What is random in the loss of a batch, per example.

    t [B] in 1..T, eps [B, H, W, C], and by modality: present [B], whether it drifts,
    and known [B], whether the network may also read it; what is in neither is absent.
    bare: None where no head needs them.
    """

    t: Any
    eps: Any
    present: Mapping[str, Any]
    known: Mapping[str, Any]
    bare: "Bare | None" = None


@struct.dataclass
class Bare:
    """Examples of a batch that are looked at once more, and what is random of that."""

    batch: Batch
    draws: Draws


def uniform(key: PRNGKeyArray, num: int, num_steps: int) -> Int[Array, " b"]:
    """Independent times, [num], uniform on 1..T."""
    return jax.random.randint(key, (num,), 1, num_steps + 1)


def stratified(key: PRNGKeyArray, num: int, num_steps: int) -> Int[Array, " b"]:
    """Times [num] evenly spread over 1..T, each uniform (VDM's low discrepancy)."""
    first = jax.random.randint(key, (), 0, num_steps)
    return 1 + (first + jnp.arange(num) * num_steps // num) % num_steps


TIMES = {"uniform": uniform, "stratified": stratified}
ALL = "all"  # of what an example is bare; or of one


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The loss of an experiment (the paper's eq. 7; method.md, eq. 25).

    l = weights_t mean||out - target||^2 + sum_i lambda_i v_t nll_i [+ variance_weight *
    L_vlb], with the target of diffusion/prediction.py; the term 'eps' is its mean
    square error. L_vlb, a sum over t, is T times the mean of its terms (ADM's hybrid
    loss). A learned balance makes it lambda_i (exp(-s_i) nll_i + s_i), with the log
    variances s_i among the parameters (Kendall et al. 2018).

    A modality that is looked for by its code is told to the network by that where it
    drifts, and a head would learn to repeat it. So such heads learn where it is absent,
    and from one example in `bare_every` looked at once more: bare of all modalities, or
    of one of them in turn, and told of the others as `presence` says.

    primary: the name of z_0. weights: float64 [T + 1]. head_weights: v, of the
    modalities whose v is not 1. tasks: names of the variables whose terms count.
    """

    denoiser: Denoiser
    presence: Presence
    primary: str
    draw_times: Callable[[PRNGKeyArray, int, int], Array]
    weights: np.ndarray
    head_weights: Mapping[str, np.ndarray]
    variance_weight: float
    tasks: frozenset[str]
    bare_every: int
    bare_of: str

    @property
    def evident(self) -> list[str]:
        """Modalities that are looked for by their code."""
        return [m.name for m in self.denoiser.modalities if is_evident(m)]

    def draw(self, key: PRNGKeyArray, batch: Batch, multiple: int = 1) -> Draws:
        """All that is random in the loss of this batch, dropout aside.

        multiple: of how many examples there must be a multiple to share them out.
        """
        bare = None
        if self.evident and self.bare_every:
            key, bare_key = jax.random.split(key)
            bare = self._draw_bare(bare_key, batch, multiple)
        time_key, noise_key, presence_key = jax.random.split(key, 3)
        num_steps = self.denoiser.process.schedule.num_steps
        present, known = self._draw_states(presence_key, batch)
        return Draws(
            t=self.draw_times(time_key, len(batch.z0), num_steps),
            eps=jax.random.normal(noise_key, batch.z0.shape, batch.z0.dtype),
            present=present,
            known=known,
            bare=bare,
        )

    def _draw_bare(self, key: PRNGKeyArray, batch: Batch, multiple: int) -> Bare:
        """The first of every `bare_every` examples, at times and noise of their own.

        What fills them up to a multiple has no values, and counts for nothing.
        """
        num = max(len(batch.z0) // self.bare_every, 1)
        rest = -num % multiple
        time_key, noise_key = jax.random.split(key)
        num_steps = self.denoiser.process.schedule.num_steps
        t = self.draw_times(time_key, num, num_steps)
        eps = jax.random.normal(noise_key, (num, *batch.z0.shape[1:]), batch.z0.dtype)
        some = jax.tree.map(lambda x: x[:: len(x) // num][:num], batch)
        fill = lambda x: jnp.pad(x, [(0, rest), *[(0, 0)] * (x.ndim - 1)])  # noqa: E731
        some, t, eps = jax.tree.map(fill, (some, t, eps))
        present, known = self._draw_others(jax.random.fold_in(key, 2), some)
        return Bare(some, Draws(jnp.maximum(t, 1), eps, present, known))

    def _draw_states(self, key: PRNGKeyArray, batch: Batch) -> tuple[Bits, Bits]:
        """What drifts, and what of that is read."""
        names = [m.name for m in self.denoiser.modalities]
        return self.presence.draw(key, {name: batch.available[name] for name in names})

    def _draw_others(self, key: PRNGKeyArray, batch: Batch) -> tuple[Bits, Bits]:
        """The same where one modality in turn, or all of them, must not."""
        if self.bare_of == ALL or len(self.denoiser.modalities) == 1:
            return {}, {}
        drawn = self._draw_states(key, batch)
        for i, name in enumerate(self.evident):
            others = jnp.arange(len(batch.z0)) % len(self.evident) != i
            for bits in drawn:
                bits[name] &= others
        return drawn

    def _reads(self, name: str, batch: Batch, draws: Draws) -> Bool[Array, " b"]:
        """From which examples of the batch itself a modality's head learns, [B]."""
        there = batch.available[name]
        told = name in self.evident and name in draws.present
        return there & ~draws.present[name] if told else there

    def counts(self, batch: Batch, draws: Draws) -> dict[str, Array]:
        """Over how many examples of a batch each modality's mean goes; 1 for none."""
        found = {self.primary: jnp.asarray(len(batch.z0))}
        for name in batch.available:
            num = jnp.sum(self._reads(name, batch, draws))
            if draws.bare is not None and name in self.evident:
                num += jnp.sum(self._reads(name, draws.bare.batch, draws.bare.draws))
            found[name] = jnp.maximum(num, 1)
        return found

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
        total: Any = sum(parts[name] for name in parts if name in self.tasks)
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
        bare_key = None
        if draws.bare is not None and dropout_key is not None:
            dropout_key, bare_key = jax.random.split(dropout_key)
        latents, z_t, view = self._look(params, batch, draws, dropout_key)
        losses = self._losses(params, view, batch, draws, bare_key)
        denoiser, primary = self.denoiser, self.primary
        step, num = denoiser.process.adjacent(draws.t), counts[primary]
        target = denoiser.prediction.target(step, view.y_t, batch.z0, draws.eps)
        error = jnp.mean((view.out - target) ** 2, axis=(1, 2, 3))
        weights = over(jnp.asarray(self.weights)[draws.t], error)
        terms = {"eps": jnp.sum(error) / num}
        loss_weights = {m.name: m.loss_weight for m in denoiser.modalities}
        parts = {primary: jnp.sum(weights * error) / num}
        for name, (nll, num_read) in losses.items():
            weight = loss_weights[name]
            terms[name] = nll / counts[name]
            parts[name] = weight * terms[name]
            if name in view.log_variances:
                s = view.log_variances[name]
                share = num_read / counts[name]
                balanced = jnp.exp(-s) * terms[name] + s * share
                parts[name] = weight * balanced
                terms[f"log_variance_{name}"] = s * share
        if view.v is not None:
            frozen = view._replace(out=jax.lax.stop_gradient(view.out))
            z0 = denoiser.z0(frozen, step, step.to_comoving(z_t, latents))
            bits = variational_bound(step, z_t, batch.z0, z0, view.v, latents)
            terms["variance"] = jnp.sum(bits) / num
            scale = self.variance_weight * denoiser.process.schedule.num_steps
            parts[primary] += scale * terms["variance"]
        return parts, terms

    def _losses(self, params, view, batch, draws, bare_key):
        """{modality: (the sum of its nll, over how many examples)}."""
        reads = {n: self._reads(n, batch, draws) for n in batch.available}
        looks = [(view.features, batch, draws.t, reads)]
        if draws.bare is not None:
            some, own = draws.bare.batch, draws.bare.draws
            _, _, again = self._look(params, some, own, bare_key)
            reads = {name: self._reads(name, some, own) for name in self.evident}
            looks.append((again.features, some, own.t, reads))
        found = {}
        for m in self.denoiser.modalities:
            parts = [
                (self._nll(m, features, some, t), reads[m.name])
                for features, some, t, reads in looks
                if m.name in reads
            ]
            nll = sum(jnp.sum(nll * there) for nll, there in parts)
            found[m.name] = nll, sum(jnp.sum(there) for _, there in parts)
        return found

    def _nll(self, m, features, batch, t):
        """What the head of a modality has not said, [B], weighted by t."""
        nll = m.nll(features[m.name], batch.values[m.name])
        if m.name not in self.head_weights:
            return nll
        return nll * over(jnp.asarray(self.head_weights[m.name])[t], nll)

    def _look(self, params, batch, draws, dropout_key):
        """Codes' latents where present, z_t, and what the model says of it."""
        denoiser, present = self.denoiser, draws.present
        values = {name: batch.values[name] for name in present}
        codes = denoiser.encode(params, values)
        latents = {
            n: code.latent * present[n][:, None, None, None]
            for n, code in codes.items()
        }
        reads = [m.name for m in denoiser.modalities if m.conditions]
        known = {name: draws.known[name] for name in reads if name in present}
        z_t = denoiser.process.diffuse(batch.z0, latents, draws.t, draws.eps)
        view = denoiser(params, z_t, draws.t, codes, known, values, dropout_key)
        return latents, z_t, view


def build(config: ConfigDict, experiment: Experiment) -> Objective:
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
        denoiser=experiment.denoiser,
        presence=experiment.presence,
        primary=experiment.primary.name,
        draw_times=TIMES[settings.times],
        weights=weighting.build(settings, schedule, experiment.denoiser.prediction),
        head_weights=weighting.of_heads(settings, schedule, experiment.modalities),
        variance_weight=settings.variance_weight,
        tasks=frozenset(tasks),
        bare_every=settings.bare_every,
        bare_of=settings.bare_of,
    )
