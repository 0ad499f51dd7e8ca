"""ADM / guided-diffusion checkpoints -> our U-Net and its parameters."""

from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.models.unet import UNet

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
    options = DEFAULTS | {n: config[n] for n in wanted & set(config)}
    in_channels = options.pop("in_channels")
    options["num_head_channels"] = max(options["num_head_channels"], 0)
    options["num_classes"] = options["num_classes"] or 0
    for name in ("channel_mult", "attention_resolutions"):
        options[name] = tuple(options[name])
    module = UNet(**options, num_groups=32, use_tokens=False, dtype=jnp.float32)

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
    leaves = flax.traverse_util.flatten_dict(shapes)
    names = {path: state_name(path) for path in leaves}
    missing = sorted(set(names.values()) - set(state))
    unused = sorted(set(state) - set(names.values()))
    if missing or unused:
        raise UserError(
            "the checkpoint is of another architecture than its config: "
            f"missing {missing or 'nothing'}, unused {unused or 'nothing'}."
        )
    params = {
        path: transpose(state[names[path]], leaf.shape, names[path])
        for path, leaf in leaves.items()
    }
    return flax.traverse_util.unflatten_dict(params)


def state_name(path: tuple[str, ...]) -> str:
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


def transpose(weight: np.ndarray, shape: tuple[int, ...], name: str) -> jax.Array:
    """A PyTorch weight in Flax's layout; 1x1 convolutions become matrices."""
    weight = np.asarray(weight)
    if name != "label_emb.weight" and weight.ndim > 1:
        weight = np.moveaxis(weight, (0, 1), (-1, -2))
        if len(shape) == 2:
            weight = weight.reshape(weight.shape[-2:])
    if weight.shape != shape:
        raise UserError(
            f"{name} has shape {weight.shape}, but the config asks {shape}."
        )
    return jnp.asarray(weight)
