"""`convnet`: a small classifier of the images of one data set, trained once and kept.

Its features stand in for Inception's where images are small or grey. The parameters
are kept below the user's cache folder, under a hash of all that decides them. Two
trainings on different machines differ by rounding, and so do the distances by their
features: the same images had a FID of 0.76 and 0.68. So those of Fashion-MNIST come
along.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import contents
from mt_diffusion.evaluation.networks import supervised
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.evaluation.networks.supervised import Recipe
from mt_diffusion.files import weights, writing
from mt_diffusion.inference.precompute import images_alone

MAX_SIZE = 64  # of the images
WIDTHS = (16, 32, 64, 128)  # of the stages
DEPTHS = (1, 2, 2, 1)
MOMENTUM = 0.95  # of the statistics of batch norm
SPATIAL = 7  # channels of a map that sFID reads, as of Inception
RECIPE = Recipe(
    num_images=300_000,
    min_epochs=2,
    max_epochs=20,
    batch_size=64,
    learning_rate=5e-3,
    warmup=0.1,
    weight_decay=0.05,
    shift=1 / 16,
    seed=0,
)
COME_ALONG = pathlib.Path(__file__).parent / "classifiers"
VERSION = 1  # to be raised where the code changes what is trained
# In one pass of bfloat16, a TPU's own way, the features would be other ones there.
PRECISION = jax.lax.Precision.HIGH
ACCURACY = "accuracy"  # its name in the file, beside the parameters

Arrays = dict[str, np.ndarray]


class ConvNet(nn.Module):
    """Stages of 3x3 convolutions, each with batch norm and ReLU, and max pooling.

    The resolution halves between stages; more than 32x32 begin at half of theirs.
    (Batch norm, since in as many steps on Fashion-MNIST group norm learnt far less.)
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, images: UInt8[Array, "b h w c"], train: bool = False
    ) -> Features:
        """Of the last stage pooled [B, 128], of the second spatial, and logits."""
        maps: list[Array] = []
        h = images.astype(jnp.float32) / 127.5 - 1
        if h.shape[1] > MAX_SIZE // 2:
            h = nn.avg_pool(h, (2, 2), (2, 2))
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            if maps:
                h = nn.max_pool(h, (2, 2), (2, 2), "SAME")
            for _ in range(depth):
                h = nn.Conv(width, (3, 3), use_bias=False, precision=PRECISION)(h)
                h = nn.relu(nn.BatchNorm(not train, momentum=MOMENTUM)(h))
            maps.append(h)
        pooled = h.mean((1, 2))
        spatial = maps[1][..., :SPATIAL].reshape(len(h), -1)
        logits = nn.Dense(self.num_classes, precision=PRECISION)(pooled)
        return Features(pooled, spatial, logits)


@flax.struct.dataclass
class Classifier:
    """A `Network` that knows the classes of its data.

    accuracy: on the test images, NaN where none of these has a class.
    """

    variables: Any
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    accuracy: float = flax.struct.field(pytree_node=False)
    digest: str = flax.struct.field(pytree_node=False)
    name: ClassVar[str] = "convnet"

    def apply(self, images: UInt8[Array, "b h w c"]) -> Features:
        """Features of uint8 images of its data's size; softmax for probabilities."""
        network: Any = ConvNet(len(self.class_names))
        return network.apply(self.variables, images)


def load_or_train(
    data: ConfigDict, cache: pathlib.Path | None = None, recipe: Recipe = RECIPE
) -> Classifier:
    """The classifier of config.data: one that comes along, or of `cache`, or trained.

    cache: a folder, the user's by default. It learns from labels that config.data.keep
    leaves out, too: one network judges all models of a data set. Raises UserError for
    data without classes, images of more than 64x64, and a cache that can't be written
    to.
    """
    data = images_alone(data)
    train, test = (sources.open_source(data, split) for split in ("train", "test"))
    check(train, data)
    cache = cache or writing.user_cache("classifiers")
    digits = fingerprint(train, test, recipe)
    path = cache / f"{file_name(data)}-{digits}.npz"
    network = ConvNet(len(train.class_names))
    there = (*COME_ALONG.glob(f"*-{digits}.npz"), path)
    read = (load(place, network, train[0]["image"]) for place in there)
    arrays = next((found for found in read if found is not None), None)
    if arrays is None:
        writing.make_folder(cache, f"the cache of classifiers, {cache},")
        variables = supervised.fit(network, train, recipe, Classifier.name)
        accuracy = supervised.accuracy(network, variables, test)
        arrays = jax.device_get(named(variables)) | {ACCURACY: np.asarray(accuracy)}
        writing.arrays(path, arrays)
        print(f"{Classifier.name}: wrote {path}")
    accuracy = float(arrays.pop(ACCURACY))
    print(f"{Classifier.name}: test accuracy {accuracy:.1%}")
    return Classifier(
        variables=jax.tree.map(jnp.asarray, unflatten_dict(arrays, "/")),
        class_names=tuple(train.class_names),
        accuracy=accuracy,
        digest=weights.digest(arrays),
    )


def check(source: sources.Source, data: ConfigDict) -> None:
    """Raises UserError for data from which it can't learn."""
    remedy = "use --features=inception with --weights=FILE instead"
    if len(source.class_names) < 2:
        raise UserError(
            "--features=convnet learns the classes of the data set, but this one "
            f"(config.data.source = {data.source!r}) has "
            f"{list(source.class_names) or 'none'}; {remedy}."
        )
    if data.image_size > MAX_SIZE:
        raise UserError(
            f"--features=convnet is for images of {MAX_SIZE}x{MAX_SIZE} at most, but "
            f"config.data.image_size is {data.image_size}; {remedy}."
        )


def file_name(data: ConfigDict) -> str:
    """What people call the data set, in letters that a file may have."""
    name = data.name or pathlib.Path(data.path).name or data.source
    return re.sub(r"[^\w.-]+", "_", name)


def fingerprint(train: sources.Source, test: sources.Source, recipe: Recipe) -> str:
    """16 hexadecimal digits that stand for all that decides the classifier.

    That is this file's constants, the recipe, and what both splits hold; not where the
    data lies.
    """
    fixed = [VERSION, WIDTHS, DEPTHS, MOMENTUM, SPATIAL, dataclasses.asdict(recipe)]
    held = [contents.digest(source) for source in (train, test)]
    return hashlib.sha256(json.dumps([fixed, held]).encode()).hexdigest()[:16]


def load(path: pathlib.Path, network: ConvNet, image: np.ndarray) -> Arrays | None:
    """Variables and accuracy by name; None where they are yet to be made.

    A file that is damaged or of another network counts as none, with a notice.
    """
    if not path.exists():
        return None
    variables = jax.eval_shape(network.init, jax.random.key(0), image[None])
    wanted = {name: x.shape for name, x in named(variables).items()} | {ACCURACY: ()}
    try:
        found = weights.read_npz(path)
        weights.check({n: x.shape for n, x in found.items()}, wanted, "other arrays")
    except Exception as error:  # whatever a damaged file makes its reader raise
        print(f"{Classifier.name}: {path} is of no use, so it is made anew: {error}")
        return None
    return found


def named(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of a tree by their paths, joined with '/'."""
    return flatten_dict(variables, sep="/")
