r"""Four modalities in one model: two hands' pictures, their group, and their words.

Nothing but configuration: the modalities of `image_transition.py`, `image_label.py`
and `text.py` side by side, all of them read. Any subset may be given, and the rest is
generated.

  bash launch/emoji.sh                # and the encoder, as in text.py
  bash launch/local.sh --config=configs/anything.py:emoji --workdir=runs/anything
  bash launch/local.sh --mode=sample --workdir=runs/anything \
      --given=text="a red heart" --given=label="Smileys & Emotion"

After 71,000 pictures of the study's 112,000 (11 minutes of one core), 51% of pictures
for words are nearest to one of the right group, of real ones 68%; the second hand is a
blur yet (results/emoji/README.md).

On digits: the image, its edges, its class, and the class's name.
"""

from configs import common, image_label, image_transition, text


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
    names = "image_b", "label", "text"
    read, unread, absent = "read", "unread", "absent"
    states = {  # of image_b, label, text: those of walks, then what guides and reads
        "all": (0.15, read, read, read),
        "image_b": (0.15, read, read, unread),
        "words": (0.25, absent, read, read),
        "label": (0.15, absent, read, unread),
        "wordless": (0.1, absent, read, absent),
        "absent": (0.2, absent, absent, absent),
    }
    config.presence = {
        state: {"share": share} | dict(zip(names, words_of, strict=True))
        for state, (share, *words_of) in states.items()
    }
    return config
