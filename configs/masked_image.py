"""Masked-image training: the image and the same image with patches hidden."""

from configs import common


def get_config(preset: str = "digits"):
    """The setting `masked_image`, variant U; conditions=true is variant X."""
    config = common.get_config(preset)
    config.modalities.masked_image = dict(
        kind="masked_image.MaskedImage",
        drift="ramp",
        drift_scale=1.0,
        loss_weight=0.1,
        conditions=False,
        drop_rate=0.1,
        null_rate=0.6,
        max_patches=10,
        patch_fraction=0.25,
        num_groups=config.unet.num_groups,
    )
    return config
