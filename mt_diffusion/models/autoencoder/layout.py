"""diffusers' state dicts of autoencoders <-> our parameters, by name."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from mt_diffusion.files import weights

EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Path = tuple[str, ...]  # of a parameter


def from_state(state: Mapping[str, np.ndarray], shapes: dict, what: str) -> dict:
    """Parameters from diffusers' state dict; every key of both is accounted for.

    what: opens the UserError where one is missing, unused or of another shape.
    """
    state = {modern(name): x for name, x in state.items()}
    leaves = flax.traverse_util.flatten_dict(shapes)
    wanted = {name_of(path): (path, leaf) for path, leaf in leaves.items()}
    found = {
        name: to_flax(x, len(wanted[name][1].shape) if name in wanted else x.ndim)
        for name, x in state.items()
    }
    weights.check(
        {name: x.shape for name, x in found.items()},
        {name: leaf.shape for name, (_, leaf) in wanted.items()},
        what,
    )
    flat = {wanted[name][0]: jnp.asarray(x) for name, x in found.items()}
    return flax.traverse_util.unflatten_dict(flat)


def to_state(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Diffusers' state dict of parameters."""
    leaves = flax.traverse_util.flatten_dict(params)
    return {name_of(path): from_flax(np.asarray(x)) for path, x in leaves.items()}


def name_of(path: Path) -> str:
    """("decoder", "up_blocks_0", "norm", "scale"): decoder.up_blocks.0.norm.weight."""
    *modules, leaf = path
    parts = [re.sub(r"_(\d+)$", r".\1", module) for module in modules]
    return ".".join([*parts, "bias" if leaf == "bias" else "weight"])


def modern(name: str) -> str:
    """The name of a weight now; those of attention were others once."""
    head, dot, kind = name.rpartition(".")
    front, _, last = head.rpartition(".")
    is_earlier = last in EARLIER and ".attentions." in name
    return f"{front}.{EARLIER[last]}{dot}{kind}" if is_earlier else name


def to_flax(x: np.ndarray, rank: int) -> np.ndarray:
    """PyTorch's layout as Flax's; earlier 1x1 kernels of attention are matrices."""
    if rank == 2 and x.ndim == 4 and x.shape[2:] == (1, 1):
        x = x[:, :, 0, 0]
    return x.transpose(from_first(x.ndim)) if x.ndim in (2, 4) else x


def from_first(rank: int) -> tuple[int, ...]:
    """Axes of a matrix or kernel of PyTorch's, outputs first, as Flax has them."""
    return (2, 3, 1, 0) if rank == 4 else (1, 0)


def from_flax(x: np.ndarray) -> np.ndarray:
    """Flax's layout as PyTorch's."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    return x.transpose(axes[x.ndim]) if x.ndim in axes else x
