"""Latents of a data set, encoded once: the shards that data/latents.py reads.

Each process of a job makes every P-th shard. A shard that is there whole is not made
again, so the same command goes on where it was cut off.
"""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import latents
from mt_diffusion.errors import UserError
from mt_diffusion.files import writing
from mt_diffusion.files.names import shown
from mt_diffusion.models.autoencoder import folder
from mt_diffusion.parallel import sharding
from mt_diffusion.parallel.progress import Progress
from mt_diffusion.spaces.latents import Latents
from mt_diffusion.spaces.pixels import to_unit

PER_SHARD = 1024  # examples
LOOKED_AT = 1000  # examples, for a second image
LARGEST = float(np.finfo(np.float16).max)


def encode(
    config: ConfigDict,
    space: Latents,
    sources: Mapping[str, Any],
    out: pathlib.Path,
    per_shard: int = PER_SHARD,
) -> None:
    """Writes the latents of all splits, and of training images that are mirrored.

    config: of the data. sources: {split: source}, without latents. Raises UserError for
    a folder that has others, and for images whose latents are not finite.
    """
    told = manifest(config, space, sources, per_shard)
    writing.make_folder(out, f"--out={out}")
    claim(out, told)
    todo = [
        (split, feature, name, shape, start)
        for split, source in sources.items()
        for feature in told["features"][split]
        for name, shape, start in numbered(told, split, feature)
    ]
    own = todo[jax.process_index() :: jax.process_count()]
    missing = [one for one in own if not latents.is_whole(out / one[2], one[3])]
    if len(missing) < len(own):
        print(f"{len(own) - len(missing)} of {len(own)} shards are there already")
    with Progress(what="encoding", total=sum(s[3][0] for s in missing)) as bar:
        for split, feature, name, shape, start in missing:
            rows = range(start, start + shape[0])
            found = shard(space, sources[split], feature, rows, shape, bar)
            with (
                writing.draft_of(out / name) as draft,
                open(draft, "wb") as file,
            ):
                np.save(file, found)
    sharding.meet("the last shard")


def numbered(told: dict, split: str, feature: str):
    """(name, shape, number of the first example) of a feature's shards."""
    of = [
        s for s in latents.shards(told, split) if s[0].startswith(f"{split}_{feature}")
    ]
    return [(name, shape, k * told["per_shard"]) for k, (name, shape) in enumerate(of)]


def manifest(
    config: ConfigDict, space: Latents, sources: Mapping[str, Any], per_shard: int
) -> dict[str, Any]:
    """What latents.json says."""
    is_flipped = {split: config.random_flip and split == "train" for split in sources}
    return {
        "weights": space.model.digest,
        "moments": space.moments,
        "latents": list(space.shape),
        "per_shard": per_shard,
        "flips": {split: 2 if flipped else 1 for split, flipped in is_flipped.items()},
        "features": {split: features_of(source) for split, source in sources.items()},
        "data": {
            split: latents.describe(config, split, source)
            for split, source in sources.items()
        },
    }


def features_of(source: Any) -> list[str]:
    """Those that some example has latents of; the first may lack its second image."""
    some = range(min(len(source), LOOKED_AT))
    return [f for f in latents.FEATURES if any(f in source[i] for i in some)]


def claim(out: pathlib.Path, told: dict[str, Any]) -> None:
    """Writes the manifest; UserError for a folder with another one."""
    if jax.process_index() == 0 and not (out / latents.MANIFEST).exists():
        writing.as_json(out / latents.MANIFEST, told)
    sharding.meet("the manifest")
    before = latents.read_manifest(out)
    if others := [n for n, x in json.loads(json.dumps(told)).items() if before[n] != x]:
        raise UserError(
            f"--out={shown(str(out))} has latents of another kind: {', '.join(others)} "
            f"is {[before[n] for n in others]} there and {[told[n] for n in others]} "
            "now. Name another folder, or remove that one."
        )


def shard(
    space: Latents, source: Any, feature: str, rows: range, shape: Any, bar: Progress
) -> np.ndarray:
    """float16 [n, F, h, w, K] of these examples; 0 for those without the feature."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    place = functools.partial(jax.device_put, device=sharding.over_batch(mesh))
    at_once = folder.batch_of(max(space.picture[:2])) * mesh.size
    found = np.zeros(shape, np.float16)
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        examples = [source[i] for i in some]
        there = [k for k, example in enumerate(examples) if feature in example]
        if there:
            pixels = np.stack([examples[k][feature] for k in there])
            for flip, turned in enumerate([pixels, pixels[:, :, ::-1]][: shape[1]]):
                turned = turned[np.arange(at_once) % len(there)]  # of one size, always
                moments = space.model.encode(to_unit(turned), at_once, place)
                both: Any = moments.mean
                if space.moments == "sample":
                    both = np.concatenate(moments, axis=-1)
                check(both, some, space)
                found[start + np.array(there), flip] = both[: len(there)]
        bar.update(len(some))
    return found


def check(found: np.ndarray, rows: range, space: Latents) -> None:
    """Raises UserError for latents that are not finite, or no float16."""
    if not (np.abs(found) <= LARGEST).all():
        raise UserError(
            f"the autoencoder {shown(space.autoencoder)!r} makes latents that are not "
            f"finite, or above {LARGEST:,.0f}, of examples {rows[0]:,} to {rows[-1]:,}:"
            " its weights are damaged, or the images are not such as it was trained on."
        )
