"""A small autoencoder of one's own, for a diffusion of its latents (docs/latents.md).

Stable Diffusion's architecture, a KL-regularised autoencoder, without an adversary or a
perceptual loss, so that it can be trained on a laptop. It is no diffusion: the config
has the sections alone that its training reads.

  bash launch/local.sh --config=configs/autoencoder.py:emoji --workdir=runs/autoencoder

leaves runs/autoencoder/autoencoder, a folder as diffusers saves it. Presets as of the
other settings: digits 8x8x1 become 4x4x2, Fashion-MNIST 32x32x1 becomes 8x8x4, emoji
64x64x3 become 8x8x4.
"""

from ml_collections import ConfigDict

from configs import common

SECTIONS = ("seed", "platform", "mesh", "data", "optimizer", "train", "watch")


def get_config(preset: str = "digits"):
    """The autoencoder for images of that preset."""
    whole = common.get_config(preset)
    common.adamw(whole)
    config = ConfigDict({name: whole[name] for name in SECTIONS})
    config.autoencoder = dict(
        block_out_channels=(16, 32),  # halved once less often than there are of these
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=8,
        mid_block_add_attention=True,
        kl_weight=1e-4,  # of nats in a latent's number, against a pixel's square error
    )
    enlarge(config.data, preset)
    if preset not in ("digits", "smoke"):
        halvings = 3 if config.data.image_size >= 64 else 2
        widths = (16, *[32] * halvings)
        config.autoencoder.update(block_out_channels=widths, latent_channels=4)
    # As measured, by AdamW.
    config.train.num_steps = {"digits": 7000, "emoji": 5000}.get(
        preset, config.train.num_steps
    )
    config.watch.update(sample_every=config.watch.checkpoint_every)
    return config


def enlarge(data: ConfigDict, preset: str) -> None:
    """Images that can be halved often enough, and large enough to be worth it."""
    if preset.startswith("fashion"):
        data.image_size = 32
    if preset == "emoji":
        data.image_size = 64
        data.path = data.path.replace("/32/", "/64/")


def factor(config: ConfigDict) -> int:
    """Pixels on a side of a cell of its latents."""
    return 2 ** (len(config.autoencoder.block_out_channels) - 1)
