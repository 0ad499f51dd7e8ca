"""Joint image-representation modelling on digits: an image and a vector for it.

The paper's setting "image-representation", variant X (the network reads the vector as
well; conditions=false is variant U). The vector is the first 16 principal components of
the image, its code a fixed projection. Images are drawn from vectors, vectors are read
off images, and both from nothing.

  bash launch/local.sh --config=configs/image_representation.py \
      --workdir=runs/representation

4,000 steps of 64 images, about 4 minutes on 2 CPU cores. Of images drawn for the 359
test vectors all are nearest to their own; of vectors drawn for test images 99.7%
(seed 0; results/digits.md).

Vectors of a CLIP in a folder, or of any encoder of your own, a function from uint8
[N, H, W, C] to float [N, D] named as module:function, are computed once and attached to
the data:

  bash launch/local.sh --mode=precompute --config=configs/image_representation.py \
      --encoder=models/clip --out=runs/vectors.npz
  bash launch/local.sh --config=configs/image_representation.py --workdir=runs/clip \
      --config.data.vectors=runs/vectors.npz \
      --config.modalities.representation.vectors=feature:vector \
      --config.modalities.representation.kind=representation.SharedUNet \
      --config.modalities.representation.frame=read \
      --config.modalities.representation.energy=0.125

That is for 512 numbers: the default kind, a Projection, is refused where there are more
than codes have room for (28 on 8x8x1, 1,488 on 32x32x3), and 0.125 * 512 is 64, so
that their code is 1 for each number of an 8x8 image. kind=representation.Pretrained
wants frame=read as well, and the generator that is its encoder:
generator=package.module:function.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(preset: str = "digits"):
    """The setting `image_representation`, variant X; conditions=false is variant U."""
    config = common.get_config(preset)
    config.modalities.representation = representation(config)
    config.presence = dict(
        read=dict(share=0.4, representation="read"),
        unread=dict(share=0.4, representation="unread"),
        absent=dict(share=0.2, representation="absent"),
    )
    return config


def representation(config: ConfigDict) -> dict:
    """The modality `representation` beside the U-Net of this config."""
    width = 4 * config.unet.get_ref("model_channels")
    return dict(
        kind="representation.Projection",  # or .SharedUNet, .Pretrained; see frame
        drift="ramp",
        energy=400.0,  # of each number's code, c^2 D / size, against the noise's 1
        loss_weight=0.1,
        conditions=True,
        frame="evidence",  # taken out of z_t: evidence (of Projection), read, none
        guess="coherent",  # or held, held_alone, fresh, mean, absent
        codes=common.codes(),
        measured=dict(),  # taken from the training data
        vectors="pca",  # or feature:NAME of the data, or package.module:function
        num_components=16,  # of pca
        components=(),  # these four: taken from the training data
        pixel_mean=(),
        vector_mean=(),
        vector_std=(),
        head_width=width,
        tokens=common.tokens(width),
        clip="",  # the folder of the CLIP that vectors are of: words can be given then
        gap="shift",  # from vectors of words to those of images: shift, none
        clip_digest="",  # these three: found when training starts
        clip_images_digest="",
        text_mean=(),
        generator="",  # of .Pretrained: package.module:function
        std=0.5,  # bounds depend on it: best is the head's error
    )
