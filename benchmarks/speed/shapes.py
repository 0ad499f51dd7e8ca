"""The two networks that are timed, in numbers that either side can build from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """An ADM U-Net, and how many images a training step and a sampling batch have.

    size, channels: of images. attends: by level, whether its blocks attend. Levels
    after the first have half the resolution of the one before; attention has
    head_channels channels per head.
    """

    size: int
    channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attends: tuple[bool, ...]
    head_channels: int
    num_groups: int
    batch_size: int
    num_sampled: int


SHAPES = {
    # The U-Net of the preset :fashion_mnist.
    "28x28x1": Shape(28, 1, 64, (1, 2, 2), 2, (False, True, True), 32, 32, 32, 8),
    # That of :cifar10 at half its width, with two blocks instead of three.
    "32x32x3": Shape(
        32, 3, 64, (1, 2, 2, 2), 2, (False, True, True, False), 32, 32, 32, 8
    ),
}
# Of benchmarks/accelerator.sh: one that keeps a GPU busy, and a look at all parts.
ACCELERATED = {
    "64x64x3": Shape(
        64, 3, 128, (1, 2, 3, 4), 2, (False, True, True, True), 64, 32, 128, 64
    ),
    "8x8x1": Shape(8, 1, 32, (1, 2), 1, (False, True), 16, 8, 8, 8),
}
LEARNING_RATE, CLIP_NORM, EMA_DECAY = 1e-4, 1.0, 0.999
DIFFUSION_STEPS, SAMPLING_STEPS = 1000, 20
