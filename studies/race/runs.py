"""What runs in the race, in numbers that both sides can read."""

import dataclasses

from benchmarks.speed.shapes import Shape

# The U-Net of the preset :fashion_small.
STUDY = Shape(28, 1, 16, (1, 2, 4), 1, (False, False, True), 32, 8, 32, 64)
STEPS = 3000  # of 32 images
NUM, CALLS = 5000, 25  # images that are drawn, and calls of the network for each


@dataclasses.dataclass(frozen=True)
class Run:
    """A training, and the steps whose images are judged.

    ours: whether it is this project's; then `options` are those of the command, else
    of studies.race.pytorch.
    """

    ours: bool
    options: str
    keep: tuple[int, ...]


PAIRS = "--config=configs/image_label.py:fashion_small"
USUAL = "--rate=1e-3 --schedule=squaredcos_cap_v2 --warmup=100"
ALONG = (STEPS // 4, STEPS // 2, STEPS)
RUNS = {
    "image and label": Run(True, PAIRS, ALONG),
    "image and label in a sixth of the steps": Run(
        True, f"{PAIRS} --config.train.num_steps={STEPS // 6}", (STEPS // 6,)
    ),
    "plain diffusion": Run(True, "--config=configs/ddpm.py:fashion_small", ALONG),
    "diffusers": Run(False, USUAL, ALONG),
    "diffusers compiled": Run(False, f"{USUAL} --variant=compile", ALONG),
    "diffusers at its example's rate": Run(False, "", (STEPS,)),
}
