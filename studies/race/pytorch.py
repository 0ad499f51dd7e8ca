"""Their side of the race: diffusers' unconditional training, and draws from it.

python -m studies.race.pytorch IMAGES.npz --out=FOLDER --began=$(date +%s) \
    --variant=compile --steps=3000 --keep=750,1500,3000 --num=5000

As diffusers' example train_unconditional.py trains: AdamW, a cosine of the rate, the
linear schedule, the average with a power of 3/4. For a network so small this project
has other numbers: --rate=1e-3 --schedule=squaredcos_cap_v2 --warmup=100. Every step of
--keep leaves STEP.json, with the seconds since --began, and after the training STEP.npz
with images that the averaged network draws.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from benchmarks.speed import pytorch as built
from studies.race.runs import STUDY

SAMPLERS = {
    "ddpm": DDPMScheduler,
    "dpmpp": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
BATCH = 250  # of images that are drawn


def batches(images: torch.Tensor, size: int):
    """All of them in a new order, again and again."""
    while True:
        for part in torch.randperm(len(images)).split(size):
            if len(part) == size:
                yield images[part]


def train(asked: argparse.Namespace) -> None:
    """Trains, and keeps the averaged weights of some steps with their seconds."""
    pixels = torch.from_numpy(np.load(asked.images)["images"])
    clean = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    model, network = built.arranged(built.build(STUDY).train(), asked.variant)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=asked.rate,
        betas=(0.95, 0.999),
        weight_decay=1e-6,
        fused=True,
    )
    rates = get_scheduler(
        "cosine",
        optimizer,
        num_warmup_steps=asked.warmup,
        num_training_steps=asked.steps,
    )
    average = EMAModel(
        model.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75, foreach=True
    )
    noising = DDPMScheduler(1000, beta_schedule=asked.schedule)
    for step, image in enumerate(batches(clean, STUDY.batch_size), 1):
        noise = torch.randn_like(image)
        t = torch.randint(0, 1000, (len(image),))
        predicted = network(noising.add_noise(image, noise, t), t, return_dict=False)[0]
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(model.parameters())
        if step in asked.keep:
            seconds = time.time() - asked.began
            print(f"step {step}: {seconds:.0f} s", flush=True)
            average.store(model.parameters())
            average.copy_to(model.parameters())
            kept = {k: v.contiguous() for k, v in model.state_dict().items()}
            save_file(kept, asked.out / f"{step}.safetensors")
            average.restore(model.parameters())
            told = {"step": step, "seconds": seconds}
            (asked.out / f"{step}.json").write_text(json.dumps(told))
        if step == asked.steps:
            return


@torch.inference_mode()
def draw(asked: argparse.Namespace, step: int) -> None:
    """Images by the averaged weights of a step, uint8 [num, H, W, C]."""
    model = built.build(STUDY).eval()
    model.load_state_dict(load_file(asked.out / f"{step}.safetensors"))
    scheduler = SAMPLERS[asked.sampler](1000, beta_schedule=asked.schedule)
    found = []
    torch.manual_seed(asked.seed)
    for start in range(0, asked.num, BATCH):
        z = built.images(STUDY, min(BATCH, asked.num - start), "")
        scheduler.set_timesteps(asked.calls)
        for t in scheduler.timesteps:
            eps = model(z, t, return_dict=False)[0]
            z = scheduler.step(eps, t, z, return_dict=False)[0]
        found.append(((z.clamp(-1, 1) + 1) * 127.5).round().byte())
    images = torch.cat(found).permute(0, 2, 3, 1).numpy()
    np.savez(asked.out / f"{step}.npz", arr_0=images)


def main() -> None:
    """Trains what is not trained yet, and draws what is not drawn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=pathlib.Path, help="an .npz with `images`")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--began", type=float, required=True, help="seconds of Unix")
    parser.add_argument("--variant", default="", help="compile, channels_last, ...")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--keep", default="3000", help="steps, by commas")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--schedule", default="linear")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddpm")
    parser.add_argument("--calls", type=int, default=25)
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.keep = [int(step) for step in asked.keep.split(",")]
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(asked.seed)
    if not (asked.out / f"{asked.steps}.json").exists():
        train(asked)
    for step in asked.keep:
        if not (asked.out / f"{step}.npz").exists():
            draw(asked, step)


if __name__ == "__main__":
    main()
