"""The image alone: without modalities MT-Diffusion is exactly DDPM with ADM's U-Net.

  bash launch/local.sh --config=configs/ddpm.py --workdir=runs/ddpm

What joint training is compared with. Its class-conditional sister, whose label is read
but in one example of 20, for guidance, is

  bash launch/local.sh --config=configs/image_label.py --workdir=runs/ddpm_class \
      --config.modalities.label.drift=none --config.modalities.label.loss_weight=0 \
      --config.modalities.label.conditions=true --config.presence.read.share=0.95 \
      --config.presence.unread.share=0 --config.presence.absent.share=0.05
"""

from configs import common


def get_config(preset: str = "digits"):
    """The setting `ddpm`: no modality."""
    return common.get_config(preset)
