"""What tests of evaluations share: a classifier without training, and tiny runs."""

from operator import gt, lt, ne
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import init_params

# How a floor lies to the ceiling, by what is better.
ORDER = {"higher": lt, "lower": gt, "near": ne}


@flax.struct.dataclass
class NearestMean:
    """A `Network`: the class whose mean image is nearest, and some projections."""

    means: jax.Array
    directions: jax.Array
    accuracy: float = flax.struct.field(pytree_node=False)
    class_names: tuple = flax.struct.field(pytree_node=False)
    digest: str = flax.struct.field(default="0123", pytree_node=False)
    name: ClassVar[str] = "toy"

    def apply(self, images):
        flat = images.reshape(len(images), -1).astype(jnp.float32) / 255
        differences = flat[:, None] - self.means[None]
        logits = -jnp.sum(differences**2, axis=-1)
        return Features(flat @ self.directions, flat[:, ::9], logits)


def digits(split="train"):
    """(images, labels) of scikit-learn's digits."""
    source = sources.open_source(common.digits().data, split)
    return np.stack([source[i]["image"] for i in range(len(source))]), source.labels


def network():
    """A classifier of digits that is right on 9 of 10."""
    images, labels = digits()
    means = np.stack([images[labels == k].mean(axis=0) for k in range(10)]) / 255
    directions = np.random.default_rng(0).normal(size=(64, 6))
    means, directions = (
        x.reshape(-1, n).astype(np.float32) for x, n in ((means, 64), (directions, 6))
    )
    images, labels = digits("test")
    names = tuple(map(str, range(10)))
    found = NearestMean(means, directions, 0.0, names)
    right = np.asarray(found.apply(images).logits).argmax(axis=-1) == labels
    return found.replace(accuracy=float(right.mean()))


def shrink(config):
    """The smallest U-Net and the shortest walk, resolved."""
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 12
    config.sampling.update(num_steps=2, batch_size=64)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


def parameters(experiment, seed=0):
    """Noise everywhere, the last layers too, which otherwise start at zero."""
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    draw = np.random.default_rng(seed).standard_normal
    return jax.tree.map(lambda x: draw(x.shape, np.float32) / 4, shapes)


def save(folder, config, seed=0):
    """A run with one checkpoint, of noise."""
    checkpoints = Checkpoints(folder, keep=1)
    params = parameters(experiments.build(config), seed)
    checkpoints.save(3, {"ema_params": params}, config)
    checkpoints.close()
    return folder
