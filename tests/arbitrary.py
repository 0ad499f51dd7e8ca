"""Parameters that know nothing, the last layers' too, which otherwise start at zero."""

import jax
import numpy as np

from mt_diffusion.experiment.experiment import init_params


def parameters(experiment, seed=0):
    """Noise in the shapes of an experiment's parameters."""
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    draw = np.random.default_rng(seed).standard_normal
    return jax.tree.map(lambda x: draw(x.shape, np.float32) / 4, shapes)
