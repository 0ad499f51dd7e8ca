"""`--mode=precompute`: vectors of a data set by an encoder, or latents of its space."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import sources, views
from mt_diffusion.data.representers import Encoder, find_function
from mt_diffusion.data.views import SPLITS
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.files import paths, vectors
from mt_diffusion.models.clip.images import Images
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress
from mt_diffusion.spaces import encoding
from mt_diffusion.spaces.latents import Latents


def has_latents(config: ConfigDict) -> bool:
    """Whether a config is of a space whose latents can be made."""
    return config.primary.space.kind != "pixels"


def precompute_latents(config: ConfigDict, out: pathlib.Path) -> None:
    """Writes the latents of both splits of config.data, for config.data.latents.

    out: a folder, in which it goes on where it was cut off. Raises UserError for a
    config that can't be, or of pixels, and for a folder that holds others.
    """
    experiments.check(config)
    space = experiments.space_of(config)
    if paths.is_remote(out):
        raise UserError(
            f"--out={out} is in a bucket, and training reads latents from a folder of "
            "its machine, in parts of files: name one here."
        )
    if not isinstance(space, Latents):
        raise UserError(
            "--mode=precompute makes vectors with --encoder=package.module:function, "
            "or, without it, latents of a config whose primary.space is of latents; "
            "this one is of pixels."
        )
    data = images_alone(config.data)
    both = {split: sources.open_source(data, split) for split in SPLITS}
    encoding.encode(data, space, both, out)
    print(f"wrote {out}. Train with --config.data.latents={out}")


def precompute(config: ConfigDict, encoder: str, out: pathlib.Path) -> None:
    """Writes the vectors of both splits of config.data, for config.data.vectors.

    encoder: 'package.module:function', from images uint8 [N, H, W, C] to float [N, D],
    or the folder of a CLIP; it gets config.sampling.batch_size of them at a time. out:
    an .npz with the arrays `train` and `test`. Of a job, process 0 makes them alone.
    Raises UserError for a config that can't be, an encoder that is not there or gives
    something else, and an `out` that exists.
    """
    if jax.process_index() == 0:
        make_vectors(config, encoder, out)
    sharding.meet("the vectors")


def make_vectors(config: ConfigDict, encoder: str, out: pathlib.Path) -> None:
    """What `precompute` does, in one process."""
    batch_size = config.sampling.batch_size
    if batch_size < 1:
        raise UserError(f"config.sampling.batch_size is {batch_size}; use 1 or more.")
    experiments.check(config)
    vectors.check_writable(out)
    is_folder = pathlib.Path(encoder).is_dir()
    represent = Encoder(
        encoder,
        Images(pathlib.Path(encoder)) if is_folder else find_function(encoder),
    )
    data = images_alone(config.data)
    both = {split: sources.open_source(data, split) for split in SPLITS}
    found, extra, size = {}, {}, None
    for split, source in both.items():
        found[split] = all_of(source, represent, batch_size, split, size)
        size = found[split].shape[1]
        of = views.OF_SPLIT.format(split=split)
        extra[of] = np.array(views.digest_of(source))
    vectors.write(out, found | extra)
    sizes = ", ".join(f"{s} {v.shape[0]:,} x {v.shape[1]}" for s, v in found.items())
    unflipped = " --config.data.random_flip=false" if data.random_flip else ""
    print(f"wrote {out}: {sizes}. Train with --config.data.vectors={out}{unflipped}")


def images_alone(config: ConfigDict) -> ConfigDict:
    """config.data without what is yet to be made of it, and with all examples."""
    data = config.copy_and_resolve_references()
    with data.unlocked():
        data.vectors, data.latents, data.keep = "", "", ConfigDict()
    return data


def all_of(
    source: sources.Source,
    represent: Encoder,
    batch_size: int,
    name: str,
    size: int | None,
) -> np.ndarray:
    """float32 [N, D] of a source's images, in order; shows the speed and time left.

    size: D, None for that of the first batch; UserError where any has another.
    """
    rows = []
    with Progress(what=name, total=len(source), unit="image") as bar:
        for start in range(0, len(source), batch_size):
            stop = min(start + batch_size, len(source))
            made = represent([source[i] for i in range(start, stop)])
            size = size or made.shape[1]
            if made.shape[1] != size:
                raise UserError(
                    f"the encoder made vectors of {size} numbers, and of {name} images "
                    f"{start} to {stop - 1} vectors of {made.shape[1]}; it must make "
                    "all of one length."
                )
            rows.append(made)
            bar.update(stop - start)
    return np.concatenate(rows)
