"""Folders of small autoencoders, of the arrays that diffusers made."""

import json
import pathlib

import numpy as np
import safetensors.numpy

ARRAYS = pathlib.Path(__file__).parents[1] / "data" / "autoencoder.npz"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def arrays(kind):
    """{name: array} of one of them: 'sd' or 'wide'; NHWC."""
    with np.load(ARRAYS) as found:
        own = {
            n.removeprefix(f"{kind}/"): found[n] for n in found if n.startswith(kind)
        }
    return {
        n: x.transpose(0, 2, 3, 1) if x.ndim == 4 and "param" not in n else x
        for n, x in own.items()
    }


def state(kind):
    """Its state dict."""
    found = arrays(kind)
    return {n.removeprefix("param/"): x for n, x in found.items() if "param/" in n}


def save(folder, kind="sd", weights=None, **changes):
    """Writes it to a folder; a change of None takes a field out of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(str(arrays(kind)["config"])) | changes
    config = {name: x for name, x in config.items() if x is not None}
    (folder / "config.json").write_text(json.dumps(config))
    kept = state(kind) if weights is None else weights
    whole = {name: np.ascontiguousarray(x) for name, x in kept.items()}
    safetensors.numpy.save_file(whole, folder / WEIGHTS)
    return folder
