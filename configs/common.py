"""What all settings share: every default, and the data sets with their U-Nets.

A preset changes only what differs from `digits`, the default.
"""

import difflib
import os

from ml_collections import ConfigDict

from mt_diffusion.errors import UserError


def digits() -> ConfigDict:
    """scikit-learn's 8x8 digits, a U-Net of about 0.2 million parameters."""
    config = ConfigDict()
    config.seed = 0
    # What a new run's parameters start from: "" for noise, the WORKDIR of another run
    # (its averaged ones), adm:FILE.pt|.npz|.safetensors of guided-diffusion, or
    # sd:FOLDER of Stable Diffusion 1.x or 2.x, as diffusers saves it.
    config.init_from = ""
    # What training must run on: tpu, gpu, cpu; "" for what there is. Never another one.
    config.platform = ""
    config.mesh = dict(
        fsdp=1,  # over so many devices the parameters and the optimizer are split
        gather="step",  # whole parameters: once in a step, or block (see docs/pods.md)
        sum="float32",  # of gradients over devices; bfloat16: half as much to send
        num_devices=0,  # that there must be, in all processes; 0: any number
    )
    config.data = dict(
        source="digits",  # digits, tfds, folder, tar, hf, or package.module.Class
        options=ConfigDict(),  # of a class of one's own: whatever it reads
        num_workers=0,  # processes that read examples; 0: threads of this one
        name="",  # of a TFDS data set
        data_dir="",  # of TFDS; empty for its own default
        train_split="train",
        test_split="test",
        download=False,
        path="",  # of folder: one sub-folder per class; for pairs, any files below it
        # Of tar and hf, where an example has its image, its class, and what else
        # modalities of one's own read; "" for what is clear, see data.md.
        image_column="",
        label_column="",
        other_columns=(),
        # Of files: "" to recognise those of training and test images by their names
        # (train, test, val and the like), else TRAIN,TEST; none: there are no such.
        splits="",
        version=1,  # of the rules by which a folder is read and split; see data.md
        class_names=(),  # in the order of their labels; () for that of the data
        broken="stop",  # at a file that can't be read: stop, or skip it and say so
        changed="refuse",  # where the data are not those of training: refuse, accept
        found=ConfigDict(),  # classes and examples, as training found them
        # A table of captions, FILE.csv or .json, of the files of a folder; classes: the
        # names of these; "" for none.
        captions="",
        prepared_by="",  # a command that makes path, to be named where it is missing
        vectors="",  # of each example: FILE.npz, or FILE_{split}.npy; see views.py
        latents="",  # of each example: the folder that --mode=precompute made
        # Share of the training examples that keep a feature, evenly over the classes.
        keep=dict(label=1.0, pair=1.0, vector=1.0),
        # How an example has a second image; "" for none, else one of: left_right
        # (halves of each file), folders (path and pair_path), feature (of TFDS), and
        # edges, grey, half, which are computed from the image.
        pair="",
        pair_path="",  # of folders: the second one, with the same names below it
        pair_feature="",  # of feature: its name, such as segmentation_mask
        pair_levels=0,  # ids in a mask, spread over all grey levels; 0: as it is
        swap_pair=False,  # the image is the second one
        image_size=8,
        channels=1,
        random_flip=False,
    )
    config.diffusion = dict(
        schedule="cosine",  # cosine, linear, scaled_linear (Stable Diffusion's)
        shift=0.0,  # of log SNR at every t: less is noisier, as large images want it
        num_steps=1000,
        prediction="aggregate",  # of the network: aggregate (noise), eps (paper's), v
    )
    config.unet = dict(
        patch=1,  # side of the squares of pixels that are one place of the network
        model_channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2,),  # downsampling factors
        num_heads=2,
        num_head_channels=0,  # 0: num_heads heads at every resolution
        num_groups=8,
        dropout=0.0,
        use_scale_shift_norm=True,
        resblock_updown=False,
        transformer_depth=0,  # of Stable Diffusion's blocks where it attends; 0: ADM's
        use_new_attention_order=False,
        learn_variance=False,
        token_places=True,  # learned: of what is read as tokens, whose it is and where
        remat="none",  # computed again for the gradient: none, pointwise, blocks
        dtype="float32",
    )
    config.primary = dict(
        name="image",  # of z_0, in files and on the command line
        space=dict(kind="pixels"),  # or latents, see configs/latent_label.py
    )
    config.modalities = ConfigDict()
    # {state: {share, modality: "read" | "unread" | "absent"}}: what the modalities of a
    # training example are, all at once; the shares add up to 1. "unread": it drifts,
    # but the network is not told it, as always in variant U.
    config.presence = ConfigDict()
    config.optimizer = dict(
        # Of the layers' weights: muon, adamw; at four times its rate it halves the FID
        # of AdamW at 1e-3 at Fashion-MNIST's small sizes (results/recipe).
        kind="muon",
        learning_rate=4e-3,
        warmup_steps=100,
        final_fraction=0.1,
        b1=0.9,
        b2=0.999,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    config.objective = dict(
        times="uniform",  # of t in a batch: uniform, stratified
        weighting="none",  # of the error by t: none, min_snr, p2, sigmoid, edm
        min_snr_gamma=5.0,
        p2_gamma=1.0,
        sigmoid_bias=0.0,  # more: more weight where there is little noise
        bare_every=2,  # examples: one is looked at again, bare, for heads with evidence
        # Heads of what stays absent while images are drawn (guess="absent") are asked
        # at the end alone: their nll weighs alpha_bar_t to this power; 0: alike at all.
        last_power=0.0,
        bare_of="one",  # modality that has evidence, in turn; "all": of all modalities
        learn_balance=False,  # of modalities: learned log variances times loss_weight
        variance_weight=0.001,  # of L_vlb, the sum over T; with unet.learn_variance
        tasks="",  # that are trained, as "image" or "image,label"; "": all
    )
    config.train = dict(
        num_steps=4000,
        batch_size=64,
        num_microbatches=1,  # parts of a batch, one after another: the same gradients
        ema_decay=0.999,
        max_skipped_in_a_row=10,
    )
    config.watch = dict(
        log_every=100,
        checkpoint_every=1000,
        keep_checkpoints=2,
        sample_every=2000,  # 0: never
        num_pictures=32,
        walk=True,  # a strip of how the joint ones came about; of 64 pictures at most
        gradient_shares=True,  # of the terms in the shared network, with each picture
    )
    config.sampling = dict(
        # ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, unipc
        sampler="ancestral",
        num_steps=250,
        spacing="",  # of its times: even (in t), log_snr; "": the sampler's own
        resample=1,  # how often each step is taken (RePaint); for pixels that are known
        eta=0.0,  # of ddim: 0 deterministic, 1 as noisy as ancestral
        # Of ancestral steps and of bounds, where none is learned: measured (the best
        # one, found on training data when first needed), beta_tilde, beta; "":
        # beta_tilde of steps, which draw better by it, and measured of bounds.
        variance="",
        # Of z_0: measured (read by the best affine map at each t), none.
        correction="measured",
        guess="",  # of modalities not given, as "label=held"; "": each one's own
        clip="static",  # of a predicted z_0: static, dynamic, none
        guidance=1.0,  # classifier-free, towards what is given; 1: none
        head_guidance=0.0,  # by the heads of what is given; 0: none
        autoguidance=1.0,  # away from what the guide says; 1: none
        guide="",  # a weaker model of the same: WORKDIR, or WORKDIR:STEP
        guidance_interval=(0.0, 1.0),  # of t / T in which there is guidance
        batch_size=256,
    )
    return config


def codes() -> dict:
    """The recipe of a modality's codes, see mt_diffusion/modalities/codes.py."""
    return dict(
        family="highpass",  # highpass, white, tiled, smooth
        side=0,  # of the grids of tiled and smooth ones
        seed=0,
        version=2,
    )


def tokens(size: int) -> dict:
    """The recipe of a modality's tokens of that size, see modalities/tokens.py."""
    return dict(size=size, seed=0, version=1)


def adamw(config: ConfigDict, **fields) -> None:
    """The optimizer of the literature, at its usual rate for a small network."""
    config.optimizer.update(kind="adamw", learning_rate=1e-3)
    config.optimizer.update(fields)


def smoke() -> ConfigDict:
    """Digits, for a look at all parts within a minute."""
    config = digits()
    config.train.update(num_steps=60, batch_size=32)
    config.watch.update(
        log_every=20, checkpoint_every=30, sample_every=60, num_pictures=8
    )
    config.watch.gradient_shares = False  # it compiles the gradient once more
    adamw(config)  # which compiles a quarter sooner
    config.sampling.num_steps = 20
    # What it draws is noise, so nothing is worth measuring.
    config.sampling.update(variance="beta_tilde", correction="none")
    return config


def emoji() -> ConfigDict:
    """Emoji 32x32 in two hands, with captions, for a laptop; see launch/emoji.sh."""
    config = fashion_small()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = f"{home}/mt_diffusion/emoji"
    config.data.update(source="folder", name="", image_size=32, channels=3)
    config.data.update(path=f"{home}/32/twitter", captions=f"{home}/captions.csv")
    config.data.prepared_by = (
        "bash launch/emoji.sh, or python -m mt_diffusion.command.emoji,"
    )
    # Shapes and colours are few numbers: a network of patches of 2x2 pixels is wider
    # for its time, v weighs high noise more, and small batches make more steps.
    config.unet.update(patch=2, model_channels=24, channel_mult=(1, 2, 4))
    config.unet.attention_resolutions = (2, 4)
    config.diffusion.prediction = "v"
    config.objective.times = "stratified"
    config.train.update(num_steps=11_000, batch_size=16)
    config.watch.update(checkpoint_every=1000, sample_every=0)
    return config


def fashion_mnist() -> ConfigDict:
    """Fashion-MNIST 28x28 from TFDS."""
    config = digits()
    config.data.update(source="tfds", name="fashion_mnist", image_size=28)
    config.unet.update(model_channels=64, channel_mult=(1, 2, 2), num_res_blocks=2)
    config.unet.update(attention_resolutions=(2, 4), num_groups=32, num_heads=4)
    config.optimizer.learning_rate = 1.2e-3
    config.train.update(num_steps=50_000, batch_size=128, ema_decay=0.9995)
    config.watch.update(checkpoint_every=2000, sample_every=5000)
    return config


def fashion_small() -> ConfigDict:
    """Fashion-MNIST 28x28 on a laptop: the U-Net and budget of launch/study.sh."""
    config = fashion_mnist()
    config.unet.update(model_channels=16, channel_mult=(1, 2, 4), num_res_blocks=1)
    config.unet.update(attention_resolutions=(4,), num_groups=8, num_heads=2)
    config.optimizer.learning_rate = 4e-3
    config.train.update(num_steps=3000, batch_size=32, ema_decay=0.998)
    config.watch.update(checkpoint_every=500, sample_every=3000, num_pictures=16)
    config.sampling.update(num_steps=50, batch_size=64)
    return config


def cifar10() -> ConfigDict:
    """CIFAR-10 32x32 from TFDS, the U-Net of Nichol & Dhariwal 2021."""
    config = digits()
    config.data.update(source="tfds", name="cifar10", image_size=32, channels=3)
    config.data.random_flip = True
    config.unet.update(model_channels=128, channel_mult=(1, 2, 2, 2), num_res_blocks=3)
    config.unet.update(attention_resolutions=(2, 4), num_heads=4, num_groups=32)
    config.unet.update(dropout=0.3, learn_variance=True)
    adamw(config, learning_rate=1e-4, final_fraction=1.0)
    config.train.update(num_steps=500_000, batch_size=128, ema_decay=0.9999)
    config.watch.update(checkpoint_every=5000, sample_every=25_000)
    return config


def imagenet64() -> ConfigDict:
    """ImageNet 64x64 from TFDS, ADM's widths and hyper-parameters (its Table 12)."""
    config = digits()
    config.data.update(source="tfds", name="imagenet_resized/64x64", image_size=64)
    config.data.update(channels=3, test_split="validation", random_flip=True)
    config.unet.update(
        model_channels=192,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_resolutions=(2, 4, 8),
        num_head_channels=64,
        num_groups=32,
        dropout=0.1,
        resblock_updown=True,
        use_new_attention_order=True,
        learn_variance=True,
        dtype="bfloat16",
    )
    adamw(config, learning_rate=3e-4, final_fraction=1.0)
    config.train.update(num_steps=540_000, batch_size=2048, ema_decay=0.9999)
    config.watch.update(checkpoint_every=5000, sample_every=25_000)
    config.watch.walk = False  # the devices would hold all 250 steps of it
    return config


def imagenet128() -> ConfigDict:
    """ImageNet 128x128 from TFDS, ADM's widths and hyper-parameters (its Table 11)."""
    config = imagenet64()
    config.data.update(name="imagenet2012", image_size=128)
    config.diffusion.schedule = "linear"
    config.unet.update(
        model_channels=256,
        channel_mult=(1, 1, 2, 3, 4),
        num_res_blocks=2,
        attention_resolutions=(4, 8, 16),
        num_heads=4,
        num_head_channels=0,
        dropout=0.0,
        use_new_attention_order=False,
    )
    config.optimizer.learning_rate = 1e-4
    config.train.update(num_steps=4_360_000, batch_size=256)
    return config


PRESETS = (digits, smoke, fashion_mnist, fashion_small, emoji) + (
    cifar10,
    imagenet64,
    imagenet128,
)


def get_config(preset: str) -> ConfigDict:
    """The shared config of that preset; settings add their modalities to it."""
    presets = {make.__name__: make for make in PRESETS}
    if preset not in presets:
        (near,) = difflib.get_close_matches(preset, presets, n=1, cutoff=0)
        raise UserError(
            f"there is no preset {preset!r}; choose one of {list(presets)}, of which "
            f"the nearest is {near}."
        )
    return presets[preset]()
