"""Masked-image training: the image and the same image with patches hidden."""

from configs import common


def get_config(preset: str = "digits"):
    """The setting `masked_image`, variant X; conditions=false is variant U."""
    config = common.get_config(preset)
    config.modalities.masked_image = dict(
        kind="masked_image.MaskedImage",
        drift="ramp",
        drift_scale=1.0,
        loss_weight=0.1,
        conditions=True,
        drop_rate=0.1,
        null_rate=0.3,
        max_patches=10,
        patches_per_side=4,
        num_groups=config.unet.get_ref("num_groups"),
    )
    return config
