"""The other side: Hugging Face diffusers' `UNet2DModel` in PyTorch.

python -m benchmarks.speed.pytorch \
    '{"shape": "28x28x1", "job": "train", "variant": "compile"}'

Variants: '' for eager, 'channels_last', 'compile', 'channels_last+compile', and with
'bf16' under autocast; on a GPU where PyTorch finds one. The loop is that of diffusers'
examples, with the fused AdamW and the average over tensors at once, which are its
fastest on a CPU.
"""

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import serve, shapes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build(shape: shapes.Shape) -> UNet2DModel:
    """The network of that shape: block for block ADM's."""
    down = tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in shape.attends)
    up = tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in shape.attends[::-1])
    return UNet2DModel(
        sample_size=shape.size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=[m * shape.model_channels for m in shape.channel_mult],
        layers_per_block=shape.num_res_blocks,
        attention_head_dim=shape.head_channels,
        norm_num_groups=shape.num_groups,
        attn_norm_num_groups=shape.num_groups,  # or the middle block has no norm
        resnet_time_scale_shift="scale_shift",
    )


def facts(model: UNet2DModel, shape: shapes.Shape) -> dict:
    """Parameters, and FLOPs of the network on one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, shape.channels, shape.size, shape.size), torch.ones(1))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_image": counter.get_total_flops(),
    }


def arranged(model: UNet2DModel, variant: str):
    """The model in the variant's memory layout, and what to call for its output."""
    if "channels_last" in variant:
        model = model.to(memory_format=torch.channels_last)
    return model, torch.compile(model) if "compile" in variant else model


def images(shape: shapes.Shape, num: int, variant: str) -> torch.Tensor:
    """Images [num, C, H, W] of noise, in the variant's memory layout."""
    layout = (
        torch.channels_last if "channels_last" in variant else torch.contiguous_format
    )
    pixels = torch.randn(num, shape.channels, shape.size, shape.size)
    return pixels.to(memory_format=layout)


def wait() -> None:
    """For a GPU, which works on when Python goes on."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def train(shape: shapes.Shape, variant: str):
    """One training step: loss, gradient, clipping, AdamW and the average."""
    model = build(shape)
    known = facts(model, shape)
    model, network = arranged(model.train(), variant)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=shapes.LEARNING_RATE, weight_decay=0.0, fused=True
    )
    average = EMAModel(model.parameters(), decay=shapes.EMA_DECAY, foreach=True)
    scheduler = DDPMScheduler(shapes.DIFFUSION_STEPS, beta_schedule="squaredcos_cap_v2")
    clean = images(shape, shape.batch_size, variant)

    def job():
        noise = torch.randn_like(clean)
        t = torch.randint(0, shapes.DIFFUSION_STEPS, (len(clean),))
        noisy = scheduler.add_noise(clean, noise, t)
        with torch.autocast(DEVICE, torch.bfloat16, "bf16" in variant):
            predicted = network(noisy, t, return_dict=False)[0]
        torch.nn.functional.mse_loss(predicted.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), shapes.CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(model.parameters())
        wait()

    return job, known


def sample(shape: shapes.Shape, variant: str):
    """One batch of samples."""
    model = build(shape)
    known = facts(model, shape)
    model, network = arranged(model.eval(), variant)
    scheduler = DDIMScheduler(shapes.DIFFUSION_STEPS, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(shapes.SAMPLING_STEPS)

    @torch.inference_mode()
    def job():
        z = images(shape, shape.num_sampled, variant)
        for t in scheduler.timesteps:
            with torch.autocast(DEVICE, torch.bfloat16, "bf16" in variant):
                eps = network(z, t, return_dict=False)[0]
            z = scheduler.step(eps, t, z, return_dict=False)[0]
        wait()
        return z

    return job, known


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_default_device(DEVICE)
    serve.serve({"train": train, "sample": sample})
