"""What a run found in its data, and whether it is still so."""

import pytest

from configs import common
from mt_diffusion.data import changed
from mt_diffusion.errors import UserError


class Source:
    """Two examples with captions, or without."""

    class_names = ("a",)
    digest = "of names"

    def __init__(self, captions=None):
        if captions is not None:
            self.captions = captions

    def __len__(self):
        return 2


def recorded(captions=None):
    source = Source(captions)
    return changed.recorded(common.get_config("smoke"), source, source).data


def test_captions_that_were_swapped_are_other_data():
    before = recorded([["one"], ["two"]])
    changed.check_same(recorded([["one"], ["two"]]), before)
    swapped = recorded([["two"], ["one"]])
    with pytest.raises(UserError, match="others by name, size or caption"):
        changed.check_same(swapped, before)
    swapped.changed = changed.ACCEPT
    changed.check_same(swapped, before)


def test_what_an_earlier_version_did_not_look_at_is_the_same():
    before = recorded()
    assert "captions" not in before.found.train
    changed.check_same(recorded([["one"], ["two"]]), before)
    before.found.train.digest = "others"
    with pytest.raises(UserError, match="the train examples are not those"):
        changed.check_same(recorded([["one"], ["two"]]), before)
