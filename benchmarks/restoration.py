"""How well hidden patches are filled in: by a model, or by the training mean.

python -m benchmarks.restoration WORKDIR --out=FILE.json [--patches=5,10,15,20]

A model of masked images is given what is seen; one of images alone fills in by RePaint
(10 repeats of each step). All models see the same test images under the same masks.
Errors are those of hidden pixels, as a share of the training mean's; distances those of
the features of a small frozen classifier (`--mode=evaluate`), as LPIPS is of AlexNet's,
also of the masked image itself.
"""

import argparse
import pathlib

import jax
import numpy as np

from benchmarks import repaint
from configs import masked_image
from mt_diffusion import writing
from mt_diffusion.data import sources
from mt_diffusion.evaluation import features, real
from mt_diffusion.evaluation.judges import pixels
from mt_diffusion.generation import Generator
from mt_diffusion.modalities import base
from mt_diffusion.sampling import restore
from mt_diffusion.training import sharding

REPEATS = 10  # of each step of RePaint, the paper's


def masker(experiment):
    """The modality `masked_image` as its config has it, for its masks."""
    fields = masked_image.get_config().modalities.masked_image.to_dict()
    return base.build("masked_image", fields, experiment.shape)


def fillings(config, experiment, params, mesh, values, seed):
    """Filled images, uint8, for masked values [N, H, W, C + 1]."""
    name = next((m.name for m in experiment.modalities if is_mask(m)), None)
    if name is not None:
        generator = Generator(experiment, config.sampling, mesh)
        made = generator(params, seed, len(values), {name: values})
        return made[experiment.primary.name]
    size, found = config.sampling.batch_size, []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        key = jax.random.fold_in(jax.random.key(seed), start)
        images, seen = part[..., :-1], part[..., -1:]
        steps = config.sampling.num_steps
        found.append(
            repaint.fill(params, key, images, seen, experiment, steps, REPEATS)
        )
    return experiment.primary.postprocess(np.concatenate(found))


def is_mask(modality) -> bool:
    """Whether its values fix pixels of the image."""
    return modality.known(modality.placeholder()[None]) is not None


def measure(made, true, mean, seen, extract) -> dict[str, float]:
    """Errors and distances of one set of fillings."""
    hidden = ~seen
    filled = np.where(seen, true, mean)
    erased = np.where(seen, true, 0).astype(np.uint8)
    truth = extract(true)
    return {
        "error_share": error(made, true, hidden) / error(filled, true, hidden),
        "psnr": pixels.psnr(made, true, hidden),
        "psnr_mean": pixels.psnr(filled, true, hidden),
        "distance": pixels.distance(extract(made), truth),
        "distance_mean": pixels.distance(extract(filled), truth),
        "distance_masked": pixels.distance(extract(erased), truth),
        "seen_identical": float(np.mean((made == true) | hidden)),
    }


def error(a, b, where) -> float:
    """Mean square where `where` says."""
    return float(np.mean((a.astype(float) - b) ** 2, where=where))


def main() -> None:
    """Fills, measures and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--patches", default="5,10,15,20")
    parser.add_argument("--num", type=int, default=512, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    mesh = sharding.make_mesh()
    step, config, experiment, params = restore(args.workdir, {}, True, mesh)
    train, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    images = real.images(test, args.num)
    mean = real.images(train, real.MAX_TRAIN).mean(axis=0).round().astype(np.uint8)
    network = features.build("convnet", config.data, "", mesh)
    size = config.sampling.batch_size

    def extract(x):
        return features.extract(network, x, size, mesh, "features").pooled

    masks, found = masker(experiment), {}
    for num_patches in map(int, args.patches.split(",")):
        rng = np.random.default_rng(num_patches)
        seen = np.stack([masks.draw_mask(num_patches, rng) for _ in images])
        values = masks.hide(
            experiment.primary.preprocess({"image": images}, None), seen
        )
        made = fillings(config, experiment, params, mesh, values, args.seed)
        whole = np.broadcast_to(seen > 0, images.shape)
        found[num_patches] = measure(made, images, mean, whole, extract)
        print(num_patches, found[num_patches], flush=True)
    facts = {"step": step, "num": len(images), "seed": args.seed}
    writing.as_json(args.out, facts | {"patches": found})


if __name__ == "__main__":
    main()
