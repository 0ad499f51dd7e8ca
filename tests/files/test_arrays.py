"""Files that claim more than they hold, and weights that are none."""

import io
import json
import struct
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.files import arrays, vectors, weights


def header_of(shape, dtype="<f4"):
    """The first bytes of a .npy of that shape."""
    out = io.BytesIO()
    told = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, told)
    return out.getvalue()


def write(path, content):
    """A .npy of these bytes, or an .npz with one such array."""
    if path.suffix == ".npy":
        path.write_bytes(content)
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("vector.npy", content)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    "shape", [(2**42, 4), (2**62, 2**40), (10**30, 1), (5, 3), (-1, 4), (3, 1)]
)
def test_an_array_that_claims_another_size_is_refused(tmp_path, suffix, shape):
    """64 TiB, or what overflows, or a byte more than there is."""
    path = write(tmp_path / f"x{suffix}", header_of(shape) + bytes(4 * 5))
    start = time.monotonic()
    with pytest.raises(UserError, match=f"x{suffix} can't be read as an array"):
        vectors.read(path, "vector")
    if suffix == ".npz":
        with pytest.raises(UserError, match="x.npz can't be read as a state dict"):
            weights.read(path)
    assert time.monotonic() - start < 1


def test_what_unfolds_to_gigabytes_is_refused(tmp_path):
    path, size = tmp_path / "x.npz", 3 * 2**30
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
        out.open("vector.npy", "w", force_zip64=True) as file,
    ):
        file.write(header_of((size // 64, 16)))
        file.write(bytes(2**20))  # the rest is claimed, in the folder of the archive
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    written = len(header_of((size // 64, 16))) + 2**20
    told = content.index(struct.pack("<L", written), place)
    content[told : told + 4] = struct.pack("<L", len(header_of((1, 1))) + size)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="unfold to 3,221,225,472"):
        arrays.headers(path)
    with pytest.raises(UserError, match="unfold to 3,221,225,472"):
        vectors.read(path, "vector")


def test_arrays_that_are_whole_have_their_headers(tmp_path):
    both = {"a": np.zeros((3, 2), "f4"), "b": np.array("text"), "c": np.zeros((0, 5))}
    np.savez_compressed(tmp_path / "x.npz", **both)
    found = arrays.headers(tmp_path / "x.npz")
    assert {n: (h.shape, h.dtype) for n, h in found.items()} == {
        n: (x.shape, x.dtype) for n, x in both.items()
    }
    np.save(tmp_path / "x.npy", np.asfortranarray(both["a"]))
    assert arrays.headers(tmp_path / "x.npy")[""].shape == (3, 2)


# Weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path, suffix, value):
    state = {"good": np.ones(3, "f4"), "bad": np.array([1, value], "f4")}
    save = np.savez if suffix == ".npz" else None
    path = tmp_path / f"x{suffix}"
    save(path, **state) if save else safetensors.numpy.save_file(state, path)
    with pytest.raises(UserError, match=r"not finite as float32, in \['bad'\]"):
        weights.read(path)


def test_weights_too_large_for_float32_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", large=np.array([1e300]))
    with pytest.raises(UserError, match="not finite as float32"):
        weights.read(tmp_path / "x.npz")


def write_safetensors(path, kind, array):
    """By the format's own words, for types that its writer has not."""
    data = array.tobytes()
    told = {"dtype": kind, "shape": list(array.shape), "data_offsets": [0, len(data)]}
    header = json.dumps({"x": told}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.mark.parametrize(
    "kind, dtype",
    [("F16", np.float16), ("BF16", ml_dtypes.bfloat16), ("F64", np.float64)],
)
def test_half_precision_is_read_right(tmp_path, kind, dtype):
    values = np.array([1.5, -2, 0.25, 65504 if kind != "BF16" else 2.0**100])
    write_safetensors(tmp_path / "x.safetensors", kind, values.astype(dtype))
    found = weights.read(tmp_path / "x.safetensors")["x"]
    np.testing.assert_array_equal(found, values.astype(np.float32))
    if kind == "F16":
        np.savez(tmp_path / "x.npz", x=values.astype(dtype))
        np.testing.assert_array_equal(weights.read(tmp_path / "x.npz")["x"], found)


def test_numbers_whose_type_is_lost_or_strange_are_refused(tmp_path):
    half = np.ones(4, ml_dtypes.bfloat16)
    np.savez(tmp_path / "bf16.npz", x=half)  # numpy keeps the bytes, not the type
    np.savez(tmp_path / "complex.npz", x=np.ones(4, complex))
    np.savez(tmp_path / "text.npz", x=np.array(["a"]))
    eight = half.astype(ml_dtypes.float8_e4m3fn)
    write_safetensors(tmp_path / "f8.safetensors", "F8_E4M3", eight)
    for name, words in {
        "bf16.npz": "x is |V2",
        "complex.npz": "x is complex128",
        "text.npz": "x is <U1",
        "f8.safetensors": "holds F8_E4M3; save it as F16, BF16 or F32",
    }.items():
        with pytest.raises(UserError, match=f"{name} .*{words.replace('|', '.')}"):
            weights.read(tmp_path / name)
