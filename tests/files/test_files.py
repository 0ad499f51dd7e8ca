"""Image files of every kind, and what is wrong with the broken ones."""

import numpy as np
import PIL.Image
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding, finding
from mt_diffusion.files import images as files

SIZES = {"wide": (24, 8), "tall": (8, 40), "large": (150, 90), "small": (5, 3)}
MODES = ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"]


def save(path, pixels, mode=None):
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_a_constant_image_stays_constant(tmp_path, mode, size, channels):
    level = 255 if mode == "1" else 200
    if mode == "I;16":
        image = PIL.Image.fromarray(np.full(size[::-1], level * 257, np.uint16))
    else:
        image = PIL.Image.new("L", size, level).convert(mode)
    image.save(tmp_path / "constant.png")
    pixels = files.read_image(tmp_path / "constant.png", (8, 8, channels))
    assert pixels.shape == (8, 8, channels) and pixels.dtype == np.uint8
    assert np.all(pixels == level)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_comes_back_to_the_bit(tmp_path, channels):
    pixels = noise(8, 8, channels)
    path = save(tmp_path / "exact.png", pixels.squeeze())
    np.testing.assert_array_equal(files.read_image(path, pixels.shape), pixels)
    assert files.resize(pixels, pixels.shape) is pixels


@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("axis", [0, 1], ids=["tall", "wide"])
def test_the_centre_is_kept(tmp_path, axis, factor):
    centre = np.where(noise(8, 8) < 128, 0, 255).astype(np.uint8)
    whole = np.concatenate([noise(8, 8, seed=1), centre, noise(8, 8, seed=2)], axis)
    enlarged = np.kron(whole, np.ones((factor, factor), np.uint8))
    path = save(tmp_path / "long.png", enlarged)
    np.testing.assert_array_equal(files.read_image(path, (8, 8, 1))[..., 0], centre)


def test_large_images_are_averaged_rather_than_sampled(tmp_path):
    checkerboard = np.indices((80, 80)).sum(0) % 2 * np.uint8(255)
    path = save(tmp_path / "fine.png", checkerboard.astype(np.uint8))
    assert np.abs(files.read_image(path, (8, 8, 1)) - 127.5).max() < 2


def test_arrays_are_resized_as_files_are(tmp_path):
    pixels = noise(21, 30, 3)
    read = files.read_image(save(tmp_path / "any.png", pixels), (8, 8, 1))
    np.testing.assert_array_equal(files.resize(pixels, (8, 8, 1)), read)
    grey = noise(8, 8, 1)
    np.testing.assert_array_equal(
        files.resize(grey, (8, 8, 3)), np.repeat(grey, 3, axis=-1)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_only_opaque_pixels_are_seen(tmp_path, channels):
    alpha = noise(8, 8, 1, seed=1)
    alpha[:3], alpha[3:5] = 255, 0
    color = noise(8, 8, channels)
    path = save(tmp_path / "erased.png", np.concatenate([color, alpha], -1))
    pixels, mask = files.read_masked(path, color.shape)
    np.testing.assert_array_equal(mask, alpha == 255)
    np.testing.assert_array_equal(pixels, color)


def test_a_palette_may_be_transparent(tmp_path):
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 2:] = 255
    color = np.full((8, 8, 3), 90, np.uint8)
    image = PIL.Image.fromarray(np.dstack([color, alpha])).quantize(4)
    assert image.mode == "P"
    image.save(tmp_path / "palette.png")
    pixels, mask = files.read_masked(tmp_path / "palette.png", (8, 8, 3))
    np.testing.assert_array_equal(mask[..., 0], alpha == 255)
    assert np.all(pixels[:, 2:] == 90)


def test_given_files_must_have_the_models_size(tmp_path):
    """Resizing would change the very pixels that are to be kept."""
    path = save(tmp_path / "double.png", noise(16, 16, 4))
    for read in (files.read_masked, files.read_exact):
        with pytest.raises(UserError, match="double.png has 16x16.*have 8x8"):
            read(path, (8, 8, 3))
    exact = save(tmp_path / "exact.png", noise(8, 8, 3))
    np.testing.assert_array_equal(files.read_exact(exact, (8, 8, 3)), noise(8, 8, 3))


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_masked_image_without_transparency_is_refused(tmp_path, mode):
    path = save(tmp_path / "opaque.png", noise(8, 8), mode)
    with pytest.raises(UserError, match="opaque.png.*transparent"):
        files.read_masked(path, (8, 8, 1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp"])
def test_broken_files_are_named(tmp_path, suffix):
    whole = save(tmp_path / f"whole{suffix}", noise(32, 32, 3)).read_bytes()
    truncated = tmp_path / f"truncated{suffix}"
    truncated.write_bytes(whole[: len(whole) // 2])
    text = tmp_path / f"text{suffix}"
    text.write_text("not an image")
    empty = tmp_path / f"empty{suffix}"
    empty.touch()
    for path in (truncated, text, empty):
        with pytest.raises(UserError, match=f"{path}.*repair or remove"):
            files.read_image(path, (8, 8, 3))
    for path in (text, empty):
        with pytest.raises(UserError, match=str(path)):
            decoding.check(path)
    decoding.check(tmp_path / f"whole{suffix}")


def test_images_too_large_to_be_meant_are_named(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", noise(32, 32))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="bomb.png.*1024 pixels"):
        files.read_image(path, (8, 8, 1))


def test_a_folder_is_its_images_at_any_depth_in_order(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    names = [f"a{i:02d}.jpg" for i in range(20)] + ["b/2.webp", "b/c/1.PNG"]
    for name in reversed(names):
        save(tmp_path / name, noise(4, 4))
    found = [str(p.relative_to(tmp_path)) for p in finding.image_files(str(tmp_path))]
    assert found == names
    assert finding.image_files(f"{tmp_path}/a00.jpg") == [tmp_path / "a00.jpg"]


def test_where_there_is_no_image_the_path_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no image in the folder {tmp_path}"):
        finding.image_files(str(tmp_path))
    with pytest.raises(UserError, match=f"no file or folder {tmp_path}/missing"):
        finding.image_files(f"{tmp_path}/missing")
    with pytest.raises(UserError, match=f"{tmp_path}/missing.png"):
        files.read_image(tmp_path / "missing.png", (8, 8, 1))
