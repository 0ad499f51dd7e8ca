"""Bounds on the likelihood: the terms of Theorem 1."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.diffusion import likelihood
from mt_diffusion.diffusion.aggregation import Codes
from mt_diffusion.diffusion.process import Image, Transition


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
    kl = likelihood.gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    nll = -likelihood.discretised(z0, mean, log_variance)
    at_end = jnp.asarray(step.t == 1).reshape(-1, 1, 1, 1)
    return jnp.mean(jnp.where(at_end, nll, kl), axis=(1, 2, 3)) / jnp.log(2.0)
