"""`--mode=precompute`: the vectors of a data set by an encoder, to one file."""

import pathlib

import numpy as np
import tqdm
from ml_collections import ConfigDict

from mt_diffusion.data import sources, vectors
from mt_diffusion.data.representers import Encoder
from mt_diffusion.data.views import SPLITS


def precompute(config: ConfigDict, encoder: str, out: pathlib.Path) -> None:
    """Writes the vectors of both splits of config.data, for config.data.vectors.

    encoder: 'package.module:function', from images uint8 [N, H, W, C] to float [N, D];
    it gets config.sampling.batch_size of them at a time. out: an .npz with the arrays
    `train` and `test`. Raises UserError for a function that is not there or gives
    something else, and an `out` that exists.
    """
    vectors.check_writable(out)
    represent = Encoder(encoder)
    found = {}
    for split in SPLITS:
        source = sources.open_source(config.data, split)
        found[split] = all_of(source, represent, config.sampling.batch_size, split)
    vectors.write(out, found)
    sizes = ", ".join(f"{s} {v.shape[0]:,} x {v.shape[1]}" for s, v in found.items())
    print(f"wrote {out}: {sizes}. Train with --config.data.vectors={out}")


def all_of(
    source: sources.Source, represent: Encoder, batch_size: int, name: str
) -> np.ndarray:
    """float32 [N, D] of a source's images, in order; shows the speed and time left."""
    rows = []
    with tqdm.tqdm(total=len(source), desc=name, unit="image") as bar:
        for start in range(0, len(source), batch_size):
            stop = min(start + batch_size, len(source))
            rows.append(represent([source[i] for i in range(start, stop)]))
            bar.update(stop - start)
    return np.concatenate(rows).astype(np.float32)
