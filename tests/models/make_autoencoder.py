"""Makes tests/data/autoencoder.npz by the original code, which the tests do not need.

  pip install torch diffusers
  python tests/models/make_autoencoder.py

(torch 2.14.1, diffusers 0.42.1.) Small networks of random weights: one as of Stable
Diffusion 1.x to XL, one of 16 channels, without 1x1 convolutions.
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL

OUT = pathlib.Path(__file__).parents[1] / "data" / "autoencoder.npz"
SHARED = dict(layers_per_block=1, norm_num_groups=2, sample_size=32)
KINDS = {
    "sd": dict(block_out_channels=(4, 6, 6, 8), latent_channels=4)
    | dict(scaling_factor=0.18215),
    "wide": dict(block_out_channels=(4, 8), latent_channels=16)
    | dict(use_quant_conv=False, use_post_quant_conv=False)
    | dict(scaling_factor=0.3611, shift_factor=0.1159),
}


def of_random(options):
    """What a network says of two images, of random latents, and of a large image."""
    torch.manual_seed(0)
    levels = len(options["block_out_channels"])
    model = AutoencoderKL(
        **SHARED,
        **options,
        down_block_types=levels * ["DownEncoderBlock2D"],
        up_block_types=levels * ["UpDecoderBlock2D"],
    ).eval()
    for x in model.parameters():  # biases and norms are not random
        x.data += 0.1 * torch.randn(x.shape) * (x.ndim == 1)
    factor = 2 ** (levels - 1)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = torch.randn(2, model.config.latent_channels, 2, 3)
    with torch.no_grad():
        found = model.encode(images).latent_dist
        decoded = model.decode(latents).sample
        arrays = dict(images=images, mean=found.mean, std=found.std)
        arrays |= dict(latents=latents, decoded=decoded)
        if factor == 8:
            large = torch.rand(1, 3, 32, 56).half().float() * 2 - 1
            found = model.encode(large).latent_dist  # whole, as it is by default
            model.enable_tiling()
            arrays |= dict(large=large, large_mean=found.mean)
            arrays |= dict(large_decoded=model.decode(found.mean).sample)
    arrays |= {f"param/{name}": x.detach() for name, x in model.state_dict().items()}
    config = {n: x for n, x in model.config.items() if not n.startswith("_")}
    config = {"_class_name": "AutoencoderKL"} | config
    return {name: x.numpy() for name, x in arrays.items()} | {
        "config": np.array(json.dumps(config))
    }


if __name__ == "__main__":
    found = {kind: of_random(options) for kind, options in KINDS.items()}
    flat = {f"{k}/{n}": x for k, part in found.items() for n, x in part.items()}
    np.savez_compressed(OUT, **flat)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
