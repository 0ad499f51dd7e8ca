"""BERT and RoBERTa as functions of their weights, by the names that these have there.

Devlin et al. 2019, Liu et al. 2019; absolute places, GELU. MiniLM and most sentence
encoders are of this form.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from mt_diffusion.models import transformer


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
    dense = functools.partial(transformer.dense, state)
    norm = functools.partial(transformer.norm, state, epsilon=form.epsilon)

    def attention(x, name):
        q, k, v = (dense(f"{name}.self.{n}", x) for n in ("query", "key", "value"))
        mixed = transformer.attention(q, k, v, form.heads, mask[:, None, None])
        return dense(f"{name}.output.dense", mixed)

    places = state["embeddings.position_embeddings.weight"][form.first :]
    x = state["embeddings.word_embeddings.weight"][ids]
    x = x + places[None, : ids.shape[1]]
    x = x + state["embeddings.token_type_embeddings.weight"][None, :1]
    x = norm("embeddings.LayerNorm", x)
    for i in range(form.layers):
        name = f"encoder.layer.{i}"
        attended = attention(x, f"{name}.attention")
        x = norm(f"{name}.attention.output.LayerNorm", x + attended)
        wide = dense(f"{name}.intermediate.dense", x)
        wide = jax.nn.gelu(wide, approximate=False)
        x = norm(f"{name}.output.LayerNorm", x + dense(f"{name}.output.dense", wide))
    return x
