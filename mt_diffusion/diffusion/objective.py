"""The training objective: the multi-task ELBO, a weighted sum of per-example terms."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mt_diffusion.diffusion.bound import variational_bound
from mt_diffusion.modalities.base import Batch


def draw_presence(
    key: PRNGKeyArray, modality: Any, available: Bool[Array, " b"]
) -> tuple[Bool[Array, " b"], Bool[Array, " b"]]:
    """Which examples the modality drifts, and in which of these it is also read, [B].

    Absent with probability drop_rate; drifting but unread, as when it is generated,
    with probability null_rate.
    """
    u = jax.random.uniform(key, available.shape)
    present = available & (u >= modality.drop_rate)
    known = present & (u >= modality.drop_rate + modality.null_rate)
    return present, known


def loss(
    key: PRNGKeyArray,
    batch: Batch,
    experiment: Any,
    params: Any,
    variance_weight: float,
    deterministic: bool,
) -> tuple[Array, dict[str, Array]]:
    """Mean training loss of a batch and its named terms (paper eq. 7).

    l = mean||eps_theta - eps||^2 + sum_i lambda_i nll_i [+ variance_weight * L_vlb],
    with t uniform on 1..T, and L_vlb, a sum over t, as T times the mean of its terms
    (ADM's hybrid loss). A modality's mean is over the examples that have its value.
    deterministic: without dropout. Terms are scalars, `loss` their weighted sum.
    """
    time_key, noise_key, presence_key, dropout_key = jax.random.split(key, 4)
    process, network = experiment.process, experiment.network
    modalities = experiment.modalities
    codes = network.apply(params, batch.values, method="encode")
    latents, known = {}, {}
    for i, m in enumerate(modalities):
        presence = jax.random.fold_in(presence_key, i)
        present, read = draw_presence(presence, m, batch.available[m.name])
        latents[m.name] = codes[m.name].latent * present[:, None, None, None]
        if m.conditions:
            known[m.name] = read

    t = jax.random.randint(
        time_key, batch.z0.shape[:1], 1, process.schedule.num_steps + 1
    )
    z_t, eps = process.diffuse(noise_key, batch.z0, latents, t)
    prediction = network.apply(
        params, z_t, t, codes, known, deterministic, rngs={"dropout": dropout_key}
    )

    terms = {"eps": jnp.mean((prediction.eps - eps) ** 2)}
    total = terms["eps"]
    for m in modalities:
        nll = m.nll(prediction.heads[m.name], batch.values[m.name])
        terms[m.name] = masked_mean(nll, batch.available[m.name])
        total += m.loss_weight * terms[m.name]
    if prediction.v is not None:
        frozen = jax.lax.stop_gradient(prediction.eps)
        step = process.adjacent(t)
        bits = variational_bound(step, z_t, batch.z0, frozen, prediction.v, latents)
        terms["variance"] = jnp.mean(bits)
        total += variance_weight * process.schedule.num_steps * terms["variance"]
    return total, terms | {"loss": total}


def masked_mean(x: Float[Array, " b"], mask: Bool[Array, " b"]) -> Float[Array, ""]:
    """Mean of x where mask is true; 0 where it is nowhere."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)
