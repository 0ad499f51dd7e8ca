"""Attention of the networks here, in one function, by the kernel that a device has."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from mt_diffusion.models import splash

# What cuDNN's fused kernel takes; jax._src.cudnn.fused_attention_stablehlo.
HALVES = (jnp.bfloat16, jnp.float16)
MOST_CHANNELS, MULTIPLE, OLDEST = 128, 8, 8.0
MESH = contextvars.ContextVar[Mesh | None]("MESH", default=None)


@contextlib.contextmanager
def compiled_for(mesh: Mesh) -> Iterator[None]:
    """What is traced inside is for these devices, which need not be here.

    The leading axis of what attends is split over all of them.
    """
    before = MESH.set(mesh)
    try:
        yield
    finally:
        MESH.reset(before)


def attention(
    query: Float[Array, "b q heads c"],
    key: Float[Array, "b k heads c"],
    value: Float[Array, "b k heads c"],
) -> Float[Array, "b q heads c"]:
    """Softmax attention; logits and weights are computed in float32.

    For the devices of `compiled_for`, where there are none for those that are here. By
    cuDNN in half precision on NVIDIA's GPUs and by Pallas' splash attention on TPUs,
    which keep no matrix of logits. Elsewhere by two products:
    `jax.nn.dot_product_attention` gives the same by a `vmap` over groups of heads, and
    on a CPU its gradient takes a third longer.
    """
    mesh = MESH.get()
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    if takes_cudnn(query, device):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    if takes_splash(query, key, device):
        return by_splash(query, key, value, mesh)
    return by_products(query, key, value)


def takes_cudnn(query: Float[Array, "b q heads c"], device: jax.Device) -> bool:
    """Whether cuDNN has a kernel for such heads on a device of that kind."""
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return False
    channels, is_half = query.shape[-1], query.dtype in HALVES
    fits = channels <= MOST_CHANNELS and channels % MULTIPLE == 0
    return is_half and fits and float(device.compute_capability) >= OLDEST


def takes_splash(
    query: Float[Array, "b q heads c"],
    key: Float[Array, "b k heads c"],
    device: jax.Device,
) -> bool:
    """Whether Pallas' kernel takes so many places and channels on such a device."""
    return device.platform == "tpu" and splash.fits(query, key)


def by_splash(
    query: Float[Array, "b q heads c"],
    key: Float[Array, "b k heads c"],
    value: Float[Array, "b k heads c"],
    mesh: Mesh | None,
) -> Float[Array, "b q heads c"]:
    """The same by Pallas' kernel, or by products where no device has whole examples.

    mesh: over which the examples are split, None where that is not known. XLA can't
    share a kernel out over devices; inside of `jax.shard_map`, as in training, each has
    its own.
    """
    num_devices = jax.device_count() if mesh is None else mesh.size
    if num_devices == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual:
        return splash.attention(query, key, value)
    if mesh is None or len(query) % mesh.size:
        return by_products(query, key, value)
    split = PartitionSpec(mesh.axis_names)
    of_device = jax.shard_map(
        splash.attention,
        mesh=mesh,
        in_specs=split,
        out_specs=split,
        check_vma=False,  # of which kernels say nothing
    )
    return of_device(query, key, value)


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
