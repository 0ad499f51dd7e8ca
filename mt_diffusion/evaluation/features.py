"""Features of images for the metrics: what a frozen network sees in them."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation.networks import convnet, inception
from mt_diffusion.evaluation.networks.network import Features, Network
from mt_diffusion.parallel import batches, sharding


def build(kind: str, data: ConfigDict, weights: str, mesh: Mesh) -> Network:
    """The network `kind`, its parameters on all devices of the mesh.

    data: config.data, of which `convnet` learns the classes (trained now, if it is not
    in the cache). weights: the file of `inception`, '' for the other. Raises UserError
    where one is missing, superfluous or unfit.
    """
    if kind not in BUILDERS:
        raise UserError(f"--features={kind} is unknown; choose of {list(BUILDERS)}.")
    return jax.device_put(BUILDERS[kind](data, weights), sharding.replicated(mesh))


def _convnet(data: ConfigDict, weights: str) -> Network:
    if weights:
        raise UserError(
            f"--weights={weights} is for --features=inception; convnet is trained on "
            "the data set. Leave one of them out."
        )
    return convnet.load_or_train(data)


def _inception(data: ConfigDict, weights: str) -> Network:
    if not weights:
        raise UserError(
            "--features=inception needs --weights=FILE, where FILE is "
            "weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases."
        )
    return inception.load(weights)


BUILDERS = {"convnet": _convnet, "inception": _inception}


def extract(
    network: Network,
    images: Sequence[UInt8[np.ndarray, "h w c"]] | UInt8[np.ndarray, "n h w c"],
    batch_size: int,
    mesh: Mesh,
    what: str,
) -> Features:
    """Features of all images, as numpy arrays, whatever the batch size.

    images: one or more, uint8 [N, H, W, C], or what gives such when it is sliced; other
    dtypes are a ValueError. Each batch is split over the mesh. what: for the progress.
    """
    size = sharding.batch_size(batch_size, len(images), mesh)

    def of(rows):
        part = np.asarray(images[rows[0] : rows[0] + size])
        return of_batch(network, part, size, mesh)

    return batches.through(of, range(len(images)), size, what, "image")


def of_batch(
    network: Network, images: UInt8[np.ndarray, "n h w c"], batch_size: int, mesh: Mesh
) -> Features:
    """Of n <= batch_size images, as numpy arrays; batch_size are always computed.

    So one program serves all batches. batch_size: a multiple of the devices. Raises
    ValueError for images of another dtype.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}, not uint8")
    padded = images[np.arange(batch_size) % len(images)]
    padded = jax.device_put(padded, sharding.over_batch(mesh))
    found = jax.device_get(apply(network, padded))
    return jax.tree.map(lambda x: x[: len(images)], found)


@jax.jit
def apply(network: Network, images: UInt8[Array, "b h w c"]) -> Features:
    """`network.apply`, compiled once for each kind of network and size of batch."""
    return network.apply(images)
