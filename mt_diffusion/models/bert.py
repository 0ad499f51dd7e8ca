"""BERT and RoBERTa as functions of their weights, by the names that these have there.

Devlin et al. 2019, Liu et al. 2019; absolute places, GELU. MiniLM and most sentence
encoders are of this form.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

PRECISION = jax.lax.Precision.HIGHEST  # for a TPU's single pass of bfloat16 is coarse
NEVER = -1e9  # the logit of what is not attended to


class Form(NamedTuple):
    """What the weights alone do not say.

    epsilon: of its norms. first: the place of the first token (RoBERTa's are after the
    padding's).
    """

    layers: int
    heads: int
    epsilon: float
    first: int


@functools.partial(jax.jit, static_argnames="form")
def hidden(
    state: Mapping[str, Array],
    ids: Int[Array, "b l"],
    mask: Bool[Array, "b l"],
    form: Form,
) -> Float[Array, "b l d"]:
    """The last hidden states of tokens, of which those outside of the mask are none."""

    def dense(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return jnp.matmul(x, weight.T, precision=PRECISION) + bias[None, None]

    def norm(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        unit = centred / jnp.sqrt(variance + form.epsilon)
        return unit * weight[None, None] + bias[None, None]

    def attention(x, name):
        split = (*ids.shape, form.heads, -1)
        q, k, v = (
            dense(x, f"{name}.self.{part}").reshape(split)
            for part in ("query", "key", "value")
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=PRECISION)
        logits = logits / jnp.sqrt(jnp.float32(q.shape[-1]))
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, NEVER))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=PRECISION)
        return dense(mixed.reshape(x.shape), f"{name}.output.dense")

    places = state["embeddings.position_embeddings.weight"][form.first :]
    x = state["embeddings.word_embeddings.weight"][ids]
    x = x + places[None, : ids.shape[1]]
    x = x + state["embeddings.token_type_embeddings.weight"][None, :1]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(form.layers):
        name = f"encoder.layer.{i}"
        attended = attention(x, f"{name}.attention")
        x = norm(x + attended, f"{name}.attention.output.LayerNorm")
        wide = dense(x, f"{name}.intermediate.dense")
        wide = jax.nn.gelu(wide, approximate=False)
        x = norm(x + dense(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x
