"""RePaint (Lugmayr et al. 2022): an unconditional diffusion model fills in an image.

The known pixels of every z_s are drawn from their own noised image, and each step is
repeated, noised back up between, so that the filling comes to fit what is known.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mt_diffusion.diffusion import sampler
from mt_diffusion.experiment import Experiment


@functools.partial(jax.jit, static_argnames=("experiment", "num_steps", "repeats"))
def fill(
    params: Any,
    key: Array,
    images: Float[Array, "b h w c"],
    seen: Float[Array, "b h w 1"],
    experiment: Experiment,
    num_steps: int,
    repeats: int,
) -> Float[Array, "b h w c"]:
    """Images in [-1, 1] with new pixels where `seen` is 0.

    repeats: how often each of the num_steps steps is taken (the paper's resampling,
    with jumps of one step).
    """
    process = experiment.process
    times = np.asarray(process.schedule.respaced(num_steps))
    start, end = np.repeat(times[:-1], repeats), np.repeat(times[1:], repeats)
    again = np.arange(len(start)) % repeats < repeats - 1
    again &= end > 0
    transitions = jax.tree.map(jnp.asarray, process.transition(start, end))
    first_key, walk_key = jax.random.split(key)

    def body(z_t, this):
        transition, go_back, key = this
        noise_key, known_key, back_key = jax.random.split(key, 3)
        draw = functools.partial(jax.random.normal, shape=z_t.shape)
        t = jnp.full(len(z_t), transition.t)
        prediction = experiment.network.apply(params, z_t, t, {}, {})
        z0 = sampler.static(transition.z0_from_eps(z_t, prediction.eps))
        here = sampler.Point(transition, z_t, z0)
        v = -jnp.ones_like(z_t) if prediction.v is None else prediction.v
        filled = sampler.ancestral(here, here, 0, v, draw(noise_key))
        known = transition.signal_s * images + transition.noise_s * draw(known_key)
        z_s = jnp.where(seen > 0, known, filled)
        kept = transition.signal_t / transition.signal_s
        back = kept * z_s + jnp.sqrt(1 - kept**2) * draw(back_key)
        return jnp.where(go_back, back, z_s), None

    z = jax.random.normal(first_key, images.shape)
    keys = jax.random.split(walk_key, len(start))
    z, _ = jax.lax.scan(body, z, (transitions, jnp.asarray(again), keys))
    return jnp.where(seen > 0, images, jnp.clip(z, -1, 1))
