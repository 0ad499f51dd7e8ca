"""The training objective: the multi-task ELBO, a weighted sum of per-example terms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mt_diffusion.diffusion.aggregation import Codes
from mt_diffusion.diffusion.process import Image, Process, Transition
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
        step = adjacent_transition(process, t)
        bound = variational_bound(step, z_t, batch.z0, frozen, prediction.v, latents)
        terms["variance"] = jnp.mean(bound)
        total += variance_weight * process.schedule.num_steps * terms["variance"]
    return total, terms | {"loss": total}


def masked_mean(x: Float[Array, " b"], mask: Bool[Array, " b"]) -> Float[Array, ""]:
    """Mean of x where mask is true; 0 where it is nowhere."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def adjacent_transition(process: Process, t: Int[Array, " b"]) -> Transition:
    """The transition t -> t - 1 for traced t [B] in 1..T."""
    times = np.arange(1, process.schedule.num_steps + 1)
    table = process.transition(times, times - 1)
    return jax.tree.map(lambda x: jnp.asarray(x)[t - 1], table)


def variational_bound(
    step: Transition, z_t: Image, z0: Image, eps: Image, v: Image, codes: Codes
) -> Float[Array, " b"]:
    """L1's term of one step, or L3 at t = 1, in bits per dimension [B] (ADM's vb term).

    The KL between q(z_{t-1} | z_t, z_0, X) and the model's Gaussian, in the co-moving
    frame; at t = 1 the negative log likelihood of z_0 on 256 levels.
    """
    u_t = step.to_comoving(z_t, codes)
    mean = step.posterior_mean(u_t, step.z0_from_eps(u_t, eps))
    log_variance = step.log_variance(v)
    true_mean = step.posterior_mean(u_t, z0)
    true_log_variance = step.log_variance(-jnp.ones_like(v))
    kl = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    nll = -discretised_log_likelihood(z0, mean, log_variance)
    at_end = jnp.asarray(step.t == 1).reshape(-1, 1, 1, 1)
    return jnp.mean(jnp.where(at_end, nll, kl), axis=(1, 2, 3)) / jnp.log(2.0)


def gaussian_kl(mean1: Array, log_var1: Array, mean2: Array, log_var2: Array) -> Array:
    """KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2))) in nats, elementwise."""
    ratio = jnp.exp(log_var1 - log_var2)
    distance = (mean1 - mean2) ** 2 * jnp.exp(-log_var2)
    return 0.5 * (log_var2 - log_var1 - 1 + ratio + distance)


def discretised_log_likelihood(x: Array, mean: Array, log_variance: Array) -> Array:
    """Log p of x on 256 levels in [-1, 1] under a Gaussian, in nats, elementwise.

    The mass of the level's bin; the outermost bins reach to infinity. The distribution
    function is ADM's tanh approximation, so that bits per dimension compare with ADM's.
    """
    scale = jnp.exp(0.5 * log_variance)
    upper = _normal_cdf((x - mean + 1 / 255) / scale)
    lower = _normal_cdf((x - mean - 1 / 255) / scale)
    mass = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(mass, 1e-12))


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3)))
