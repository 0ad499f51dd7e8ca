"""Masked-image training on digits: the image, and the same with patches hidden.

The paper's setting "masked-image training", variant X (the network reads the
masked image as well); --config.modalities.masked_image.conditions=false is variant U.

  bash launch/local.sh --config=configs/masked_image.py --workdir=runs/masked_image

7,000 steps of 64 images, about 6 minutes on 2 CPU cores. Five hidden patches of test
images are restored in 10 steps at 0.37 of the mean squared error that the training mean
leaves, after 4,000 steps at 0.41 (seed 0; results/digits.md). Half of the examples are
read, the others train images from nothing; with three in four read
(--config.presence.read.share=0.75 --config.presence.absent.share=0.25) AdamW had 0.41
in place of 0.45.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(preset: str = "digits"):
    """The setting `masked_image`, variant X; conditions=false is variant U."""
    config = common.get_config(preset)
    if preset == "digits":
        config.train.num_steps = 7000
    config.modalities.masked_image = masked_image(config)
    config.presence = dict(
        read=dict(share=0.5, masked_image="read"),  # in variant U: unread
        absent=dict(share=0.5, masked_image="absent"),
    )
    return config


def masked_image(config: ConfigDict) -> dict:
    """The modality `masked_image` beside the U-Net of this config."""
    return dict(
        kind="masked_image.MaskedImage",
        drift="ramp",
        drift_scale=1.0,
        loss_weight=0.1,
        conditions=True,
        frame="read",  # its drift is taken out of z_t where it is read; or none
        guess="absent",  # or held, held_alone, coherent, fresh, mean
        max_patches=10,
        patches_per_side=4,
        num_groups=config.unet.get_ref("num_groups"),
        std=0.25,  # bounds depend on it: best is the head's error on seen pixels
    )
