"""The image alone: without modalities MT-Diffusion is exactly DDPM with ADM's U-Net.

  bash launch/local.sh --config=configs/ddpm.py --workdir=runs/ddpm

What joint training is compared with; `configs/image_label.py` with drift=none,
loss_weight=0 and conditions=true is its class-conditional sister.
"""

from configs import common


def get_config(preset: str = "digits"):
    """The setting `ddpm`: no modality."""
    return common.get_config(preset)
