"""Logarithms of densities and divergences, in nats, elementwise."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike


def gaussian_kl(mean1: Array, log_var1: Array, mean2: Array, log_var2: Array) -> Array:
    """KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2)))."""
    ratio = jnp.exp(log_var1 - log_var2)
    distance = (mean1 - mean2) ** 2 * jnp.exp(-log_var2)
    return 0.5 * (log_var2 - log_var1 - 1 + ratio + distance)


def gaussian(x: Array, mean: Array, log_variance: Array | np.ndarray | float) -> Array:
    """Log density of x under N(mean, exp(log_variance))."""
    distance = (x - mean) ** 2 * jnp.exp(-log_variance)
    return -0.5 * (jnp.log(2 * jnp.pi) + log_variance + distance)


def discretised(x: Array, mean: Array, log_variance: ArrayLike) -> Array:
    """Log probability of x on 256 levels in [-1, 1] under N(mean, exp(log_variance)).

    The mass of the level's bin; the outermost bins reach to infinity. The distribution
    function is ADM's tanh approximation, so that bits per dimension compare with ADM's.
    """
    scale = jnp.exp(0.5 * log_variance)
    # In terms of |x - mean|, for only the lower tail keeps its digits in float32.
    distance = jnp.abs(x - mean)
    inner = _normal_cdf((1 / 255 - distance) / scale)
    inner -= _normal_cdf((-1 / 255 - distance) / scale)
    lowest = _normal_cdf((x - mean + 1 / 255) / scale)
    highest = _normal_cdf((mean - x + 1 / 255) / scale)
    mass = jnp.where(x < -0.999, lowest, jnp.where(x > 0.999, highest, inner))
    return jnp.log(jnp.maximum(mass, 1e-12))


def _normal_cdf(x: Array) -> Array:
    return jax.nn.sigmoid(2 * jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * x**3))
