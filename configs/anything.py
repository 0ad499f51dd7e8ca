r"""Four modalities in one model: two hands' pictures, their group, and their words.

Nothing but configuration: the modalities of `image_transition.py`, `image_label.py`
and `text.py` side by side, all of them read. Any subset may be given, and the rest is
generated.

  bash launch/emoji.sh                # and the encoder, as in text.py
  bash launch/local.sh --config=configs/anything.py:emoji --workdir=runs/anything
  bash launch/local.sh --mode=sample --workdir=runs/anything \
      --given=text="a red heart" --given=label="Smileys & Emotion"

176,000 pictures, 40 minutes of one core; each hand from the other is nearer to the true
one than the nearest training picture's, and with --guidance=2 53% of the pictures for
words are nearest to one of the right group, of real ones 71% (seed 0, on a start of
images alone; results/emoji/README.md).

On digits: the image, its edges, its class, and the class's name.
"""

from configs import common, image_label, image_transition, text

NAMES = "image_b", "label", "text"
SHARES = {  # of what is given beside the image: every subset
    (): 0.2,
    ("image_b",): 0.15,
    ("label",): 0.1,
    ("text",): 0.15,
    ("image_b", "label"): 0.05,
    ("image_b", "text"): 0.1,
    ("label", "text"): 0.15,
    NAMES: 0.1,
}


def get_config(preset: str = "digits"):
    """The setting `anything`: image, image_b, label and text, all of them read (X)."""
    config = common.get_config(preset)
    image_transition.pair(config, preset)
    config.data.captions = config.data.captions or text.OF_CLASSES
    words = text.text(config)
    config.modalities.image_b = image_transition.image_b(config)
    config.modalities.label = image_label.label(config) | {
        "conditions": True,
        "tokens": common.tokens(words["tokens"]["size"]),  # the network reads all alike
    }
    config.modalities.text = words
    # What is not given is absent in training, so heads learn what is given beside them.
    # By that a group is drawn first, and held; the others are read off the image at
    # last. Words alone then chose the right group in 61%, and not in 54%
    # (by AdamW, results/emoji/first/README.md).
    for name in ("image_b", "text"):
        config.modalities[name]["guess"] = "absent"
    config.presence = {
        "_".join(given) or "nothing": {"share": share, **states(given)}
        for given, share in SHARES.items()
    }
    return config


def states(given: tuple[str, ...]) -> dict[str, str]:
    """Of each modality: read where it is given, else absent."""
    return {name: "read" if name in given else "absent" for name in NAMES}
