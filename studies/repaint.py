"""RePaint (Lugmayr et al. 2022): a diffusion model fills in an image.

The known pixels of every z_s are drawn from their own noised image, and each step but
the last is repeated, noised back up between, so that the filling comes to fit what is
known. A model of images alone can do this, and so can one of masked images, in the
state in which these are absent or while it reads them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mt_diffusion.diffusion import sampler, solvers, spacing
from mt_diffusion.experiment.experiment import Experiment


@functools.partial(jax.jit, static_argnames=("experiment", "num_steps", "repeats"))
def fill(
    params: Any,
    key: Array,
    images: Float[Array, "b h w c"],
    seen: Float[Array, "b h w 1"],
    values: dict[str, Array],
    experiment: Experiment,
    num_steps: int,
    repeats: int,
) -> Float[Array, "b h w c"]:
    """Images in [-1, 1] with new pixels where `seen` is 0.

    values: of modalities that the network reads all the way. repeats: how often each
    of the num_steps steps but the last is taken (the paper's resampling, with jumps of
    one step).
    """
    denoiser = experiment.denoiser
    times = spacing.respaced(denoiser.process.schedule, num_steps)
    steps, visit = sampler.visits(times, repeats)
    transitions = denoiser.process.transition(times[:-1][steps], times[1:][steps])
    transitions = jax.tree.map(jnp.asarray, transitions)
    first_key, walk_key = jax.random.split(key)
    codes = denoiser.encode(params, values)
    latents = {name: code.latent for name, code in codes.items()}
    known = dict.fromkeys(values, jnp.ones(len(images), bool))

    def body(u_t, this):
        step, go_back, key = this
        noise_key, known_key, back_key = jax.random.split(key, 3)
        draw = functools.partial(jax.random.normal, shape=u_t.shape)
        t = jnp.full(len(u_t), step.t)
        z_t = u_t + denoiser.process.aggregation.drift(latents, t)
        view = denoiser(params, z_t, t, codes, known, values)
        z0 = sampler.static(denoiser.z0(view, step, u_t))
        here = solvers.Point(step, z_t, z0, latents)
        v = -jnp.ones_like(u_t) if view.v is None else view.v
        z_s = solvers.ancestral(here, here, 0, v, draw(noise_key))
        filled = step.at_end(z_s, latents)
        noised = step.signal_s * images + step.noise_s * draw(known_key)
        u_s = jnp.where(seen > 0, noised, filled)
        kept = step.signal_t / step.signal_s
        back = kept * u_s + jnp.sqrt(1 - kept**2) * draw(back_key)
        return jnp.where(go_back, back, u_s), None

    u_T = jax.random.normal(first_key, images.shape)
    keys = jax.random.split(walk_key, len(steps))
    u_0, _ = jax.lax.scan(body, u_T, (transitions, jnp.asarray(visit.again), keys))
    return jnp.where(seen > 0, images, jnp.clip(u_0, -1, 1))
