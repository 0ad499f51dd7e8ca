"""Makes tests/data/sd_unet.npz by the original code, which the tests do not need.

  pip install torch diffusers
  python tests/models/sd/make_unet.py

(torch 2.13.0+cpu, diffusers 0.42.1.)
"""

import json
import pathlib
import tempfile

import numpy as np
import safetensors.numpy
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

OUT = pathlib.Path(__file__).parents[2] / "data" / "sd_unet.npz"
COMMON = dict(sample_size=8, in_channels=4, out_channels=4, norm_num_groups=2)
KINDS = {
    # Heads by their number; convolutions around the transformers.
    "sd1": dict(
        block_out_channels=(4, 8, 8),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
        + ("DownBlock2D",),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=6,
        attention_head_dim=2,
    ),
    # Heads by their width; matrices around them, and two blocks in each.
    "sd2": dict(
        block_out_channels=(4, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=10,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        transformer_layers_per_block=2,
    ),
}

REAL = {
    "sd1": dict(cross_attention_dim=768),
    "sd2": dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20))
    | dict(use_linear_projection=True),
}


def of_real(kind):
    """The names and shapes of all weights of a published one, which take no room."""
    with torch.device("meta"):
        model = UNet2DConditionModel(**REAL[kind])
    shapes = {n: tuple(x.shape) for n, x in model.state_dict().items()}
    return {"real": np.array(json.dumps(shapes)), "told": json.dumps(REAL[kind])}


def of_unet(kind):
    """What a small network of random weights says of random latents and tokens."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(**COMMON, **KINDS[kind]).eval()
    for name, x in model.named_parameters():  # biases and norms are not random
        x.data += 0.2 * torch.randn(x.shape) * ("weight" not in name or x.ndim == 1)
        x.data = x.data.half().float()  # so that halves keep them
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 981])
    tokens = torch.randn(2, 5, KINDS[kind]["cross_attention_dim"])
    with torch.no_grad():
        out = model(x, t, tokens).sample
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        (file,) = pathlib.Path(folder).glob("*.safetensors")
        state = safetensors.numpy.load_file(file)
        config = (pathlib.Path(folder) / "config.json").read_text()
    nhwc = dict(x=x.permute(0, 2, 3, 1), out=out.permute(0, 2, 3, 1))
    found = {n: y.numpy() for n, y in nhwc.items()} | {"t": t.numpy()}
    found |= {"tokens": tokens.numpy(), "config": np.array(config)}
    # One array for all weights: each in a file would cost more than what it holds.
    shapes = {n: y.shape for n, y in sorted(state.items())}
    flat = np.concatenate([state[n].ravel() for n in shapes]).astype(np.float16)
    return found | {"weights": flat, "shapes": np.array(json.dumps(shapes))}


def of_schedule():
    """Stable Diffusion's noise, and what v is of."""
    made = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        num_train_timesteps=1000,
    )
    t = torch.tensor([0, 500, 999])
    z0, eps = torch.randn(3, 2, 2, 4), torch.randn(3, 2, 2, 4)
    found = dict(alphas_cumprod=made.alphas_cumprod, t=t, z0=z0, eps=eps)
    found["z_t"] = made.add_noise(z0, eps, t)
    found["v"] = made.get_velocity(z0, eps, t)
    return {name: x.numpy() for name, x in found.items()}


if __name__ == "__main__":
    found = {k: of_unet(k) | of_real(k) for k in KINDS} | {"schedule": of_schedule()}
    flat = {f"{k}/{n}": x for k, part in found.items() for n, x in part.items()}
    np.savez_compressed(OUT, **flat)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")
