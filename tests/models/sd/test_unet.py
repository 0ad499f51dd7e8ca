"""Stable Diffusion's U-Net: its numbers are the original's, and what is none is said.

tests/models/sd/make_unet.py made the arrays.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from configs import common
from mt_diffusion.diffusion import prediction, schedule
from mt_diffusion.diffusion.aggregation import Aggregation
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.models.sd import saved
from mt_diffusion.models.unet import UNet

ORIGINAL = dict(np.load("tests/data/sd_unet.npz"))
KINDS = ("sd1", "sd2")


def config_of(kind):
    return json.loads(str(ORIGINAL[f"{kind}/config"]))


def state_of(kind):
    shapes = json.loads(str(ORIGINAL[f"{kind}/shapes"]))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(ORIGINAL[f"{kind}/weights"].astype(np.float32), ends[:-1])
    return {n: x.reshape(shapes[n]) for n, x in zip(shapes, parts, strict=True)}


def write(path, kind="sd1", scheduler=(), **changes):
    """A pipeline's folder, as diffusers saves it, with what concerns the U-Net."""
    unet = path / "unet"
    unet.mkdir(parents=True, exist_ok=True)
    file = unet / "diffusion_pytorch_model.safetensors"
    safetensors.numpy.save_file(state_of(kind), file)
    (unet / "config.json").write_text(json.dumps(config_of(kind) | changes))
    if scheduler:
        (path / "scheduler").mkdir(exist_ok=True)
        (path / saved.SCHEDULER).write_text(json.dumps(dict(scheduler)))
    return path


def unet_of(folder, use_tokens=True):
    """The U-Net that the config.json in a folder means."""
    fields = {f.name for f in dataclasses.fields(UNet)} - {"parent", "name"}
    own = {n: x for n, x in common.digits().unet.items() if n in fields}
    own |= saved.fields_of(folder) | {"dtype": jnp.float32}
    return UNet(**own, out_channels=4, num_classes=0, use_tokens=use_tokens)


def shapes_of(module, kind):
    x, t, tokens = (jnp.asarray(ORIGINAL[f"{kind}/{n}"]) for n in ("x", "t", "tokens"))
    t = t.astype(jnp.float32)
    init = lambda: module.init(jax.random.key(0), x, t, tokens=tokens)  # noqa: E731
    return jax.eval_shape(init)["params"], (x, t, tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unet_is_the_originals(kind, tmp_path):
    folder = saved.find(write(tmp_path, kind))
    module = unet_of(folder)
    shapes, (x, t, tokens) = shapes_of(module, kind)
    state = weights.read_saved(folder, saved.STEM)
    found, rest = saved.match(state, shapes, module.num_res_blocks)
    assert rest == {} and len(found) == len(state)
    params = unflatten_dict(found)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    out, features = jax.jit(module.apply)({"params": params}, x, t, tokens=tokens)
    np.testing.assert_allclose(out, ORIGINAL[f"{kind}/out"], atol=2e-5)
    assert features["mid"].shape[1] == 8 // 2 ** (len(module.channel_mult) - 1)
    assert features["out"].shape == (2, 8, 8, 4)
    other, _ = jax.jit(module.apply)({"params": params}, x, t, tokens=-tokens)
    assert np.abs(other - out).max() > 1e-2


@pytest.mark.parametrize("kind", ["sd1", pytest.param("sd2", marks=pytest.mark.wide)])
def test_every_weight_of_a_published_one_has_its_place(kind, tmp_path):
    """Of Stable Diffusion 1.5 (860 million parameters) and 2.1, by name and shape."""
    (tmp_path / "config.json").write_text(str(ORIGINAL[f"{kind}/told"]))
    module = unet_of(tmp_path)
    size = json.loads(str(ORIGINAL[f"{kind}/told"]))["cross_attention_dim"]
    x, t, tokens = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 1, size))
    init = lambda: module.init(jax.random.key(0), x, t, tokens=tokens)  # noqa: E731
    shapes = jax.eval_shape(init)["params"]
    wanted = json.loads(str(ORIGINAL[f"{kind}/real"]))
    state = {n: np.broadcast_to(np.float32(0), shape) for n, shape in wanted.items()}
    found, rest = saved.match(state, shapes, module.num_res_blocks)
    assert rest == {} and len(found) == len(wanted) == 686
    leaves = flatten_dict(shapes)
    assert {p: x.shape for p, x in found.items()} == {
        path: leaf.shape for path, leaf in leaves.items()
    }


def test_names_are_those_of_stable_diffusions():
    """Of its 1.x, whose names everybody can look up."""
    names = {
        "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias": "down_blocks.0."
        "attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
        "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0."
        "conv_shortcut.weight",
        "input_blocks.11.0.out_layers.3.bias": "down_blocks.3.resnets.1.conv2.bias",
        "middle_block.2.in_layers.0.weight": "mid_block.resnets.1.norm1.weight",
        "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
        "output_blocks.5.2.conv.bias": "up_blocks.1.upsamplers.0.conv.bias",
        "output_blocks.11.1.proj_in.weight": "up_blocks.3.attentions.2.proj_in.weight",
        "output_blocks.0.0.emb_layers.1.bias": "up_blocks.0.resnets.0.time_emb_proj"
        ".bias",
        "out.2.weight": "conv_out.weight",
    }
    assert {name: saved.diffusers_name(name, 2) for name in names} == names


def test_stable_diffusions_own_widths_are_the_defaults_of_a_config(tmp_path):
    """A config.json of 1.x leaves out what of 2.x it does not know."""
    (tmp_path / "config.json").write_text(json.dumps({"cross_attention_dim": 768}))
    assert saved.fields_of(tmp_path) == {
        "model_channels": 320,
        "channel_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "attention_resolutions": (1, 2, 4),
        "transformer_depth": 1,
        "num_heads": 8,
        "num_head_channels": 0,
        "num_groups": 32,
        "use_scale_shift_norm": False,
        "resblock_updown": False,
    }
    two = {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
    (tmp_path / "config.json").write_text(json.dumps(two))
    assert saved.fields_of(tmp_path)["num_head_channels"] == 64


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(_class_name="SD3Transformer2DModel"), "SD3Transformer2DModel"),
        (dict(addition_embed_type="text_time"), "addition_embed_type = 'text_time'"),
        (dict(transformer_layers_per_block=[1, 2, 10]), "transformer_layers_per_block"),
        (dict(down_block_types=["AttnDownBlock2D"] * 3), "AttnDownBlock2D"),
        (dict(block_out_channels=[4, 6, 8]), r"block_out_channels = \[4, 6, 8\]"),
        (dict(flip_sin_to_cos=False), "flip_sin_to_cos = False"),
        (dict(attention_head_dim=[1, 1, 4]), "heads of several widths"),
        (dict(attention_head_dim=None), "attention_head_dim = None"),
        (dict(attention_head_dim=[1, 0, 1]), r"attention_head_dim = \[1, 0, 1\]"),
        (dict(attention_head_dim=[1, 1]), r"attention_head_dim = \[1, 1\]"),
        (dict(block_out_channels=None), "block_out_channels = None"),
        (dict(block_out_channels=4), "block_out_channels = 4"),
        (dict(down_block_types=3), "down_block_types = 3"),
        (dict(block_out_channels=[0, 0, 0]), "block_out_channels"),
        (dict(down_block_types=[["DownBlock2D"]] * 3), "down_block_types"),
        (dict(up_block_types="UpBlock2D"), "up_block_types = 'UpBlock2D'"),
        (dict(norm_num_groups="4"), "norm_num_groups = '4'"),
    ],
)
def test_other_architectures_are_refused(tmp_path, changes, words):
    folder = saved.find(write(tmp_path, **changes))
    with pytest.raises(UserError, match=words) as told:
        saved.fields_of(folder)
    assert "\n" not in str(told.value)


def test_its_noise_is_diffusers():
    table = schedule.build("scaled_linear", 1000)
    wanted = ORIGINAL["schedule/alphas_cumprod"]
    np.testing.assert_allclose(table.alpha_bar[1:], wanted, rtol=1e-4)
    process = Process(table, Aggregation({}))
    t = jnp.asarray(ORIGINAL["schedule/t"]) + 1  # ours are 1..T
    z0, eps, z_t, v = (
        jnp.asarray(ORIGINAL[f"schedule/{n}"].transpose(0, 2, 3, 1))
        for n in ("z0", "eps", "z_t", "v")
    )
    np.testing.assert_allclose(process.diffuse(z0, {}, t, eps), z_t, atol=1e-5)
    found = prediction.build("v").target(process.adjacent(t), z_t, z0, eps)
    np.testing.assert_allclose(found, v, atol=1e-3)
