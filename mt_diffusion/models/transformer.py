"""What the frozen transformers are made of: layers as functions of named weights.

A state is {name: array} by the names and in the layout of PyTorch's state dict.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

PRECISION = jax.lax.Precision.HIGHEST  # for a TPU's single pass of bfloat16 is coarse
NEVER = -1e9  # the logit of what is not attended to

State = Mapping[str, Array]


def dense(state: State, name: str, x: Float[Array, "b l d"]) -> Float[Array, "b l e"]:
    """PyTorch's Linear."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return jnp.matmul(x, weight.T, precision=PRECISION) + bias[None, None]


def norm(
    state: State, name: str, x: Float[Array, "b l d"], epsilon: float
) -> Float[Array, "b l d"]:
    """PyTorch's LayerNorm."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    unit = centred / jnp.sqrt(variance + epsilon)
    return unit * weight[None, None] + bias[None, None]


def attention(
    query: Float[Array, "b l d"],
    key: Float[Array, "b l d"],
    value: Float[Array, "b l d"],
    heads: int,
    allowed: Bool[Array, "#b 1 #q k"],
) -> Float[Array, "b l d"]:
    """Softmax attention of all to what is allowed."""
    split = (*query.shape[:2], heads, -1)
    q, k, v = (x.reshape(split) for x in (query, key, value))
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=PRECISION)
    logits = logits / jnp.sqrt(jnp.float32(q.shape[-1]))
    weights = jax.nn.softmax(jnp.where(allowed, logits, NEVER))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=PRECISION)
    return mixed.reshape(query.shape)
