"""Latents of a second image are those of its own files."""

import numpy as np
import PIL.Image
import pytest

from mt_diffusion.data import latents, sources
from mt_diffusion.errors import UserError
from mt_diffusion.inference import precompute
from tests.spaces.test_latents import of_digits, place  # noqa: F401


def write(folder, levels):
    """Eight pictures with names that other folders have too, and sizes of their own."""
    rng = np.random.default_rng(levels)
    folder.mkdir()
    for i in range(8):
        pixels = rng.integers(0, levels, (8, 8), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    return str(folder)


@pytest.mark.parametrize("swap_pair", [False, True])
def test_latents_of_other_second_images_are_refused(place, tmp_path, swap_pair):  # noqa: F811
    config = of_digits(place).unlock()
    config.data.update(source="folder", pair="folders", swap_pair=swap_pair)
    config.data.update(random_flip=False, path=write(tmp_path / "a", 256))
    config.data.pair_path = write(tmp_path / "b", 2)
    out = tmp_path / "latents"
    precompute.precompute_latents(config, out)
    config.data.latents = str(out)
    example = sources.open_source(config.data, "train")[0]
    assert latents.MEAN.format("pair") in example
    (tmp_path / "b").rename(tmp_path / "moved")
    config.data.pair_path = str(tmp_path / "moved")
    sources.open_source(config.data, "train")
    config.data.pair_path = write(tmp_path / "c", 4)
    with pytest.raises(UserError, match="other train data: pair_digest is"):
        sources.open_source(config.data, "train")
