"""The mesh of devices, and where arrays lie on it."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import struct
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from mt_diffusion.errors import UserError

AXES = ("data", "fsdp")
SMALL = 2**10  # elements of an array that is not worth a message to gather it


def make_mesh(fsdp: int = 1, devices: Any = None) -> Mesh:
    """All devices (of all processes) as a mesh ('data', 'fsdp'); one is a mesh of one.

    fsdp: over how many devices the training state is split; raises UserError where it
    does not divide their number.
    """
    devices = jax.devices() if devices is None else devices
    num = len(devices)
    if fsdp < 1 or num % fsdp:
        raise UserError(
            f"config.mesh.fsdp = {fsdp} does not divide the {num} devices; use one of "
            f"{', '.join(str(n) for n in range(1, num + 1) if num % n == 0)}."
        )
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((num // fsdp, fsdp), AXES, types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def by_shape(mesh: Mesh, shapes: Any) -> Any:
    """Of a tree of arrays or shapes: the largest axis that fsdp divides, over fsdp.

    Arrays without such an axis, and small ones, are whole on each device.
    """
    fsdp = mesh.shape["fsdp"]

    def of(x):
        axes = [axis for axis, size in enumerate(x.shape) if size % fsdp == 0]
        if fsdp == 1 or x.size < SMALL or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(of, shapes)


@struct.dataclass
class Part(nn.Partitioned):
    """A device's part of a parameter, which is gathered where flax asks for its value.

    Its gradient is the same part of the sum over those that gathered. So a network
    holds no more whole parameters than what its gradients keep of them: with
    config.unet.remat those of one block.
    """

    def unbox(self, apply_constraint: bool = True) -> jax.Array:
        """The whole parameter."""
        axis = self.names.index("fsdp")
        return jax.lax.all_gather(self.value, "fsdp", axis=axis, tiled=True)


def part(x: jax.Array, place: PartitionSpec) -> jax.Array | Part:
    """An array that lies at `place`, for the gradients of one device's examples."""
    if "fsdp" not in place:
        return jax.lax.pcast(x, AXES, to="varying")
    return Part(jax.lax.pcast(x, "data", to="varying"), tuple(place))


def is_part(x: Any) -> bool:
    """Whether it is a part of a parameter."""
    return isinstance(x, Part)


def sum_over_devices(
    x: jax.Array | Part, place: PartitionSpec, dtype: Any
) -> jax.Array:
    """The sum of all devices' x, of which each keeps its part; for `jax.shard_map`.

    dtype: of what they send each other. What was gathered by parts is summed in its
    own, over those that have a part of it each.
    """
    if isinstance(x, Part):
        return jax.lax.psum(x.value.astype(dtype), "data").astype(x.value.dtype)
    sent = x.astype(dtype)
    if "fsdp" not in place:
        return jax.lax.psum(sent, AXES).astype(x.dtype)
    axis = place.index("fsdp")
    part = jax.lax.psum_scatter(sent, "fsdp", scatter_dimension=axis, tiled=True)
    return jax.lax.psum(part, "data").astype(x.dtype)


def one_copy(x: Any) -> Any:
    """A copy of an array, where just the devices of this process have some; else x.

    Of each copy Orbax would write a slice, and compile a program for each of these:
    2 s of a core before a first checkpoint on two CPU devices, 7 on eight.
    """
    if jax.process_count() > 1 or not isinstance(x, jax.Array):
        return x
    return x.addressable_data(0) if x.is_fully_replicated else x


def placed(shapes: Any, shardings: Any) -> Any:
    """A tree of shapes, each with its sharding: what a checkpoint is restored into.

    shardings: such a tree, or one for all.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings,
    )


def spread_key(key: PRNGKeyArray, mesh: Mesh) -> PRNGKeyArray:
    """A key, the same in all processes, whole on each device."""
    data = jax.device_put(np.asarray(jax.random.key_data(key)), replicated(mesh))
    return jax.random.wrap_key_data(data)


def abstract_key(mesh: Mesh) -> Any:
    """The shape and place of what `spread_key` gives."""
    return placed(jax.eval_shape(jax.random.key, 0), replicated(mesh))


def gather(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays, now whole on each device."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def batch_size(most: int, num: int, mesh: Mesh) -> int:
    """How many of `num` to take at a time, about `most`: a multiple of the devices."""
    size = min(most, num)
    return size + -size % mesh.size


def fetch(tree: Any) -> Any:
    """Whole arrays on this host, of which other processes may hold parts."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def meet(name: str) -> None:
    """Returns once all processes have come to this place of that name.

    Between CPUs a step fails if one process begins it 30 s after another, whatever
    XLA's flags say (jax-ml/jax#40831); so late may be who compiles.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def anywhere(here: bool) -> bool:
    """Whether it is so in any process of the job; all of them have to ask."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())
