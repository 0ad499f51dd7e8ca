r"""An image in latents and CLIP's vector of it: the paper's setting, from words too.

sd64 and sd32 are for TPU pods: Stable Diffusion's latents, 64x64x4 of images of 512
pixels or 32x32x4 of 256, its U-Net to start from, and the 768 numbers of CLIP ViT-L/14
(docs/stable_diffusion.md says where the folders come from). Captions are wanted
only so that words can be given; the network learns from images alone.

  bash launch/local.sh --mode=precompute --out=latents \
      --config=configs/latent_representation.py:sd64
  bash launch/local.sh --mode=precompute --encoder=models/clip-vit-large-patch14 \
      --config=configs/latent_representation.py:sd64 --out=clip.npz
  bash launch/local.sh --config=configs/latent_representation.py:sd64 \
      --workdir=runs/sd --config.data.captions=CAPTIONS.csv
  bash launch/local.sh --mode=sample --workdir=runs/sd \
      --given=representation="a red heart"

each but the last with --config.data.path=IMAGES.

None of that was trained: what was measured is in docs/stable_diffusion.md. `emoji` is
the same for a laptop: the latents of configs/autoencoder.py, 8x8x4 of images of 64
pixels, and the words of `text.py` by a small sentence encoder.

  bash launch/local.sh --config=configs/autoencoder.py:emoji --workdir=runs/autoencoder
  bash launch/local.sh --mode=precompute --out=runs/latents \
      --config=configs/latent_representation.py:emoji
  bash launch/local.sh --config=configs/latent_representation.py:emoji \
      --workdir=runs/latent_emoji
  bash launch/local.sh --mode=sample --workdir=runs/latent_emoji \
      --given=text="a red heart"

After an hour of a core, the autoencoder's training included, it is about as good as a
model of pixels (results/latents/README.md). Other presets are those of
configs/autoencoder.py: its latents and principal components, as `smoke` for a look at
all parts.
"""

from ml_collections import ConfigDict

from configs import common, image_representation, latent_label, text

NUMBERS = 6400.0  # energy of all numbers of a vector, as in image_representation.py
OWN = 4  # principal components that find room in the latents of digits
CLIP = (
    768  # numbers of ViT-L/14's vectors, and of the tokens that Stable Diffusion reads
)


def get_config(preset: str = "digits"):
    """The setting `image_representation` in latents."""
    if preset in SIZES:
        return stable_diffusion(SIZES[preset])
    if preset == "emoji":
        return emoji()
    config = image_representation.get_config(preset)
    there = latent_label.get_config(preset)
    with config.unlocked():
        config.primary, config.data = there.primary, there.data
    vector = config.modalities.representation
    vector.update(num_components=OWN, energy=NUMBERS / OWN)
    return config


def emoji() -> ConfigDict:
    """Emoji in latents, with their words: text.py:emoji in another space."""
    config, there = text.get_config("emoji"), latent_label.get_config("emoji")
    with config.unlocked():
        config.primary, config.data = there.primary, there.data
    # Of 8x8 cells none is to be taken together, and they leave time for wider layers.
    config.unet.update(patch=1, model_channels=64, channel_mult=(1, 2, 2))
    config.unet.attention_resolutions = (1, 2)
    return config


def stable_diffusion(image_size: int) -> ConfigDict:
    """Of Stable Diffusion 1.5, for images of that size."""
    config = image_representation.get_config("digits")
    config.init_from = "sd:models/stable-diffusion-v1-5"
    config.mesh.fsdp = 4  # 13 GiB of parameters, averages and optimizer are split
    config.data.update(source="folder", path="images", image_size=image_size)
    config.data.update(channels=3, latents="latents", vectors="clip.npz")
    config.diffusion.schedule = "scaled_linear"
    config.unet.update(
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        attention_resolutions=(1, 2, 4),
        transformer_depth=1,
        num_heads=8,
        num_groups=32,
        use_scale_shift_norm=False,
        token_places=False,  # of the only token
        remat="blocks",
        dtype="bfloat16",
    )
    with config.unlocked():
        config.primary.space = dict(
            kind="latents",
            autoencoder="models/stable-diffusion-v1-5",  # its vae
            factor=8,
            channels=4,
            moments="sample",
            scaling=0.18215,  # which its config leaves out
            found=dict(),
        )
    config.modalities.representation.update(
        # A ramp leaves 360 nats at T on this schedule, and what vanishes there is less
        # strong: 26 times the noise at best, where it was 36 for text.py.
        drift="vanishing_ramp",
        energy=200.0,
        vectors="feature:vector",
        clip="models/clip-vit-large-patch14",
        tokens=common.tokens(CLIP),
    )
    common.adamw(config, learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01)
    config.optimizer.final_fraction = 1.0
    config.train.update(num_steps=200_000, batch_size=1024, ema_decay=0.9999)
    config.watch.update(checkpoint_every=5000, sample_every=25_000)
    config.watch.gradient_shares = False  # it compiles the gradient once more
    config.sampling.update(sampler="dpmpp_2m", num_steps=50, batch_size=64)
    return config


SIZES = {"sd64": 512, "sd32": 256}
