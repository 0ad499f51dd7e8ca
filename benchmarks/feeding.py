"""How many images per second does each source give, by the processes that read?

    . launch/setup.sh
    python -m benchmarks.feeding [--data_dir=DATA_DIR] [--size=64] [--workers=0,1,2,4]

`folder`: JPEGs of 500x375 pixels, made for this, decoded and resized; `latents`: the
same once they are encoded, by a small autoencoder that has learnt nothing; `tfds`:
Fashion-MNIST below DATA_DIR; `digits`: arrays in memory. Batches come as those of
`configs/image_label.py` do, and nothing is computed from them. `cpu` counts seconds of
processors, of all processes, per 1,000 images: what a busy machine changes little, and
by which the cores follow that a speed needs, as that of an accelerator in preflight.
"""

import argparse
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
import optax
import PIL.Image
from ml_collections import ConfigDict

from configs import autoencoder, image_label, latent_label
from mt_diffusion.data import pipeline, sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference import precompute
from mt_diffusion.models.autoencoder import folder as autoencoders
from mt_diffusion.models.autoencoder.kl import AutoencoderKL
from mt_diffusion.parallel import sharding
from mt_diffusion.training import loop
from mt_diffusion.training.autoencoder import fit

NUM_JPEGS, CLASSES = 256, 4
FIRST = 4  # batches until all that is begun once has begun


def jpegs(folder: pathlib.Path) -> None:
    """Smooth noise, which is as large as photographs are."""
    rng = np.random.default_rng(0)
    for i in range(NUM_JPEGS):
        path = folder / str(i % CLASSES) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (47, 63, 3), np.uint8)
        image = PIL.Image.fromarray(small).resize(
            (500, 375), PIL.Image.Resampling.BICUBIC
        )
        image.save(path, quality=90)


def of_latents(images: pathlib.Path, made: pathlib.Path, size: int) -> ConfigDict:
    """A config of these images in latents, which it makes, with their autoencoder."""
    trained = autoencoder.get_config("emoji")
    trained.data.image_size = size
    form = fit.check(trained)
    params = fit.begin(AutoencoderKL(form), optax.identity(), trained).params
    (made / "autoencoder").mkdir(parents=True)
    autoencoders.write(made / "autoencoder", form, jax.device_get(params), size, 1.0)
    config = latent_label.get_config("emoji")
    config.data.update(source="folder", path=str(images), captions="")
    config.data.update(image_size=size, channels=3)
    config.primary.space.autoencoder = str(made / "autoencoder")
    precompute.precompute_latents(config, made / "latents")
    config.data.latents = str(made / "latents")
    return config


def configs_of(
    args: argparse.Namespace, folder: pathlib.Path
) -> Iterator[tuple[str, ConfigDict]]:
    """The name and a config of each source that is here."""
    config = image_label.get_config("digits")
    config.data.update(image_size=args.size, channels=3)
    yield "digits", config
    config = image_label.get_config("digits")
    config.data.update(source="folder", path=str(folder / "images"))
    config.data.update(image_size=args.size, channels=3)
    yield "folder", config
    yield "latents", of_latents(folder / "images", folder / "encoded", args.size)
    if args.data_dir:
        config = image_label.get_config("fashion_small")
        config.data.update(data_dir=args.data_dir)
        yield "tfds", config


def processors() -> float:
    """Seconds of this process and of those that have ended below it."""
    all_of = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(who) for who in all_of]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(config: ConfigDict, workers: int, args: argparse.Namespace) -> tuple:
    """(images per second once all has begun, processors' seconds of all of it)."""
    source = sources.open_source(config.data, "train")
    experiment = experiments.build(experiments.resolve(config, source))
    config.train.batch_size = args.batch
    batches = loop.build_batches(config, experiment, source)
    place, num = sharding.over_batch(sharding.make_mesh()), FIRST + args.batches
    before = processors()
    for i, batch in enumerate(pipeline.prefetch(batches, 0, num, place, workers), 1):
        jax.block_until_ready(batch)
        if i == FIRST:
            start = time.monotonic()
    seconds = time.monotonic() - start
    return args.batches * args.batch / seconds, processors() - before


def main() -> None:
    """Prints a line for each source and number of processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", default="", help="of TFDS, with fashion_mnist")
    parser.add_argument("--size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--workers", default="0,1,2,4,8", help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--batches", type=int, default=64, help="(%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        jpegs(pathlib.Path(name) / "images")
        for source, config in configs_of(args, pathlib.Path(name)):
            for workers in map(int, args.workers.split(",")):
                speed, used = measure(config, workers, args)
                images = (FIRST + args.batches) * args.batch
                print(
                    f"{source}, {config.data.image_size} pixels, "
                    f"{workers} processes: {speed:.0f} images/s, cpu "
                    f"{1000 * used / images:.2f} s per 1,000",
                    flush=True,
                )


if __name__ == "__main__":  # processes that read begin here once more
    main()
