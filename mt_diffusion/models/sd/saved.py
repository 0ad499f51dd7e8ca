"""Stable Diffusion's U-Net in a folder, as diffusers saves it -> the shared U-Net's.

Versions 1.x and 2.x, and what has their parts.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.files.names import shown
from mt_diffusion.models import adm
from mt_diffusion.models.adm import Path

UNET, STEM = "unet", "diffusion_pytorch_model"
SCHEDULER = "scheduler/scheduler_config.json"
ATTENDS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
ATTENDS |= {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
DEFAULTS: dict[str, Any] = dict(  # diffusers' own, for what a config.json leaves out
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    layers_per_block=2,
    attention_head_dim=8,
    transformer_layers_per_block=1,
    norm_num_groups=32,
)
FIXED: dict[str, Any] = dict(  # what those of these versions have
    _class_name="UNet2DConditionModel",
    act_fn="silu",
    mid_block_type="UNetMidBlock2DCrossAttn",
    resnet_time_scale_shift="default",
    time_embedding_type="positional",
    attention_type="default",
    flip_sin_to_cos=True,
    freq_shift=0,
    downsample_padding=1,
    mid_block_scale_factor=1,
    resnet_out_scale_factor=1,
    norm_eps=1e-5,
    conv_in_kernel=3,
    conv_out_kernel=3,
)
# Seen in shapes, or of no meaning here; upcast_attention is how we attend anyway.
IGNORED = {"sample_size", "in_channels", "out_channels", "cross_attention_dim"}
IGNORED |= {"use_linear_projection", "upcast_attention", "dropout"}
IGNORED |= {"addition_embed_type_num_heads", "_diffusers_version", "_name_or_path"}
# Schedules of diffusion/schedule.py, and predictions of diffusion/prediction.py.
BETAS = {("scaled_linear", (0.00085, 0.012)), ("linear", (0.0001, 0.02))}
PREDICTS = {"epsilon": ("aggregate", "eps"), "v_prediction": ("v",)}
# Our part of a block -> theirs.
RESNETS = {"in_layers.0": "norm1", "in_layers.2": "conv1", "out_layers.0": "norm2"}
RESNETS |= {"out_layers.3": "conv2", "emb_layers.1": "time_emb_proj"}
RESNETS |= {"skip_connection": "conv_shortcut"}
ALONE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)")


def find(folder: pathlib.Path) -> pathlib.Path:
    """The U-Net's folder: itself, or in a pipeline's; UserError where there is none."""
    for place in (folder / UNET, folder):
        if (place / "config.json").is_file():
            return place
    raise UserError(
        f"{shown(folder)} holds no U-Net: give the folder of a Stable Diffusion as "
        f"diffusers saves it, which has {UNET}/config.json and {UNET}/{STEM}"
        ".safetensors. One file of all (.ckpt, which is a pickle and not read, or "
        ".safetensors) becomes such a folder by diffusers' "
        "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
    )


def fields_of(folder: pathlib.Path) -> dict[str, Any]:
    """The fields of config.unet that a U-Net's config.json means.

    Raises UserError for what is not of these versions.
    """
    config = weights.read_table(folder / "config.json")
    plain = FIXED | DEFAULTS
    told = {name: config.get(name, default) for name, default in plain.items()}
    strange = {n: told[n] for n in FIXED if told[n] != FIXED[n]}
    known = FIXED.keys() | DEFAULTS.keys() | IGNORED
    strange |= {n: x for n, x in config.items() if n not in known and x}
    check_shapes(folder, told)
    widths, blocks = told["block_out_channels"], told["down_block_types"]
    attends = [ATTENDS.get(kind) for kind in blocks]
    back = [ATTENDS.get(kind) for kind in told["up_block_types"]]
    if None in attends or attends[::-1] != back:
        strange |= {n: told[n] for n in ("down_block_types", "up_block_types")}
    if any(width % widths[0] for width in widths):
        strange["block_out_channels"] = widths
    for name in ("layers_per_block", "transformer_layers_per_block"):
        if not isinstance(told[name], int):
            strange[name] = told[name]
    if strange:
        said = ", ".join(f"{name} = {x!r}" for name, x in sorted(strange.items()))
        raise UserError(
            f"{shown(folder)} is of another architecture than Stable Diffusion 1.x and "
            f"2.x, whose U-Nets are read here: it has {shown(said)}."
        )
    return {
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": told["layers_per_block"],
        "attention_resolutions": tuple(2**i for i, a in enumerate(attends) if a),
        "transformer_depth": told["transformer_layers_per_block"],
        "num_groups": told["norm_num_groups"],
        "use_scale_shift_norm": False,
        "resblock_updown": False,
        **heads_of(folder, told["attention_head_dim"], widths),
    }


def check_shapes(folder: pathlib.Path, told: Mapping[str, Any]) -> None:
    """Raises UserError for lists that are none, and for widths and heads below 1."""

    def is_count(x):
        return type(x) is int and x > 0

    def is_name(x):
        return isinstance(x, str)

    def are(kind, xs, num=None):
        is_list = isinstance(xs, list | tuple) and len(xs) > 0
        return is_list and all(map(kind, xs)) and num in (None, len(xs))

    heads, widths = told["attention_head_dim"], told["block_out_channels"]
    num = len(widths) if are(is_count, widths) else None
    fits = {
        "block_out_channels": num is not None,
        "attention_head_dim": is_count(heads) or are(is_count, heads, num),
        "norm_num_groups": is_count(told["norm_num_groups"]),
        "down_block_types": are(is_name, told["down_block_types"], num),
        "up_block_types": are(is_name, told["up_block_types"], num),
    }
    if wrong := [name for name, does in fits.items() if not does]:
        raise UserError(
            f"{shown(folder / 'config.json')} has {wrong[0]} = "
            f"{shown(repr(told[wrong[0]]))}, which is none of a U-Net: widths, groups "
            "and heads are whole numbers above 0, and there is a block, and where they "
            "are a list a number of heads, for each width. Download it once more."
        )


def heads_of(folder: pathlib.Path, told: Any, widths: list[int]) -> dict[str, int]:
    """num_heads or num_head_channels; what is told is the number, whatever its name."""
    if isinstance(told, int):
        return {"num_heads": told, "num_head_channels": 0}
    sizes = {width // num for width, num in zip(widths, told, strict=True)}
    if len(sizes) > 1:
        raise UserError(
            f"{shown(folder)} has heads of several widths, {sorted(sizes)} (its "
            f"attention_head_dim is {told}); those that are read have one."
        )
    return {"num_head_channels": sizes.pop()}


def check_fields(folder: pathlib.Path, unet: Mapping[str, Any]) -> None:
    """Raises UserError where a config.unet has others than the U-Net of a folder."""
    wrong = [
        f"{name} = {wanted!r} and not {unet[name]!r}"
        for name, wanted in fields_of(folder).items()
        if plain(unet[name]) != wanted
    ]
    if wrong:
        raise UserError(
            f"config.unet is not of the U-Net in {shown(folder)}: that has "
            f"{', '.join(wrong)}. Set these, or begin with "
            "configs/latent_representation.py."
        )


def plain(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def load(
    folder: pathlib.Path, unet: Mapping[str, Any], shapes: Mapping[str, Any]
) -> tuple[dict[Path, np.ndarray], dict[str, np.ndarray]]:
    """Weights of a U-Net's folder by their paths in `shapes`, and those without one.

    unet: the fields of config.unet. Shapes may differ, for the caller to say. Raises
    UserError for another architecture, and where there are no weights.
    """
    check_fields(folder, unet)
    state = weights.read_saved(folder, STEM)
    return match(state, shapes, unet["num_res_blocks"])


def noise_of(folder: pathlib.Path) -> dict[str, tuple[str, tuple]]:
    """What the scheduler beside a U-Net says of config.diffusion.

    {field: (in its words, the values here that mean it)}; {} where there is none.
    """
    file = folder.parent / SCHEDULER
    if not file.is_file():
        return {}
    told = {"beta_schedule": "linear", "prediction_type": "epsilon"}
    told |= {"num_train_timesteps": 1000} | weights.read_table(file)
    betas = tuple(told.get(name) for name in ("beta_start", "beta_end"))
    schedule = told["beta_schedule"]
    same: tuple = (schedule,) if (schedule, betas) in BETAS else ()
    steps = told["num_train_timesteps"]
    predicted = told["prediction_type"]
    return {
        "schedule": (f"{schedule} of {betas}", same),
        "num_steps": (str(steps), (steps,)),
        "prediction": (predicted, PREDICTS.get(predicted, ())),
    }


def match(
    state: Mapping[str, np.ndarray], shapes: Mapping[str, Any], num_res_blocks: int
) -> tuple[dict[Path, np.ndarray], dict[str, np.ndarray]]:
    """Weights by their paths, in Flax's layout, and the rest by their names."""
    leaves = flax.traverse_util.flatten_dict(shapes)
    names = {path: diffusers_name(adm.state_name(path), num_res_blocks)
             for path in leaves}  # fmt: skip
    found = {
        path: adm.transpose(state[name], len(leaves[path].shape), name)
        for path, name in names.items()
        if name in state
    }
    rest = state.keys() - set(names.values())
    return found, {name: state[name] for name in sorted(rest)}


def diffusers_name(name: str, num_res_blocks: int) -> str:
    """What diffusers calls a weight of the original names, which are ADM's.

    "input_blocks.4.1.proj_in.weight" is "down_blocks.1.attentions.0.proj_in.weight",
    where levels have 2 blocks.
    """
    for own, theirs in ALONE.items():
        if name.startswith(f"{own}."):
            return theirs + renamed(name.removeprefix(own))
    found = BLOCK.fullmatch(name)
    if found is None:
        return name
    way, place, part, rest = found[1], int(found[2]), int(found[3]), f".{found[4]}"
    if way == "input":
        level, i = divmod(place - 1, num_res_blocks + 1)
        if rest.startswith(".op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{rest.split('.')[-1]}"
        block = f"down_blocks.{level}"
    else:
        level, i = divmod(place, num_res_blocks + 1)
        if rest.startswith(".conv."):
            return f"up_blocks.{level}.upsamplers.0{rest}"
        block = f"up_blocks.{level}"
    kind = "attentions" if part else "resnets"
    return f"{block}.{kind}.{i}{renamed(rest)}"


def renamed(rest: str) -> str:
    """The part of a name within a block."""
    for own, theirs in RESNETS.items():
        if rest.startswith(f".{own}."):
            return f".{theirs}.{rest.rpartition('.')[2]}"
    return rest
