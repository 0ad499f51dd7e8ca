"""Does it fit? `--mode=preflight` of ImageNet, and of Stable Diffusion's latents.

    pip install "jax[tpu]"
    python -m benchmarks.preflight
    python -m benchmarks.preflight --presets=sd64,sd32 --slices=v5e-256,v4-128,v6e-16

No TPU is needed, and no weights or data: of sd64 and sd32, which are of
configs/latent_representation.py, noise stands for the images and vectors that are not
here. Programs are compiled one at a time, each of a few minutes alone on 2 cores
(docs/pods.md); one that has been compiled is not compiled again, so a stopped run goes
on where it was. results/preflight/PRESET_SLICE.json holds what was found, and table.md
all of it. A process keeps memory that it has used, up to 16 GiB in a row and more in
several: where there is little, give each row its own, by --presets and --slices.

The global batch is the config's own. On small slices it is taken in microbatches of at
most 8 images of 64 pixels or 2 of 128 per chip, and of 4 latents of 64x64 or 8 of
32x32; if these do not fit either, in as many as do. Memory is measured at that number
and at twice it: of fewer images it is the gradients that decide, and a line through
these would promise too much.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import time

from ml_collections import ConfigDict

os.environ["JAX_PLATFORMS"] = "cpu"

from configs import image_label, latent_representation
from mt_diffusion.errors import UserError
from mt_diffusion.files import writing
from mt_diffusion.preflight import preflight, tables, topology
from mt_diffusion.preflight.report import Report

RESULTS = pathlib.Path("results/preflight")
PRESETS = ("imagenet64", "imagenet128")
LATENTS = ("sd64", "sd32")
SLICES = ("v5e-256", "v5e-16", "v4-32", "v4-128", "v6e-16")
# Images per chip at a time.
MOST = {"imagenet64": 8, "imagenet128": 2, "sd64": 4, "sd32": 8}


def config_of(preset: str) -> ConfigDict:
    """The config of a preset; of latents, with as many numbers of CLIP as it has."""
    if preset not in LATENTS:
        return image_label.get_config(preset)
    config = latent_representation.get_config(preset)
    vectors = config.modalities.representation
    vectors.update(num_components=latent_representation.CLIP, clip="")
    return config


def look(preset: str, name: str, quick: bool) -> None:
    """Writes one row, unless it is there; with more microbatches where these help."""
    path = RESULTS / f"{preset}_{name}.json"
    if path.exists():
        return
    target = dataclasses.replace(topology.find(name), quick=quick)
    start = time.monotonic()
    report = report_of(config_of(preset), target, MOST[preset])
    setting = "latent_representation" if preset in LATENTS else "image_label"
    facts = {"config": f"{setting}:{preset}", "slice": name}
    facts["seconds"] = time.monotonic() - start
    RESULTS.mkdir(parents=True, exist_ok=True)
    writing.as_json(path, facts | report.summary())
    print(tables.text(report))


def report_of(config: ConfigDict, target: topology.Target, most: int) -> Report:
    """What is found, with more microbatches than `most` asks for where these help."""
    per_device = config.train.batch_size // len(target.devices)
    own = min(per_device, most)
    config.train.num_microbatches = per_device // own
    sizes = (most, 2 * most)
    report = preflight.look(config, target, sizes)
    if not report.fits and report.needed:
        config.train.num_microbatches = report.needed
        report = preflight.look(config, target, sizes)
    return report


def table() -> str:
    """All rows that there are, as Markdown."""
    paths = [RESULTS / f"{p}_{s}.json" for p in PRESETS + LATENTS for s in SLICES]
    return tables.markdown([json.loads(p.read_text()) for p in paths if p.exists()])


def main() -> None:
    """Looks at what has not been looked at."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", default=",".join(PRESETS), help="%(default)s")
    usual = ",".join(s for s in SLICES if s != "v4-128")
    parser.add_argument("--slices", default=usual, help="%(default)s")
    parser.add_argument("--quick", action="store_true", help="as of --mode=preflight")
    args = parser.parse_args()
    if unknown := set(args.presets.split(",")) - set(PRESETS + LATENTS):
        parser.error(f"--presets: {', '.join(sorted(unknown))} is none of them.")
    for preset in args.presets.split(","):
        for name in args.slices.split(","):
            print(f"{preset} on {name}")
            try:
                look(preset, name, args.quick)
            except UserError as error:
                parser.error(str(error))
            writing.text(RESULTS / "table.md", table() + "\n")
    print(table())


if __name__ == "__main__":
    main()
