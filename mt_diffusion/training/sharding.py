"""The mesh of devices, and where arrays lie on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


def make_mesh() -> Mesh:
    """All devices as a mesh ('data', 'fsdp'); one device is a mesh of one."""
    shape = (jax.device_count(), 1)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def batch_size(most: int, num: int, mesh: Mesh) -> int:
    """How many of `num` to take at a time, about `most`: a multiple of the devices."""
    size = min(most, num)
    return size + -size % mesh.size


def placed(shapes: Any, sharding: NamedSharding) -> Any:
    """A tree of shapes, each with that sharding: what a checkpoint is restored into."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
