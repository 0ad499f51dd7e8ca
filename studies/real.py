"""What the metrics say of real images: the marks between which models are read.

python -m studies.real --config=configs/image_label.py:fashion_small \
    --config.data.data_dir=/data/tfds

Training images against test images, against themselves and in two halves, and against
noise, by the features of the data set's frozen classifier.
"""

from absl import app
from ml_collections import config_flags

from mt_diffusion.data import sources
from mt_diffusion.evaluation import features, quality, real
from mt_diffusion.parallel import sharding

_CONFIG = config_flags.DEFINE_config_file("config", "configs/image_label.py")
NUM = 10_000  # of precision, recall and KID


def main(argv: list[str]) -> None:
    """Prints a table."""
    config = _CONFIG.value
    mesh = sharding.make_mesh()
    network = features.build("convnet", config.data, "", mesh)
    train, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    images = real.images(train, real.MAX_TRAIN)
    sets = {
        "test images": real.images(test, real.MAX_TRAIN),
        "the training images themselves": images,
        "every second one of them": images[::2],
        "uniform noise": real.noise((min(len(images), NUM), *images.shape[1:])),
    }
    size = config.sampling.batch_size
    reference = features.extract(network, images, size, mesh, "training images").pooled
    fitted = quality.statistics(reference)
    print(f"{len(images):,} training images against | FID | KID | precision | recall")
    for name, others in sets.items():
        found = features.extract(network, others, size, mesh, name).pooled
        fid = quality.frechet_distance(quality.statistics(found), fitted)
        kid = quality.kernel_distance(reference, found).mean
        shares = quality.precision_recall(reference[:NUM], found[:NUM])
        cells = (fid, kid, *shares)
        print(f"{len(others):,} {name} | " + " | ".join(f"{x:.4g}" for x in cells))


if __name__ == "__main__":
    app.run(main)
