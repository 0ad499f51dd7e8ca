import json
import sys

import numpy as np
import pytest
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.models import adm


def reference(name):
    data = np.load(f"tests/data/adm_unet_{name}.npz")
    state = {k[len("param/") :]: data[k] for k in data if k.startswith("param/")}
    return data, state, json.loads(str(data["config"]))


@pytest.mark.parametrize("name", ["updown", "class"])
def test_the_unet_is_guided_diffusions(name):
    data, state, config = reference(name)
    module, params = adm.load(state, config)
    y = data["y"].astype(np.int32) if "y" in data else None
    out, features = module.apply({"params": params}, data["x"], data["t"], y)
    np.testing.assert_allclose(out, data["out"], atol=2e-5)
    assert features["out"].shape[:3] == data["x"].shape[:3]
    assert features["mid"].shape[1] == data["x"].shape[1] // 2


def test_attention_layouts_differ_only_in_the_order_of_their_weights():
    """[heads, 3, channels] and [3, heads, channels] permute the fused projection."""
    data, state, config = reference("updown")
    heads, size = 64 // config["num_head_channels"], config["num_head_channels"]
    permuted = dict(state)
    for name in state:
        if ".qkv." in name:
            legacy = state[name].reshape(heads, 3, size, -1)
            permuted[name] = legacy.swapaxes(0, 1).reshape(state[name].shape)
    module, params = adm.load(permuted, config | {"use_new_attention_order": True})
    out, _ = module.apply({"params": params}, data["x"], data["t"])
    np.testing.assert_allclose(out, data["out"], atol=2e-5)


def test_every_key_must_fit():
    _, state, config = reference("updown")
    short = {k: v for k, v in state.items() if k != "out.2.bias"}
    with pytest.raises(UserError, match="missing \\['out.2.bias'\\]"):
        adm.load(short, config)
    with pytest.raises(UserError, match="unused \\['extra'\\]"):
        adm.load(state | {"extra": np.zeros(3)}, config)
    with pytest.raises(UserError, match="out.2.bias has shape"):
        adm.load(state | {"out.2.bias": np.zeros(3)}, config)
    with pytest.raises(UserError, match="unknown.*'chanels'"):
        adm.load(state, config | {"chanels": 3})
    with pytest.raises(UserError, match="'conv_resample'. differ"):
        adm.load(state, config | {"conv_resample": False})
    with pytest.raises(UserError, match="needs.*'out_channels'"):
        adm.load(state, {k: v for k, v in config.items() if k != "out_channels"})
    adm.load(state, config | {"use_fp16": True, "dims": 2, "use_checkpoint": False})


def write_torch(file, state):
    torch = pytest.importorskip("torch")
    tensors = {n: torch.from_numpy(np.array(x)) for n, x in state.items()}
    torch.save(tensors, file)


WRITERS = {
    "npz": lambda file, state: np.savez(file, **state),
    "safetensors": lambda file, state: safetensors.numpy.save_file(state, file),
    "pt": write_torch,
    "pth": write_torch,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_state_dict_is_read_back(tmp_path, suffix):
    _, state, _ = reference("updown")
    WRITERS[suffix](tmp_path / f"adm.{suffix}", state)
    found = adm.read(tmp_path / f"adm.{suffix}")
    assert found.keys() == state.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])
        assert array.dtype == np.float32


def test_files_that_hold_no_state_dict_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    for name in ("torn.npz", "torn.safetensors", "model.ckpt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    for name, words in {
        "none.npz": "does not exist",
        "model.ckpt": "is no checkpoint: give one of .pt, .pth, .npz, .safetensors",
        "torn.npz": "can't be read as a state dict",
        "torn.safetensors": "can't be read as a state dict",
        "objects.npz": "can't be read .*allow_pickle",
    }.items():
        with pytest.raises(UserError, match=words):
            adm.read(tmp_path / name)


def test_what_torch_would_run_or_nests_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for state in ({"model": {"w": torch.ones(2)}}, {"f": print}):
        torch.save(state, tmp_path / "adm.pt")
        with pytest.raises(UserError, match="can't be read as a state dict"):
            adm.read(tmp_path / "adm.pt")


def test_a_missing_package_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "adm.pt").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs torch: `pip install torch`.*npz"):
        adm.read(tmp_path / "adm.pt")
