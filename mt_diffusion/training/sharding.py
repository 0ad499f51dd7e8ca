"""The mesh of devices, and where arrays lie on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mt_diffusion.errors import UserError


def make_mesh(num_fsdp: int) -> Mesh:
    """All devices as a mesh ('data', 'fsdp'); one device is a mesh of one.

    Raises UserError where num_fsdp does not divide the number of devices.
    """
    count = jax.device_count()
    if num_fsdp < 1 or count % num_fsdp:
        raise UserError(
            f"config.mesh.fsdp is {num_fsdp}, which does not divide {count} devices."
        )
    axes = ("data", "fsdp")
    return jax.make_mesh(
        (count // num_fsdp, num_fsdp), axes, axis_types=(AxisType.Auto,) * len(axes)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def placed(shapes: Any, sharding: NamedSharding) -> Any:
    """A tree of shapes, each with that sharding: what a checkpoint is restored into."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
