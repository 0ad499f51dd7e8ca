"""ADM / guided-diffusion checkpoints <-> our U-Net and its parameters."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights
from mt_diffusion.models.unet import CROSS, UNet

Path = tuple[str, ...]  # of a parameter in our tree

# guided-diffusion's own defaults, for what a configuration leaves out.
DEFAULTS = {
    "dropout": 0.0,
    "channel_mult": (1, 2, 4, 8),
    "num_classes": None,
    "num_heads": 1,
    "num_head_channels": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
}
REQUIRED = {
    "in_channels",
    "model_channels",
    "out_channels",
    "num_res_blocks",
    "attention_resolutions",
}
IGNORED = {"image_size", "use_checkpoint", "use_fp16"}  # any size; PyTorch's memory
OVER_PIXELS = {".qkv.": 1, ".proj_out.": 1, ".skip_connection.": 2}  # 1x1, in so many
NUM_GROUPS = 32  # of every normalisation
FIXED = {"dims": 2, "conv_resample": True, "num_heads_upsample": -1}  # as released


def load(state: Mapping[str, np.ndarray], config: dict) -> tuple[UNet, dict]:
    """The U-Net of guided-diffusion's `UNetModel(**config)` with weights of `state`.

    state: its state dict, as arrays. config: its own argument names. Returns (module,
    params) for `module.apply({"params": params}, x, t, y)`, x [B, H, W, C] and t
    0-based. Raises UserError for unknown arguments, and for missing, unused or
    misshapen weights.
    """
    wanted = REQUIRED | set(DEFAULTS)
    if missing := REQUIRED - set(config):
        raise UserError(f"an ADM config needs the arguments {sorted(missing)}.")
    if unknown := set(config) - wanted - IGNORED - set(FIXED):
        raise UserError(f"unknown U-Net arguments {sorted(unknown)} in an ADM config.")
    if other := {n for n in set(FIXED) & set(config) if config[n] != FIXED[n]}:
        raise UserError(f"ADM's released models have {FIXED}; {sorted(other)} differ.")
    options: dict[str, Any] = DEFAULTS | {n: config[n] for n in wanted & set(config)}
    in_channels = options.pop("in_channels")
    options["num_head_channels"] = max(options["num_head_channels"], 0)
    options["num_classes"] = options["num_classes"] or 0
    for name in ("channel_mult", "attention_resolutions"):
        options[name] = tuple(options[name])
    module = UNet(
        **options,
        patch=1,
        num_groups=NUM_GROUPS,
        use_tokens=False,
        transformer_depth=0,
        remat="none",
        dtype=jnp.float32,
    )

    size = 2 ** (len(options["channel_mult"]) - 1)
    x = jax.ShapeDtypeStruct((1, size, size, in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    y = jax.ShapeDtypeStruct((1,), jnp.int32) if options["num_classes"] else None
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, y)["params"]
    return module, convert(state, shapes)


def convert(state: Mapping[str, np.ndarray], shapes: dict) -> dict:
    """Parameters in tree and shapes of `shapes`, from a guided-diffusion state dict.

    Raises UserError with every key that is missing, unused, or of the wrong shape.
    """
    found = match(state, shapes)
    leaves = flax.traverse_util.flatten_dict(shapes)
    weights.check(
        {name: np.shape(weight) for name, weight in state.items()}
        | {state_name(path): weight.shape for path, weight in found.items()},
        {state_name(path): leaf.shape for path, leaf in leaves.items()},
        "the checkpoint is of another architecture than its config",
    )
    return flax.traverse_util.unflatten_dict(
        {path: jnp.asarray(weight) for path, weight in found.items()}
    )


def match(state: Mapping[str, np.ndarray], shapes: dict) -> dict[Path, np.ndarray]:
    """{path in `shapes`: weight} of those that a state dict has, in Flax's layout.

    Neither tree needs to cover the other, and the shapes of a pair may differ.
    """
    leaves = flax.traverse_util.flatten_dict(shapes)
    names = {path: state_name(path) for path in leaves}
    return {
        path: transpose(state[name], len(leaves[path].shape), name)
        for path, name in names.items()
        if name in state
    }


def unread(state: Mapping[str, np.ndarray], shapes: dict) -> list[str]:
    """Names in a state dict that no parameter of `shapes` is called by."""
    paths = flax.traverse_util.flatten_dict(shapes)
    return sorted(set(state) - {state_name(path) for path in paths})


def state_name(path: Path) -> str:
    """Name in guided-diffusion's state dict of the parameter at `path` in our tree.

    ("input_blocks_1_0", "in_layers_0", "GroupNorm", "scale") is
    "input_blocks.1.0.in_layers.0.weight".
    """
    *modules, leaf = (part for part in path if part != "GroupNorm")
    if modules[0] in ("time_embed", "out"):  # our own wrapping of two loose layers
        modules = modules[1:]
    dotted = ".".join(modules)
    for digit in "0123456789":
        dotted = dotted.replace(f"_{digit}", f".{digit}")
    return f"{dotted}.{'bias' if leaf == 'bias' else 'weight'}"


def transpose(weight: np.ndarray, ndim: int, name: str) -> np.ndarray:
    """A PyTorch weight in Flax's layout; 1x1 convolutions become matrices."""
    weight = np.asarray(weight)
    if name != "label_emb.weight" and weight.ndim > 1:
        weight = np.moveaxis(weight, (0, 1), (-1, -2))
        if ndim == 2 and set(weight.shape[:-2]) <= {1}:
            weight = weight.reshape(weight.shape[-2:])
    return weight


def export(params: dict) -> tuple[dict[str, np.ndarray], list[Path]]:
    """A U-Net's parameters as guided-diffusion's state dict: what `match` takes back.

    Also the paths of those that it has no name for: cross-attention.
    """
    leaves = flax.traverse_util.flatten_dict(params)
    held = {path: x for path, x in leaves.items() if not path[0].endswith(CROSS)}
    state = {state_name(p): transpose_back(x, state_name(p)) for p, x in held.items()}
    return state, sorted(leaves.keys() - held.keys())


def transpose_back(weight: np.ndarray, name: str) -> np.ndarray:
    """A weight of ours in PyTorch's layout; matrices over pixels are convolutions."""
    weight = np.asarray(weight)
    if name == "label_emb.weight" or weight.ndim == 1:
        return weight
    pixels = next((n for layer, n in OVER_PIXELS.items() if layer in name), 0)
    if weight.ndim == 2:
        weight = weight.reshape(*[1] * pixels, *weight.shape)
    return np.ascontiguousarray(np.moveaxis(weight, (-1, -2), (0, 1)))


def arguments(config: dict, in_channels: int, out_channels: int) -> dict:
    """guided-diffusion's arguments for a U-Net of these fields, ours or its own."""
    names = (REQUIRED | set(DEFAULTS)) & set(config)
    found = {name: config[name] for name in sorted(names)}
    found["num_head_channels"] = config.get("num_head_channels") or -1
    return found | {"in_channels": in_channels, "out_channels": out_channels}
