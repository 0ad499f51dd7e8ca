"""The image alone: without modalities MT-Diffusion is exactly DDPM with ADM's U-Net.

  bash launch/local.sh --config=configs/ddpm.py --workdir=runs/ddpm

4,000 steps of 64 digits, less than 3 minutes on 2 CPU cores. What joint training is
compared with: FID 2.36, 2.35 and 2.29 on Fashion-MNIST at 28x28, three seeds, where
pairs of image and label have 0.81, 0.85 and 0.79 (results/README.md). Its
class-conditional sister, whose label is read but in one example of 20, for guidance, is

  bash launch/local.sh --config=configs/image_label.py --workdir=runs/ddpm_class \
      --config.modalities.label.drift=none --config.modalities.label.loss_weight=0 \
      --config.modalities.label.conditions=true --config.presence.read.share=0.95 \
      --config.presence.unread.share=0 --config.presence.absent.share=0.05
"""

from configs import common


def get_config(preset: str = "digits"):
    """The setting `ddpm`: no modality."""
    return common.get_config(preset)
