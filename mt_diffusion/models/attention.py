"""Attention of the networks here, in one function, by the kernel that a device has."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# What cuDNN's fused kernel takes; jax._src.cudnn.fused_attention_stablehlo.
HALVES = (jnp.bfloat16, jnp.float16)
MOST_CHANNELS, MULTIPLE, OLDEST = 128, 8, 8.0
TARGET = contextvars.ContextVar[jax.Device | None]("TARGET", default=None)


@contextlib.contextmanager
def compiled_for(device: jax.Device) -> Iterator[None]:
    """What is traced inside is for devices of that kind, which need not be here."""
    before = TARGET.set(device)
    try:
        yield
    finally:
        TARGET.reset(before)


def attention(
    query: Float[Array, "b q heads c"],
    key: Float[Array, "b k heads c"],
    value: Float[Array, "b k heads c"],
) -> Float[Array, "b q heads c"]:
    """Softmax attention; logits and weights are computed in float32.

    For the devices of `compiled_for`, where there are none for those that are here.
    By cuDNN in half precision on NVIDIA's GPUs, which keeps no matrix of logits.
    Elsewhere by two products: `jax.nn.dot_product_attention` gives the same by a `vmap`
    over groups of heads, and on a CPU its gradient takes a third longer.
    """
    if takes_cudnn(query, TARGET.get() or jax.local_devices()[0]):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    return by_products(query, key, value)


def takes_cudnn(query: Float[Array, "b q heads c"], device: jax.Device) -> bool:
    """Whether cuDNN has a kernel for such heads on a device of that kind."""
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return False
    channels, is_half = query.shape[-1], query.dtype in HALVES
    fits = channels <= MOST_CHANNELS and channels % MULTIPLE == 0
    return is_half and fits and float(device.compute_capability) >= OLDEST


def by_products(
    query: Float[Array, "b q heads c"],
    key: Float[Array, "b k heads c"],
    value: Float[Array, "b k heads c"],
) -> Float[Array, "b q heads c"]:
    """The same by matrix products, on any device and in any precision."""
    logits = jnp.einsum(
        "bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits * query.shape[-1] ** -0.5).astype(value.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", weights, value)
