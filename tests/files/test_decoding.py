"""Pictures of every mode, suffix, depth, alpha and orientation, as a person sees them.

What is expected comes from the arrays that files are written from, by numpy alone.
"""

import io
import itertools
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile
from skimage import color

from mt_diffusion.errors import UserError
from mt_diffusion.files import decoding
from mt_diffusion.files import images as files

H, W = 6, 9
ORIENTATIONS = range(1, 9)
# How an array lies in a file that is to be shown upright, by its EXIF orientation.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}
# Of PNG: what may be in a pixel, by colour type, and in how many bits.
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGB_ALPHA: (8, 16),
}
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}


def noise(*shape, most=255, seed=0):
    return np.random.default_rng(seed).integers(0, most + 1, shape)


def exif(orientation):
    found = PIL.Image.Exif()
    found[274] = orientation
    return found


def on_white(levels, alpha):
    """Levels [h, w, C] and alpha [h, w, 1] in 0..1, as seen on white paper."""
    return levels * alpha + 255 * (1 - alpha)


def as_channels(seen, channels):
    """Grey or RGB [h, w, 1 or 3] as RGB or luminance (ITU-R 601)."""
    if seen.shape[-1] == channels:
        return seen
    if channels == 3:
        return np.repeat(seen, 3, axis=-1)
    return seen @ np.array([[0.299], [0.587], [0.114]])


def assert_seen(path, seen, tolerance=1.0):
    """That a file is read as these levels, in one channel and in three."""
    for channels in (1, 3):
        found = files.read_image(path, (*seen.shape[:2], channels))
        expected = as_channels(seen, channels)
        np.testing.assert_allclose(found.astype(float), expected, atol=tolerance)
    assert decoding.size(path) == seen.shape[1::-1]
    decoding.check(path)


def png(pixels, depth, kind, orientation=1, key=None, palette=None):
    """The bytes of a PNG, by its specification. pixels: [h, w, channels of kind]."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    found = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
    found.append(chunk(b"eXIf", exif(orientation).tobytes()[6:]))
    if palette is not None:
        found.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
    if key is not None:
        as_bytes = np.asarray(key, np.uint8 if kind == PALETTE else ">u2").tobytes()
        found.append(chunk(b"tRNS", as_bytes))
    shifts = np.arange(depth)[::-1]
    bits = (pixels.reshape(height, -1, 1) >> shifts & 1).reshape(height, -1)
    rows = np.packbits(bits.astype(np.uint8), axis=1)
    data = np.c_[np.zeros(height, np.uint8), rows].tobytes()
    found += [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"".join(found)


def png_case(depth, kind, with_key, orientation):
    """(bytes, what is seen) of a PNG of noise."""
    most = 2**depth - 1
    upright = noise(H, W, CHANNELS[kind], most=most, seed=depth)
    upright[0, 0] = most  # and with what is transparent, if that is one colour
    stored = STORED[orientation](upright)
    to_8_bits = (lambda x: x >> 8) if depth == 16 else lambda x: x * 255 / most
    palette = key = None
    alpha = np.ones((H, W, 1))
    if kind == PALETTE:
        palette = noise(most + 1, 3, seed=5)
        seen = palette[upright[..., 0]]
        if with_key:
            key = noise(most + 1, seed=6)
            alpha = key[upright] / 255
    elif kind in (GREY_ALPHA, RGB_ALPHA):
        seen, alpha = to_8_bits(upright[..., :-1]), to_8_bits(upright[..., -1:]) / 255
    else:
        seen = to_8_bits(upright)
        if with_key:
            key = upright[2, 3]
            alpha = 1.0 - (upright == key).all(axis=-1, keepdims=True)
    data = png(stored, depth, kind, orientation, key, palette)
    return data, on_white(seen, alpha)


CASES = [
    (depth, kind, with_key)
    for kind, depths in DEPTHS.items()
    for depth in depths
    for with_key in ((False, True) if kind in (GREY, RGB, PALETTE) else (False,))
    if (depth, kind, with_key) != (16, RGB, True)  # which is refused
]


@pytest.mark.parametrize("depth, kind, with_key", CASES)
def test_a_png_of_every_kind_is_seen_right(tmp_path, depth, kind, with_key):
    data, seen = png_case(depth, kind, with_key, 1 + depth % 8)
    (tmp_path / "x.PNG").write_bytes(data)
    assert_seen(tmp_path / "x.PNG", seen)


@pytest.mark.wide
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("depth, kind, with_key", CASES)
def test_a_png_of_every_kind_is_upright(tmp_path, depth, kind, with_key, orientation):
    data, seen = png_case(depth, kind, with_key, orientation)
    (tmp_path / "x.png").write_bytes(data)
    assert_seen(tmp_path / "x.png", seen)


# Other formats, written by Pillow from an array in each of its modes.

SUFFIXES = [".bmp", ".gif", ".jpg", ".jfif", ".jp2", ".pgm", ".png", ".ppm", ".tif"]
SUFFIXES += [".tiff", ".webp", ".avif", ".JPEG", ".TIFF"]
LOSSY = {".jpg", ".jfif", ".jpeg", ".avif"}
FORMATS = {".jfif": "JPEG"}
SETTINGS = {"JPEG": dict(quality=100, subsampling=0), "WEBP": dict(lossless=True)}
SETTINGS["AVIF"] = dict(quality=100, subsampling="4:4:4")
HAS_EXIF = {".jpg", ".jfif", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif"}
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16"]
MODES += ["I", "F"]


def smooth(channels, most=255):
    """Levels that a lossy format keeps: a slope in each channel, [H, W, channels]."""
    rows, columns = np.mgrid[:H, :W] / (H + W)
    slopes = [rows + columns, 1 - rows, columns + 0.3, 0.9 - columns]
    return np.stack([np.clip(s, 0, 1) * most for s in slopes[:channels]], axis=-1)


def mode_case(mode):
    """(array [H, W, ...] to be an image of this mode, what is seen of it)."""
    rgb = np.round(smooth(3)).astype(np.uint8)
    grey, alpha = rgb[..., :1], np.round(smooth(4)[..., 3:]).astype(np.uint8)
    if mode == "1":
        bits = noise(H, W, 1, most=1)
        return bits[..., 0].astype(bool), bits * 255
    if mode in ("L", "P"):
        return grey[..., 0], grey
    if mode in ("LA", "PA"):
        return np.dstack([grey, alpha]), on_white(grey, alpha / 255)
    if mode in ("RGB", "RGBX"):
        return rgb, rgb
    if mode == "RGBA":
        return np.dstack([rgb, alpha]), on_white(rgb, alpha / 255)
    if mode == "CMYK":
        inks = np.dstack([rgb, alpha // 3])
        rest = 255.0 - inks
        return inks, rest[..., :3] * rest[..., 3:] / 255
    if mode == "YCbCr":
        y, cb, cr = (rgb // 4 + 96).astype(float).transpose(2, 0, 1)
        seen = [y + 1.402 * (cr - 128)]
        seen += [y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)]
        seen += [y + 1.772 * (cb - 128)]
        return rgb // 4 + 96, np.clip(np.stack(seen, axis=-1), 0, 255)
    levels = np.round(smooth(1, most=65535)).astype(np.uint16)
    return levels[..., 0], levels >> 8


def image_of(array, mode):
    array = np.ascontiguousarray(array)
    if mode == "P":  # whose colours are those of the number
        image = PIL.Image.fromarray(array)
        image = image.convert("P")
        image.putpalette(np.repeat(np.arange(256), 3).astype(np.uint8).tobytes())
        return image
    if mode == "PA":
        image = image_of(array[..., 0], "P")
        image.putalpha(PIL.Image.fromarray(np.ascontiguousarray(array[..., 1])))
        assert image.mode == "PA"
        return image
    if mode == "RGBX":
        return PIL.Image.fromarray(array).convert(mode)
    if mode in ("I", "F"):
        return PIL.Image.fromarray(array.astype(np.int32 if mode == "I" else "f4"))
    if mode in ("CMYK", "YCbCr"):
        channels = [PIL.Image.fromarray(np.ascontiguousarray(c)) for c in array.T]
        return PIL.Image.merge(mode, [c.transpose(5) for c in channels])
    return PIL.Image.fromarray(array)


def save(path, image, orientation):
    """Writes it, or skips the test where the format has no such mode."""
    kind = FORMATS.get(path.suffix.lower())
    kind = kind or PIL.Image.registered_extensions()[path.suffix.lower()]
    more = {"exif": exif(orientation)} if path.suffix.lower() in HAS_EXIF else {}
    try:
        image.save(path, kind, **SETTINGS.get(kind, {}), **more)
    except (OSError, ValueError, KeyError) as error:
        pytest.skip(f"{kind} has no {image.mode}: {error}")
    with PIL.Image.open(path) as written:
        return written.mode


def check_mode(path, mode, orientation):
    suffix = path.suffix.lower()
    array, seen = mode_case(mode)
    orientation = orientation if suffix in HAS_EXIF else 1
    image = image_of(STORED[orientation](array), mode)
    there = save(path, image, orientation)
    if there in ("I", "F") and suffix not in (".pgm", ".ppm"):
        with pytest.raises(UserError, match=f"{path.name}.*numbers that are no levels"):
            files.read_image(path, (H, W, 1))
        return
    if there == "F":
        with pytest.raises(UserError, match="numbers that are no levels"):
            files.read_image(path, (H, W, 1))
        return
    with PIL.Image.open(path) as written:
        written.load()
        if mode in ("I", "F", "I;16", "LA", "RGBA", "PA") and written.mode in (
            "L",
            "P",
            "RGB",
        ):
            has_alpha = mode in ("LA", "RGBA", "PA")
            if not has_alpha or not written.has_transparency_data:
                pytest.skip("Pillow wrote another picture than this")
            if suffix == ".gif":
                pytest.skip("a GIF has one transparent colour")
    assert_seen(path, seen, 6.0 if suffix in LOSSY else 2.0)


@pytest.mark.parametrize(
    "mode, suffix",
    [("L", ".jpg"), ("CMYK", ".jpg"), ("L", ".bmp"), ("RGBA", ".webp"), ("P", ".gif")]
    + [(mode, ".TIFF") for mode in ("L", "RGBA", "CMYK", "I;16", "F")],
)
def test_modes_are_seen_right(tmp_path, mode, suffix):
    check_mode(tmp_path / f"x{suffix}", mode, 6)


@pytest.mark.wide
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_in_every_format_is_seen_right(tmp_path, mode, suffix, orientation):
    check_mode(tmp_path / f"x{suffix}", mode, orientation)


# TIFFs as scientists write them


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_tiffs_are_seen_right(tmp_path, dtype, photometric):
    most = np.iinfo(dtype).max
    levels = noise(H, W, 1, most=most).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", levels[..., 0], photometric=photometric)
    seen = levels if photometric == "minisblack" else most - levels
    assert_seen(tmp_path / "x.tif", seen >> (8 if most > 255 else 0))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "u4"])
def test_tiffs_of_other_numbers_are_refused_by_name(tmp_path, dtype):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.arange(H * W).reshape(H, W).astype(dtype))
    for look in (decoding.check, lambda p: files.read_image(p, (H, W, 1))):
        with pytest.raises(UserError, match="x.tif can't be read as an image"):
            look(path)


def test_lab_is_seen_right(tmp_path):
    lab = np.array([[[50, 0, 0], [80, 30, -20], [60, 40, 40], [40, -20, 20.0]]])
    levels = np.round(lab[..., :1] * 2.55).astype(np.uint8)
    signed = lab[..., 1:].astype(np.int8).view(np.uint8)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.dstack([levels, signed]), photometric="cielab")
    # Another adaptation to the white point than ours: some levels.
    assert_seen(path, color.lab2rgb(lab) * 255, 8)


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path):
    pixels = noise(H, W, 3, most=65535)
    (tmp_path / "x.png").write_bytes(png(pixels, 16, RGB, key=pixels[0, 0]))
    with pytest.raises(UserError, match="x.png.*16 bits is transparent"):
        decoding.check(tmp_path / "x.png")


# Masks of ids


@pytest.mark.parametrize("depth, kind", [(d, GREY) for d in (1, 2, 4, 8)] + [(4, 3)])
def test_ids_are_the_numbers_in_the_file(tmp_path, depth, kind):
    ids = noise(H, W, 1, most=2**depth - 1)
    palette = noise(2**depth, 3, seed=1) if kind == PALETTE else None
    (tmp_path / "x.png").write_bytes(png(ids, depth, kind, palette=palette))
    np.testing.assert_array_equal(files.read_ids(tmp_path / "x.png"), ids)


def test_ids_of_16_bits_are_ids(tmp_path):
    ids = noise(H, W, 1, most=40)
    (tmp_path / "x.png").write_bytes(png(ids, 16, GREY))
    np.testing.assert_array_equal(files.read_ids(tmp_path / "x.png"), ids)
    ids[1, 1] = 300
    (tmp_path / "x.png").write_bytes(png(ids, 16, GREY))
    with pytest.raises(UserError, match="x.png has the id 300"):
        files.read_ids(tmp_path / "x.png")


# What is no picture


def bomb(width, height):
    """A PNG that claims so many black pixels, in few bytes."""
    data = zlib.compressobj(9)
    row = bytes(1 + -(-width // 8))
    packed = b"".join(data.compress(row) for _ in range(min(height, 4))) + data.flush()
    whole = png(np.zeros((1, 1, 1), int), 1, GREY)
    end = whole.index(b"IDAT") - 4
    header = struct.pack(">IIBBBBB", width, height, 1, GREY, 0, 0, 0)
    found = b""
    for name, part in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + part))
        found += struct.pack(">I", len(part)) + name + part + crc
    return whole[:8] + found if end else b""


@pytest.mark.parametrize(
    "width, height, words",
    [
        (20_000_000, 1, "20000000x1 pixels, more than 100 times"),
        (14_000, 14_000, "196000000 pixels.*shrink"),
    ],
)
def test_bombs_are_refused_by_their_header(tmp_path, width, height, words):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(width, height))
    assert path.stat().st_size < 5000
    for look in (decoding.check, lambda p: files.read_image(p, (8, 8, 1))):
        with pytest.raises(UserError, match=f"bomb.png.*{words}"):
            look(path)


def test_a_given_file_of_another_size_is_not_decoded(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(bomb(9_000, 9_000))
    for read in (files.read_exact, files.read_masked, files.read_exact_ids):
        with pytest.raises(UserError, match="has 9000x9000 pixels"):
            read(path, (8, 8, 1))


def test_no_format_that_runs_a_program_is_opened(tmp_path):
    """Pillow gives EPS to Ghostscript."""
    out = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(out, "EPS")
    (tmp_path / "x.png").write_bytes(out.getvalue())
    with pytest.raises(UserError, match="x.png can't be read"):
        files.read_image(tmp_path / "x.png", (8, 8, 3))


def test_without_the_package_heic_says_which(tmp_path):
    if "HEIF" in decoding.finding.formats():
        pytest.skip("it is here")
    (tmp_path / "x.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match="x.HEIC.*pip install pillow-heif"):
        decoding.check(tmp_path / "x.HEIC")


def test_damaged_headers_raise_nothing_else(tmp_path):
    """Each byte of the first hundred of a file of each format, at two values."""
    rng = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".ppm"):
        path = tmp_path / f"x{suffix}"
        picture = PIL.Image.fromarray(noise(8, 8, 3).astype(np.uint8))
        save(path, picture, 6)
        whole = path.read_bytes()
        for place, value in itertools.product(
            range(0, 100, 3), rng.integers(256, size=2)
        ):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                files.read_image(path, (8, 8, 3))
            except UserError:
                continue


# What a program has


@pytest.mark.parametrize("mode", ["P", "CMYK", "L", "RGBA", "I;16"])
def test_pictures_of_a_program_are_seen_as_files_are(mode):
    array, seen = mode_case(mode)
    image = image_of(array, mode)
    found = files.as_pixels(image, (H, W, 3), "image")
    np.testing.assert_allclose(found[0].astype(float), as_channels(seen, 3), atol=2)


def test_numbers_of_a_program_that_are_no_levels_are_refused():
    with pytest.raises(UserError, match="image: .*no levels of 8 or 16 bits"):
        files.as_pixels(PIL.Image.new("F", (W, H)), (H, W, 1), "image")
