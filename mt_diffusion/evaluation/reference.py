"""Statistics of real images that generated ones are compared with; `--mode=reference`.

A file has the arrays of guided-diffusion's reference batches (ADM): images `arr_0` and
labels `arr_1` of at most 10,000, `mu` and `sigma` of pooled features of all images,
`mu_s` and `sigma_s` of spatial ones; and, in ours alone, of how many images they are,
and by which network.
"""

import concurrent.futures
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import features
from mt_diffusion.evaluation.networks.network import Network
from mt_diffusion.evaluation.quality import Moments, Statistics
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.files import vectors, weights, writing
from mt_diffusion.inference.precompute import images_alone
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress

MAX_IMAGES = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What is known of real images. ADM's files don't say what is None or '' here.

    images: the kept ones, None in files of statistics alone; labels: their classes, -1
    where one has none. num_images: how many the statistics are of. network,
    network_digest: whose features these are.
    """

    images: UInt8[np.ndarray, "n h w c"] | None
    labels: Int[np.ndarray, " n"] | None
    pooled: Statistics
    spatial: Statistics | None
    num_images: int | None
    network: str
    network_digest: str

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for all of it."""
        return weights.digest(as_arrays(self))


def make(
    config: ConfigDict,
    kind: str,
    weights_file: str,
    split: str,
    num_images: int | None,
    out: pathlib.Path,
) -> None:
    """Writes the reference of a split of config.data to `out`, an .npz.

    kind, weights_file: of the feature network, as `features.build` has them.
    num_images: spread evenly over the split; all where None. Raises UserError for an
    `out` that exists, or more images than there are.
    """
    vectors.check_writable(out)
    experiments.check(config)
    batch_size = config.sampling.batch_size
    if batch_size < 1:
        raise UserError(f"config.sampling.batch_size is {batch_size}; use 1 or more.")
    source = sources.open_source(images_alone(config.data), split)
    num_images = len(source) if num_images is None else num_images
    if not 2 <= num_images <= len(source):
        raise UserError(
            f"--num_examples={num_images}, but the {split} split has {len(source):,} "
            f"images; give 2 to {len(source)}, or leave it out for all of them."
        )
    mesh = sharding.make_mesh()
    network = features.build(kind, config.data, weights_file, mesh)
    reference = compute(source, network, num_images, batch_size, mesh)
    write(out, reference)
    print(
        f"wrote {out}: statistics of {num_images:,} {split} images by {network.name} "
        f"{network.digest}, and {min(num_images, MAX_IMAGES):,} of the images; digest "
        f"{reference.digest}. Evaluate with --reference={out}"
    )


def compute(
    source: sources.Source,
    network: Network,
    num_images: int,
    batch_size: int,
    mesh: Mesh,
) -> Reference:
    """Of `num_images` examples spread evenly over a source, 2 or more.

    The features of one batch are held at a time.
    """
    rows = spread(len(source), num_images)
    kept = np.isin(np.arange(num_images), spread(num_images, MAX_IMAGES))
    batch_size = sharding.batch_size(batch_size, num_images, mesh)
    pooled, spatial, images, labels = Moments(), Moments(), [], []
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        Progress(what="reference", total=num_images, unit="image") as bar,
    ):
        for start in range(0, num_images, batch_size):
            part = slice(start, start + batch_size)
            examples = list(pool.map(source.__getitem__, rows[part].tolist()))
            batch = np.stack([example["image"] for example in examples])
            found = features.of_batch(network, batch, batch_size, mesh)
            pooled.add(found.pooled)
            if found.spatial is not None:
                spatial.add(found.spatial)
            images.append(batch[kept[part]])
            labels += [int(example.get(sources.CLASS, -1)) for example in examples]
            bar.update(len(examples))
    classes = np.asarray(labels, np.int64)[kept]
    return Reference(
        images=np.concatenate(images),
        labels=classes if (classes >= 0).any() else None,
        pooled=pooled.statistics(),
        spatial=spatial.statistics() if spatial.num else None,
        num_images=num_images,
        network=network.name,
        network_digest=network.digest,
    )


def spread(num: int, most: int) -> Int[np.ndarray, " m"]:
    """Indices below `num`, evenly spaced: `most` of them, or all."""
    chosen = min(num, most)
    return np.arange(chosen) * num // chosen


def as_arrays(reference: Reference) -> dict[str, np.ndarray]:
    """By the names that they have in a file; what is not known is left out."""
    known = {} if reference.images is None else {"arr_0": reference.images}
    if reference.labels is not None:
        known["arr_1"] = reference.labels
    for suffix, part in (("", reference.pooled), ("_s", reference.spatial)):
        if part is not None:
            known |= {f"mu{suffix}": part.mu, f"sigma{suffix}": part.sigma}
    if reference.num_images is not None:
        known["num_images"] = np.asarray(reference.num_images)
    if reference.network:
        known["network"] = np.asarray(reference.network)
        known["network_digest"] = np.asarray(reference.network_digest)
    return known


def write(path: pathlib.Path, reference: Reference) -> None:
    """An .npz that `read`, and ADM's evaluator if there are spatial features, reads."""
    writing.arrays(path, as_arrays(reference))


def read(
    path: pathlib.Path, network: Network, shape: tuple[int, int, int] | None = None
) -> Reference:
    """A file of ours or of ADM, or of statistics alone, for features of that network.

    shape: (H, W, C) of the images, for a file that has none.
    Raises UserError for a file that is none, not whole, or of another network.
    """
    if not path.is_file():
        raise UserError(f"--reference={path}: there is no such file.")
    try:
        reference = from_arrays(weights.read_npz(path))
    except Exception as error:  # whatever a damaged file makes its reader raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} can't be read as a reference ({reason[0]}). Make one with "
            "--mode=reference, or give a reference batch of ADM: an .npz with the "
            "arrays arr_0, mu and sigma (mu and sigma alone are enough for FID)."
        ) from error
    check_network(reference, network, path, shape)
    return reference


def from_arrays(found: Mapping[str, np.ndarray]) -> Reference:
    """The opposite of `as_arrays`. Raises ValueError for arrays that can't be one."""
    spatial = {"mu_s", "sigma_s"} if {"mu_s", "sigma_s"} & found.keys() else set()
    if {"mu", "sigma"}.union(spatial) - found.keys():
        missing = sorted({"arr_0", "mu", "sigma"}.union(spatial) - found.keys())
        raise ValueError(f"it has no {' and no '.join(missing)}")
    images, labels = found.get("arr_0"), None
    if images is not None:
        labels = found.get("arr_1")
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            shape = list(images.shape)
            raise ValueError(f"arr_0 is {images.dtype} {shape}, not uint8 [N, H, W, C]")
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(f"arr_1 has {labels.shape} labels of {len(images)} images")
    num_images = int(found["num_images"]) if "num_images" in found else None
    return Reference(
        images=images,
        labels=None if labels is None else labels.astype(np.int64),
        pooled=_statistics(found["mu"], found["sigma"], num_images),
        spatial=_statistics(found["mu_s"], found["sigma_s"], num_images)
        if spatial
        else None,
        num_images=num_images,
        network=str(found.get("network", "")),
        network_digest=str(found.get("network_digest", "")),
    )


def _statistics(mu: np.ndarray, sigma: np.ndarray, num: int | None) -> Statistics:
    if mu.ndim != 1 or sigma.shape != 2 * mu.shape:
        raise ValueError(f"a mean {mu.shape} does not fit a covariance {sigma.shape}")
    found = Statistics(mu.astype(np.float64), sigma.astype(np.float64), num)
    if not (np.isfinite(found.mu).all() and np.isfinite(found.sigma).all()):
        raise ValueError("its statistics are not finite")
    return found


def check_network(
    reference: Reference,
    network: Network,
    path: pathlib.Path,
    shape: tuple[int, int, int] | None = None,
) -> None:
    """Raises UserError where features of this network can't be compared with it."""
    theirs = (reference.network, reference.network_digest)
    ours = (network.name, network.digest)
    if reference.network and theirs != ours:
        raise UserError(
            f"--reference={path} has the features of the network {' '.join(theirs)}, "
            f"but the one in use is {' '.join(ours)}; make a reference with this one "
            "(--mode=reference), or evaluate with --features and --weights of that one."
        )
    if reference.images is not None:
        shape = reference.images.shape[1:]
    if shape is None:
        return
    image = jax.ShapeDtypeStruct((1, *shape), np.uint8)
    width = jax.eval_shape(features.apply, network, image).pooled.shape[-1]
    size = len(reference.pooled.mu)
    if size != width:
        raise UserError(
            f"--reference={path} has means of {size:,} features, but the network "
            f"{' '.join(ours)} gives {width:,}; make one with --mode=reference."
        )
