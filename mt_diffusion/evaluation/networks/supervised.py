"""Training a classifier on a data source, and its accuracy.

A network here is a Flax module that gives `Features` of uint8 images, and has a mode
`train` in which batch norm goes by the batch. Nothing is learnt from examples without a
class.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, UInt8

from mt_diffusion.data import sources
from mt_diffusion.parallel.progress import Progress

MAX_BYTES = 2**31  # of images that are held in memory
TEST_BATCH = 500
READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)

Pair = tuple[UInt8[np.ndarray, "h w c"], np.int32]  # an image and its class
Variables = dict[str, Any]  # of Flax: "params", and statistics of batch norm
State = tuple[Variables, optax.OptState]
Step = Callable[[State, Array, Array], State]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    num_images: seen in all, but min_epochs to max_epochs times each. warmup: share of
    the steps. shift: of an image, as a share of its size, at random each way.
    """

    num_images: int
    min_epochs: int
    max_epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    shift: float
    seed: int

    def num_steps(self, num_examples: int) -> int:
        """Steps of training on so many examples, 1 or more."""
        epochs = self.num_images / num_examples
        epochs = min(max(epochs, self.min_epochs), self.max_epochs)
        return max(round(epochs * num_examples / self.batch_size), 1)


def as_pair(example: dict) -> Pair:
    """The image and the class of an example, -1 where it has none."""
    return example["image"], np.int32(example.get(sources.CLASS, -1))


def fit(
    network: nn.Module, source: sources.Source, recipe: Recipe, what: str
) -> Variables:
    """Variables after training; on the same machine, the same ones each time.

    what: for the progress, with the time left.
    """
    num_steps = recipe.num_steps(len(source))
    print(f"{what}: {num_steps:,} steps of training on {len(source):,} images")
    optimizer = build_optimizer(recipe, num_steps)
    train_step = build_step(network, optimizer)
    image = jnp.asarray(source[0]["image"])
    variables = jax.jit(network.init)(jax.random.key(recipe.seed), image[None])
    state = variables, optimizer.init(variables["params"])
    batches = training_batches(source, recipe)[:num_steps].to_iter_dataset(READ)
    for images, labels in Progress(batches, what, num_steps, "step"):
        state = train_step(state, images, labels)
        jax.block_until_ready(state)  # or the progress would run ahead of the work
    return state[0]


def build_optimizer(recipe: Recipe, num_steps: int) -> optax.GradientTransformation:
    """AdamW; the rate rises linearly, then follows a cosine down to zero."""
    warmup_steps = int(recipe.warmup * num_steps)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, warmup_steps, num_steps
    )
    return optax.adamw(rate, weight_decay=recipe.weight_decay)


def build_step(network: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """A jitted training step on the mean cross-entropy of examples with a class."""

    def loss(params, statistics, images, labels):
        features, statistics = network.apply(
            {"params": params} | statistics, images, train=True, mutable=[*statistics]
        )
        known = labels >= 0
        nats = optax.softmax_cross_entropy_with_integer_labels(
            features.logits, jnp.maximum(labels, 0)
        )
        return nats.sum(where=known) / jnp.maximum(known.sum(), 1), statistics

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, images, labels):
        variables, opt_state = state
        params = variables["params"]
        statistics = {name: x for name, x in variables.items() if name != "params"}
        grads, statistics = jax.grad(loss, has_aux=True)(
            params, statistics, images, labels
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return {"params": params} | statistics, opt_state

    return train_step


def training_batches(source: sources.Source, recipe: Recipe) -> grain.MapDataset:
    """Random access to batches of shifted images and classes, endlessly.

    Every epoch is a new permutation.
    """
    examples = grain.MapDataset.source(held(source)).seed(recipe.seed)
    move = functools.partial(shifted, share=recipe.shift)
    return examples.shuffle().repeat().random_map(move).batch(recipe.batch_size)


def held(source: sources.Source) -> Sequence[Pair]:
    """All pairs of a source, in memory if they are not too many."""
    pairs = grain.MapDataset.source(source).map(as_pair)
    if len(source) * source[0]["image"].nbytes > MAX_BYTES:
        return pairs
    in_order = pairs.to_iter_dataset(READ)
    return list(Progress(in_order, "reading", len(source), "image"))


def shifted(pair: Pair, rng: np.random.Generator, share: float) -> Pair:
    """Moves an image by up to a share of its size, and up to a pixel at least.

    Black comes in at the border.
    """
    image, label = pair
    height, width, _ = image.shape
    margin = max(round(share * width), 1)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    y, x = rng.integers(0, 2 * margin + 1, 2)
    return padded[y : y + height, x : x + width], label


def accuracy(network: nn.Module, variables: Variables, source: sources.Source) -> float:
    """Share of the examples with a class that get it; NaN where none has one."""
    apply: Any = network.apply
    predict = jax.jit(lambda v, images: apply(v, images).logits.argmax(-1))
    pairs = grain.MapDataset.source(source).map(as_pair)
    batches = pairs.batch(TEST_BATCH).to_iter_dataset(READ)
    num, correct = 0, 0
    total = math.ceil(len(source) / TEST_BATCH)
    for images, labels in Progress(batches, "testing", total, "batch"):
        num += np.sum(labels >= 0)
        correct += np.sum(np.asarray(predict(variables, images)) == labels)
    return float(correct / num) if num else math.nan
