r"""Image transition on digits: an image, and the second one of its pair.

The paper's setting "image transition" (night and day, a street and its segmentation),
variant X (the network reads the second image as well);
--config.modalities.image_b.conditions=false is variant U. Here the second image shows
the edges of the first.

  bash launch/local.sh --config=configs/image_transition.py --workdir=runs/transition

4,000 steps of 64 images, about 4 minutes on 2 CPU cores. Of the training mean's squared
error B to A leaves 0.034, A to B 0.032 (seed 0; results/digits.md).

One checkpoint goes both ways, and makes pairs from nothing:

  bash launch/local.sh --mode=sample --workdir=runs/transition --given=image=FOLDER
  bash launch/local.sh --mode=sample --workdir=runs/transition --given=image_b=FOLDER
  bash launch/local.sh --mode=sample --workdir=runs/transition

Emoji in two hands (launch/emoji.sh); figures are in results/emoji/README.md:

  bash launch/local.sh --config=configs/image_transition.py:emoji --workdir=runs/hands
  bash launch/local.sh --mode=sample --workdir=runs/hands --guidance=2 \
      --given=image_b=FOLDER   # Noto's: ~/.cache/mt_diffusion/emoji/32/google/test

The paper's data, files with both images side by side, as pix2pix released them:

  bash launch/local.sh --config=configs/image_transition.py:imagenet64 \
      --workdir=runs/cityscapes --config.data.source=folder \
      --config.data.path=cityscapes/ --config.data.pair=left_right
"""

import pathlib

from ml_collections import ConfigDict

from configs import common


def get_config(preset: str = "digits"):
    """The setting `image_transition`, variant X; conditions=false is variant U."""
    config = common.get_config(preset)
    pair(config, preset)
    config.modalities.image_b = image_b(config)
    config.presence = dict(
        read=dict(share=0.5, image_b="read"),  # in variant U: unread
        absent=dict(share=0.5, image_b="absent"),
    )
    return config


def pair(config: ConfigDict, preset: str) -> None:
    """Says how the data have second images: the other hand, or else edges.

    Which nothing asks for before the end of a walk: see image_b's loss_weight.
    """
    config.objective.last_power = 4.0
    config.data.pair = "edges"
    if preset == "emoji":
        other = pathlib.PurePath(config.data.path).with_name("google")
        config.data.update(pair="folders", pair_path=str(other))


def image_b(config: ConfigDict) -> dict:
    """The modality `image_b` beside the U-Net of this config."""
    return dict(
        kind="paired_image.PairedImage",
        drift="ramp",
        drift_scale=1.0,
        # With last_power: emoji for 2,000 steps leave, of L1 and of features, 0.166 and
        # 0.416 with 0.1 and a power of 0, 0.154 and 0.389 with 0.1, 0.138 and 0.330
        # with 1, and first images for second ones 0.344, 0.345, 0.319.
        loss_weight=1.0,
        conditions=True,
        frame="read",  # its drift is taken out of z_t where it is read; or none
        guess="absent",  # or held, held_alone, coherent, fresh, mean
        num_groups=config.unet.get_ref("num_groups"),
        levels=config.data.get_ref("pair_levels"),
        std=0.25,  # bounds depend on it: best is the head's error
    )
