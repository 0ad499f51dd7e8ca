"""Vectors of a data set, computed once: to a file and back into training."""

import sys
import types

import numpy as np
import pytest

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.inference.precompute import precompute


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that a user's encoder, users_own:encode, has had."""
    sizes = []

    def encode(images):
        assert images.dtype == np.uint8
        sizes.append(len(images))
        return images.mean(axis=(2, 3))

    module = types.ModuleType("users_own")
    module.encode, module.flat = encode, lambda images: np.zeros(len(images))
    module.uneven = lambda images: np.zeros((len(images), 2 + (len(images) == 38)))
    module.large = lambda images: np.full((len(images), 2), 1e39)
    monkeypatch.setitem(sys.modules, "users_own", module)
    return sizes


def make_config():
    config = common.digits().lock()
    config.sampling.batch_size = 100
    return config


def test_vectors_come_back_with_their_examples(tmp_path, batches, capsys):
    config, out = make_config(), tmp_path / "new" / "v.npz"
    precompute(config, "users_own:encode", out)
    assert batches == [100] * 14 + [38] + [100] * 3 + [59]
    assert [p.name for p in out.parent.iterdir()] == ["v.npz"]
    printed = capsys.readouterr()
    assert f"--config.data.vectors={out}" in printed.out
    assert "1438/1438" in printed.err and "359/359" in printed.err
    config.data.vectors = str(out)
    for split in ("train", "test"):
        source = sources.open_source(config.data, split)
        for i in (0, 100, len(source) - 1):
            example = source[i]
            expected = example["image"].mean(axis=(1, 2))
            np.testing.assert_allclose(example["vector"], expected, rtol=1e-6)


def test_nothing_is_overwritten_or_left_half_done(tmp_path, batches):
    out = tmp_path / "v.npz"
    out.write_text("precious")
    with pytest.raises(UserError, match="v.npz exists already"):
        precompute(make_config(), "users_own:encode", out)
    assert out.read_text() == "precious" and batches == []
    for path, encoder, words in [
        (tmp_path / "w.npy", "users_own:encode", "must end in .npz"),
        (out / "w.npz", "users_own:encode", "can't be written"),
        (tmp_path / "w.npz", "users_own:decode", "no function 'decode'"),
        (tmp_path / "w.npz", "users_own:flat", r"float64 \[100\]"),
        (
            tmp_path / "w.npz",
            "users_own:uneven",
            "of 2 .*train images 1400 to 1437 .* 3",
        ),
        (tmp_path / "w.npz", "users_own:large", "not finite as float32"),
    ]:
        with pytest.raises(UserError, match=words):
            precompute(make_config(), encoder, path)
    assert list(tmp_path.iterdir()) == [out] and batches == []


def test_both_splits_have_vectors_of_one_length(tmp_path, monkeypatch):
    calls = []

    def encode(images):
        calls.append(len(images))
        return np.zeros((len(images), 2 if len(calls) <= 15 else 3))

    module = types.ModuleType("users_own")
    module.encode = encode
    monkeypatch.setitem(sys.modules, "users_own", module)
    with pytest.raises(
        UserError, match="of 2 numbers, and of test images 0 to 99 .* 3"
    ):
        precompute(make_config(), "users_own:encode", tmp_path / "v.npz")
    assert len(calls) == 16 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "part, fields, words",
    [
        ("sampling", {"batch_size": 0}, "sampling.batch_size is 0"),
        ("data", {"channels": 2}, "channels is 2"),
        ("data", {"source": "folder", "path": "nowhere"}, "'nowhere' is no folder"),
    ],
)
def test_what_can_not_be_is_refused_first(tmp_path, batches, part, fields, words):
    config = make_config()
    config[part].update(fields)
    with pytest.raises(UserError, match=words):
        precompute(config, "users_own:encode", tmp_path / "v.npz")
    assert batches == [] and list(tmp_path.iterdir()) == []


def test_vectors_that_are_yet_to_be_made_are_not_looked_for(tmp_path, batches, capsys):
    config, out = make_config(), tmp_path / "v.npz"
    config.data.update(vectors=str(out), random_flip=True)
    config.data.keep.update(vector=0.5)
    precompute(config, "users_own:encode", out)
    assert "--config.data.random_flip=false" in capsys.readouterr().out
    assert config.data.vectors == str(out) and config.data.keep.vector == 0.5
