"""How well hidden patches are filled in: by a model, or by the training mean.

python -m studies.restoration WORKDIR --out=FILE.json [--patches=5,10,15,20]

All ways that a model has, on the same test images under the same masks: `reads`, a
model of masked images that is given what is seen; `reads_again`, the same with each
step repeated as by RePaint; `repaint`, RePaint by a model of images alone, or in the
state in which the masked image is absent. Errors are those of hidden pixels, as a share
of the training mean's: of one filling, of the mean of `--fillings` ones, whose
difference is their spread. Distances are those of the features of a small frozen
classifier (`--mode=evaluate`), as LPIPS is of AlexNet's, also of the masked image;
`--lpips=alexnet-owt-7be5be79.pth,alex.pth`, torchvision's weights and those of the
package lpips v0.1, adds LPIPS itself, which the paper reports.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from configs import masked_image
from mt_diffusion.data import sources
from mt_diffusion.evaluation import features, real, uncertainty
from mt_diffusion.evaluation.judges import pixels
from mt_diffusion.evaluation.networks import lpips
from mt_diffusion.files import writing
from mt_diffusion.inference.generation import Generator
from mt_diffusion.inference.restoring import restore
from mt_diffusion.modalities import build as base
from mt_diffusion.parallel import sharding
from studies import repaint

REPEATS = 10  # of each step of RePaint, the paper's


def masker(experiment):
    """The modality `masked_image` as its config has it, for its masks."""
    fields = masked_image.get_config().modalities.masked_image.to_dict()
    return base.build("masked_image", fields, experiment.shape)


def ways_of(experiment, config):
    """{name: (is it read, steps, repeats)} of the ways that a model has.

    `reads` takes config.sampling.num_steps calls of the network, the others about ten
    times as many, REPEATS for each step but the last.
    """
    steps = config.sampling.num_steps
    repaint = {"repaint": (False, steps, REPEATS)}
    readers = [m for m in experiment.modalities if is_mask(m) and m.conditions]
    if not readers:
        return repaint
    reads = {"reads": (True, steps, 1), "reads_again": (True, steps, REPEATS)}
    return reads | repaint


def fillings(config, experiment, params, mesh, values, way, seed):
    """Filled images, uint8, for masked values [N, H, W, C + 1], by one of the ways."""
    reads, steps, repeats = way
    name = next((m.name for m in experiment.modalities if is_mask(m)), None)
    if reads and repeats == 1:  # as --mode=sample does
        generator = Generator(experiment, config.sampling, mesh)
        made = generator(params, seed, len(values), {name: values})
        return made[experiment.primary.name]
    size, found = config.sampling.batch_size, []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        key = jax.random.fold_in(jax.random.key(seed), start)
        images, seen = part[..., :-1], part[..., -1:]
        given = {name: jnp.asarray(part)} if reads else {}
        found.append(
            repaint.fill(params, key, images, seen, given, experiment, steps, repeats)
        )
    return experiment.primary.postprocess(np.concatenate(found))


def is_mask(modality) -> bool:
    """Whether its values fix pixels of the image."""
    return modality.known(modality.placeholder()[None]) is not None


def measure(fills, true, mean, seen, extract, perceive=None) -> dict[str, float]:
    """Errors and distances of sets of fillings of the same images.

    perceive: (images, images) -> their LPIPS [N], None to leave it out.
    """
    hidden = ~seen
    filled = np.where(seen, true, mean)
    erased = np.where(seen, true, 0).astype(np.uint8)
    truth, trivial = extract(true), error(filled, true, hidden)
    average = np.mean(fills, axis=0)
    figures = {
        "error_share": np.mean([error(made, true, hidden) for made in fills]) / trivial,
        "error_share_of_mean": error(average, true, hidden) / trivial,
        "spread": np.mean([error(made, average, hidden) for made in fills]) / trivial,
        "psnr": pixels.psnr(fills[0], true, hidden),
        "psnr_mean": pixels.psnr(filled, true, hidden),
        "distance": float(
            np.mean([pixels.distance(extract(made), truth) for made in fills])
        ),
        "distance_mean": pixels.distance(extract(filled), truth),
        "distance_masked": pixels.distance(extract(erased), truth),
        "seen_identical": float(np.mean((fills[0] == true) | hidden)),
    }
    return figures | (perceived(fills, true, filled, erased, perceive) or {})


def perceived(fills, true, filled, erased, perceive) -> dict[str, float] | None:
    """LPIPS to the true images: of fillings, with its error, and of what is trivial.

    The fillings of one image are one example of the error.
    """
    if perceive is None:
        return None
    found = uncertainty.mean(np.mean([perceive(x, true) for x in fills], axis=0))
    return {
        "lpips": found.value,
        "lpips_standard_error": found.error,
        "lpips_mean": float(perceive(filled, true).mean()),
        "lpips_masked": float(perceive(erased, true).mean()),
    }


def perception(files, side, batch_size, images):
    """((images, images) -> LPIPS [N], what it is by); (None, {}) without files.

    Raises UserError for images that it can't take.
    """
    if not files:
        return None, {}
    network = lpips.load(files.split(","), side)

    def perceive(a, b):
        return lpips.distances(network, a, b, batch_size)

    jax.eval_shape(lpips.apply, network, images[:1], images[:1])
    judge = {"network": network.backbone.name, "digest": network.digest, "side": side}
    return perceive, {"lpips": judge}


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
    parser.add_argument("--fillings", type=int, default=8, help="of each image")
    parser.add_argument("--steps", type=int, help="of a walk (the config's)")
    parser.add_argument("--ways", help="some of reads,reads_again,repaint (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lpips", help="files of its weights, separated by commas")
    parser.add_argument("--lpips_side", type=int, default=0, help="enlarge images to")
    args = parser.parse_args()
    mesh = sharding.make_mesh()
    wishes = {"num_steps": args.steps} if args.steps else {}
    step, config, experiment, params = restore(args.workdir, wishes, True, mesh)
    ways = ways_of(experiment, config)
    if args.ways:
        ways = {name: ways[name] for name in args.ways.split(",") if name in ways}
    train, test = (sources.open_source(config.data, s) for s in ("train", "test"))
    images = real.images(test, args.num)
    mean = real.images(train, real.MAX_TRAIN).mean(axis=0).round().astype(np.uint8)
    network = features.build("convnet", config.data, "", mesh)
    size = config.sampling.batch_size

    def extract(x):
        return features.extract(network, x, size, mesh, "features").pooled

    perceive, judge = perception(args.lpips, args.lpips_side, size, images)
    masks, found = masker(experiment), {}
    for num_patches in map(int, args.patches.split(",")):
        rng = np.random.default_rng(num_patches)
        seen = np.stack([masks.draw_mask(num_patches, rng) for _ in images])
        values = masks.hide(
            experiment.primary.preprocess({"image": images}, None), seen
        )
        whole = np.broadcast_to(seen > 0, images.shape)
        for name, way in ways.items():
            fills = [
                fillings(config, experiment, params, mesh, values, way, args.seed + i)
                for i in range(args.fillings)
            ]
            figures = measure(fills, images, mean, whole, extract, perceive)
            found.setdefault(name, {})[num_patches] = figures
            print(name, num_patches, figures, flush=True)
    facts = {"step": step, "num": len(images), "seed": args.seed}
    facts |= {"fillings": args.fillings} | judge
    facts |= {"ways": {n: {"steps": s, "repeats": r} for n, (_, s, r) in ways.items()}}
    writing.as_json(args.out, facts | {"patches": found})


if __name__ == "__main__":
    main()
