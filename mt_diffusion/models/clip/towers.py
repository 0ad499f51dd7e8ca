"""CLIP's two towers as functions of their weights (Radford et al. 2021).

Names are those of transformers, without the tower's own at their start.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mt_diffusion.models import transformer
from mt_diffusion.models.transformer import PRECISION, State

ACTS: dict[str, Callable[[Array], Array]] = {  # of OpenAI's, and of OpenCLIP's
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}


class Form(NamedTuple):
    """What the weights alone do not say; act: one of ACTS, epsilon: of the norms."""

    layers: int
    heads: int
    epsilon: float
    act: str


@functools.partial(jax.jit, static_argnames="form")
def text(
    state: State, ids: Int[Array, "b l"], ends: Int[Array, " b"], form: Form
) -> tuple[Float[Array, "b e"], Float[Array, "b l d"]]:
    """The vectors of texts, and the hidden states of their tokens.

    ends: the place of each text's last token, from where its vector is taken.
    """
    length = ids.shape[1]
    x = state["embeddings.token_embedding.weight"][ids]
    x = x + state["embeddings.position_embedding.weight"][None, :length]
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    x = layers(state, x, form, causal)
    x = transformer.norm(state, "final_layer_norm", x, form.epsilon)
    return projected(state, "text_projection", x[jnp.arange(len(x)), ends]), x


@functools.partial(jax.jit, static_argnames="form")
def image(
    state: State, pixels: Float[Array, "b h w c"], form: Form
) -> Float[Array, "b e"]:
    """The vectors of images, normalised as the model has it."""
    kernel = state["embeddings.patch_embedding.weight"]
    patches = jax.lax.conv_general_dilated(
        pixels,
        kernel,
        kernel.shape[2:],
        "VALID",
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        precision=PRECISION,
    )
    patches = patches.reshape(len(pixels), -1, kernel.shape[0])
    first = state["embeddings.class_embedding"][None, None]
    first = jnp.broadcast_to(first, (len(pixels), 1, kernel.shape[0]))
    x = jnp.concatenate([first, patches], axis=1)
    x = x + state["embeddings.position_embedding.weight"][None]
    x = transformer.norm(state, "pre_layrnorm", x, form.epsilon)  # sic
    x = layers(state, x, form, jnp.ones((1, 1, 1, x.shape[1]), bool))
    x = transformer.norm(state, "post_layernorm", x[:, :1], form.epsilon)
    return projected(state, "visual_projection", x[:, 0])


def layers(
    state: State, x: Float[Array, "b l d"], form: Form, allowed: Bool[Array, "..."]
) -> Float[Array, "b l d"]:
    """The layers of either tower."""
    dense = functools.partial(transformer.dense, state)
    norm = functools.partial(transformer.norm, state, epsilon=form.epsilon)
    for i in range(form.layers):
        name = f"encoder.layers.{i}"
        h = norm(f"{name}.layer_norm1", x)
        q, k, v = (dense(f"{name}.self_attn.{n}_proj", h) for n in "qkv")
        h = transformer.attention(q, k, v, form.heads, allowed)
        x = x + dense(f"{name}.self_attn.out_proj", h)
        h = dense(f"{name}.mlp.fc1", norm(f"{name}.layer_norm2", x))
        x = x + dense(f"{name}.mlp.fc2", ACTS[form.act](h))
    return x


def projected(state: State, name: str, x: Float[Array, "b d"]) -> Float[Array, "b e"]:
    """In the space of both towers; itself where the model has no such layer."""
    if f"{name}.weight" not in state:
        return x
    return jnp.matmul(x, state[f"{name}.weight"].T, precision=PRECISION)
