import json

import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.models import adm


def reference(name):
    data = dict(np.load(f"tests/data/adm_unet_{name}.npz"))
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
