"""A model of vectors of images takes words, by the CLIP that the vectors are of."""

import dataclasses
import pathlib

import numpy as np
import PIL.Image
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.files.images import read_image
from mt_diffusion.models import sentences
from mt_diffusion.models.clip.images import Images
from tests.modalities.test_representation import Source, make
from tests.models.clip.test_clip import write

GAP = np.linspace(-3, 3, 10)


class Apart(Source):
    """Vectors as those of words, but elsewhere: all farther in one direction."""

    def __init__(self, clip):
        self.captions = [[f"the red {i} of {i % 7}"] for i in range(80)]
        texts = [text for (text,) in self.captions]
        self.vectors = sentences.find(clip)(texts, 0).pooled + GAP

    def __getitem__(self, i):
        return super().__getitem__(i) | {"vector": self.vectors[i]}


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("gap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        clip = str(write(folder / "clip"))
        yield clip, Apart(clip)


def test_words_come_to_where_their_images_are(apart, tmp_path):
    clip, source = apart
    modality = make(source=source, clip=clip)
    (text,) = source.captions[5]
    wanted = modality.preprocess(source[5], np.random.default_rng(0))
    np.testing.assert_allclose(modality.read(text)[0], wanted, atol=1e-3)
    np.testing.assert_array_equal(modality.take(text), modality.read(text))
    file = tmp_path / "two.txt"
    file.write_text(f"{text}\nhello")
    np.testing.assert_allclose(modality.read(str(file))[0], wanted, atol=1e-3)
    assert modality.take([text, "hello"]).shape == (2, 10)
    as_they_are = make(source=source, clip=clip, gap="none")
    apart = (modality.read(text) - as_they_are.read(text)) * modality.vector_std
    np.testing.assert_allclose(apart[0], GAP, atol=1e-3)


def test_vectors_may_be_an_array_and_words_long(apart):
    """Not every array has one truth, and not every text can be a file's name."""
    clip, source = apart
    modality = make(source=source, clip=clip)
    np.testing.assert_allclose(
        modality.take(source.vectors[:2]),
        modality.normalise(source.vectors[:2]),
        atol=1e-5,
    )
    assert modality.read("a red square " * 40).shape == (1, 10)
    assert modality.read("~nobody is a name").shape == (1, 10)


def test_images_come_by_the_same_clip(apart, tmp_path):
    clip, source = apart
    modality = make(source=source, clip=clip)
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    found = modality.read(str(tmp_path / "a.png"))
    encoder = Images(pathlib.Path(clip))
    # The middle at the size and in the colours of the data, as those of training.
    seen = read_image(tmp_path / "a.png", modality.space.picture)
    assert seen.shape != encoder.shape
    wanted = modality.normalise(encoder(seen[None]))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert modality.clip_images_digest == encoder.digest != modality.clip_digest
    before = dataclasses.replace(modality, clip_images_digest="")  # it had none
    np.testing.assert_array_equal(before.read(str(tmp_path / "a.png")), found)
    other = dataclasses.replace(modality, clip_images_digest="0")
    with pytest.raises(UserError, match="is not the CLIP that this model was trained"):
        other.read(str(tmp_path / "a.png"))
    assert other.read("hello").shape == (1, 10)
    with pytest.raises(UserError, match="no file or folder"):
        modality.read("gone.png")  # which are no words


def test_without_a_clip_words_are_no_value():
    with pytest.raises(UserError):
        make().read("the red heart")


def test_what_is_no_way_over_the_gap_is_said(apart, tmp_path):
    clip, source = apart
    with pytest.raises(UserError, match="gap is 'turn'; choose one of .'shift'"):
        make(source=source, clip=clip, gap="turn")
    with pytest.raises(UserError, match="makes vectors of 10 numbers, .* some of 6"):
        make(clip=clip)
    bare = Apart(clip)
    bare.captions = None
    with pytest.raises(UserError, match="trained without captions") as told:
        make(source=bare, clip=clip).read("hello")
    assert "\n" not in str(told.value)
    assert make(source=bare, clip=clip, gap="none").read("hello").shape == (1, 10)
    other = dataclasses.replace(make(source=source, clip=clip), clip_digest="0")
    with pytest.raises(UserError, match="is not the CLIP that this model was trained"):
        other.read("hello")
