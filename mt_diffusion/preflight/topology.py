"""What programs are compiled for: the devices here, or those of a named TPU slice."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mt_diffusion.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The limits of one chip.

    memory: bytes that a program may use. flops: bf16 operations per second. bandwidth:
    bytes per second of its memory. links: bytes per second that it reduces with others.
    side: of its matrix units.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float
    side: int = 128


# By JAX's device_kind. Operations, bandwidth: "Key chip specifications" of
# https://cloud.google.com/tpu/docs/{v4,v5e,v6e}. Links: "All-reduce bandwidth per Pod"
# of the same pages, through the chips of a pod. Memory: what libtpu 0.0.42 grants a
# program of the 32, 16 and 32 GiB that there are, in its message for one too large.
CHIPS = {
    "TPU v4": Chip(30.75 * GIB, 275e12, 1200e9, 1.1e15 / 4096),
    "TPU v5 lite": Chip(15.75 * GIB, 197e12, 819e9, 51.2e12 / 256),
    "TPU v6 lite": Chip(31.25 * GIB, 918e12, 1600e9, 102.4e12 / 256, side=256),
}

# Slices by the names under which they are rented (v4 counts its two cores per chip).
SQUARES = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16"}
SQUARES |= {256: "16x16"}
CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"}
SLICES = {f"{c}-{n}": f"{c}:{s}" for c in ("v5e", "v6e") for n, s in SQUARES.items()}
SLICES |= {f"v4-{n}": f"v4:{s}" for n, s in CUBES.items()}
SHAPE = r"v\w+:\d+x\d+(x\d+)?"  # what else a topology may be called

# The two cores of a v4 are one device, as in a run.
OPTIONS = {"v4": {"chip_config_name": "megacore"}}

# Without these libtpu asks the network which machine it is on, and waits.
ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for.

    chip: None where its speed is not known. memory: bytes of each; None if not known.
    quick: programs are compiled with little effort.
    """

    name: str
    devices: Sequence[jax.Device]
    chip: Chip | None
    memory: float | None
    quick: bool = False


def find(name: str) -> Target:
    """The slice of that name, as v5e-256 or v5e:16x16; '' for the devices here.

    Raises UserError for a slice that does not exist, and where libtpu is missing.
    """
    if not name:
        return here()
    for variable, value in ALONE.items():
        os.environ.setdefault(variable, value)
    name = name.replace("v5litepod-", "v5e-")  # as Cloud TPU calls it
    topology = SLICES.get(name, name)
    if not re.fullmatch(SHAPE, topology):
        raise UserError(
            f"--topology={name} names no slice: choose among {', '.join(SLICES)}, or "
            "give a shape, as v5e:4x4."
        )
    options = OPTIONS.get(topology.partition(":")[0], {})
    try:
        found = topologies.get_topology_desc(topology, "tpu", **options)
    except RuntimeError as error:
        raise UserError(explain(name, str(error))) from error
    devices: Any = found.devices
    if devices[0].device_kind not in CHIPS:
        raise UserError(
            f"--topology={name} is made of {devices[0].device_kind}, whose limits are "
            f"not known here; choose among {', '.join(SLICES)}."
        )
    chip = CHIPS[devices[0].device_kind]
    return Target(topology, devices, chip, chip.memory)


def explain(name: str, message: str) -> str:
    """What a user can do about a topology that JAX could not make."""
    if "not installed" in message or "libtpu" in message:
        return (
            f"--topology={name} needs the TPU compiler, libtpu, which is not installed "
            'here (no TPU is needed): pip install "jax[tpu]", or leave --topology out.'
        )
    first = message.splitlines()[0]
    return (
        f"--topology={name} can't be compiled for: {first}. Choose among "
        f"{', '.join(SLICES)}, or give a shape, as v5e:4x4."
    )


def here() -> Target:
    """The devices of this machine, or of all processes of this job."""
    devices = jax.devices()
    kind, limits = devices[0].device_kind, devices[0].memory_stats() or {}
    chip, memory = CHIPS.get(kind), limits.get("bytes_limit")
    return Target(kind, devices, chip, memory or (chip.memory if chip else None))
