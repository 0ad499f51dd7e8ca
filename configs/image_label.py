"""Joint image-label modelling: the image and its class."""

from configs import common


def get_config(preset: str = "digits"):
    """The setting `image_label`, variant U, codebook encoder."""
    config = common.get_config(preset)
    imagenet = preset.startswith("imagenet")
    if preset == "digits":
        config.train.num_steps = 8000
    config.modalities.label = dict(
        kind="label.SharedUNet" if imagenet else "label.Codebook",
        drift="ramp",
        drift_scale=2.5,
        loss_weight=0.1,
        conditions=False,
        drop_rate=0.05,
        null_rate=0.6,
        class_names=(),
        head_width=4 * config.unet.get_ref("model_channels"),
        token_size=4 * config.unet.get_ref("model_channels"),
    )
    return config
