r"""Image and label as `image_label`, in the latents of a frozen autoencoder.

Three commands: the autoencoder, the latents of the data, the diffusion (docs/latents.md
has what each leaves behind, and how Stable Diffusion's autoencoder is taken instead).

  bash launch/local.sh --config=configs/autoencoder.py:emoji --workdir=runs/autoencoder
  bash launch/local.sh --mode=precompute --config=configs/latent_label.py:emoji \
      --out=runs/latents
  bash launch/local.sh --config=configs/latent_label.py:emoji --workdir=runs/latent
"""

from configs import autoencoder, image_label


def get_config(preset: str = "digits"):
    """The setting `image_label` in the latents of configs/autoencoder.py:PRESET."""
    config = image_label.get_config(preset)
    autoencoder.enlarge(config.data, preset)
    trained = autoencoder.get_config(preset)
    with config.unlocked():
        config.primary.space = dict(
            kind="latents",
            autoencoder="runs/autoencoder/autoencoder",  # or USER/NAME, of the hub
            factor=autoencoder.factor(trained),
            channels=trained.autoencoder.latent_channels,
            moments="sample",  # sample: drawn anew each time; mean
            scaling=0.0,  # 0: what the autoencoder's config says
            found=dict(),  # taken from the autoencoder and the training data
        )
    config.data.latents = "runs/latents"
    space = config.primary.space
    side = config.data.image_size // space.factor
    config.modalities.label.loss_weight = 1 / (side * side * space.channels)
    return config
