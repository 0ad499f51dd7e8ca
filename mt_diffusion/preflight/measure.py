"""A program compiled, and what the compiler says of it; kept, since it takes long."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import time
from typing import Any

import jax

from mt_diffusion.files import writing
from mt_diffusion.parallel.progress import clock
from mt_diffusion.preflight import collectives, kernels
from mt_diffusion.preflight.collectives import Collective
from mt_diffusion.preflight.program import Program
from mt_diffusion.preflight.topology import Target

PACKAGES = ("jax", "jaxlib", "libtpu")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
COUNTED = "kernels"  # is another word, once something else is looked for
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Of the least work in search of fast code; memory and operations are nearly the same.
QUICK = {"exec_time_optimization_effort": -1.0}
# XLA's two ways to say how much a program that does not fit would need.
TOO_LARGE = re.compile(r"Used ([\d.]+)([KMGT]) of|required for .*?\(([\d.]+)([KMGT])\)")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What the compiler says of a program, all per device but `images`.

    images: on all devices. total: bytes of memory; held, temporary and the rest of it
    (layouts' padding, the program) add up to it. flops, traffic: operations and bytes
    of memory read or written in a run; the body of a loop counts once. compiled: false
    where the program is too large, and only its total and what it holds are known.
    """

    name: str
    images: int
    compiled: bool
    total: float
    held: dict[str, int]
    temporary: float = 0.0
    flops: float = 0.0
    traffic: float = 0.0
    collectives: tuple[Collective, ...] = ()
    seconds: float = 0.0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


def measure(program: Program, target: Target) -> Measurement:
    """Compiles a program, unless this very one has been; takes minutes for a large one.

    Programs are known by all that decides them: their own text, the devices, the
    versions of compilers, their flags and options.
    """
    options = QUICK if target.quick else {}
    name = fingerprint(program, target, options)
    path = writing.user_cache("preflight") / f"{name}.json"
    if path.exists():
        return load(json.loads(path.read_text("utf-8")))
    with clock(f"{target.name}: compiling the {program.name}, {program.images} images"):
        found = compile_and_look(program, len(target.devices), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.as_json(path, dataclasses.asdict(found))
    return found


def compile_and_look(
    program: Program, num_devices: int, options: dict[str, Any]
) -> Measurement:
    """Compiles a program; one that is too large is measured by the refusal."""
    start = time.monotonic()
    common: dict[str, Any] = {"name": program.name, "images": program.images}
    common |= {"held": program.held, "versions": versions()}
    try:
        compiled = program.lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        needed = parse_refusal(str(error))
        if needed is None:
            raise
        seconds = time.monotonic() - start
        return Measurement(compiled=False, total=needed, seconds=seconds, **common)
    seconds = time.monotonic() - start
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    text = compiled.as_text() or ""
    return Measurement(
        compiled=True,
        total=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        flops=cost.get("flops", 0.0) + kernels.flops(text),
        traffic=cost.get("bytes accessed", 0.0),
        collectives=tuple(collectives.find(text, num_devices)),
        seconds=seconds,
        **common,
    )


def parse_refusal(message: str) -> float | None:
    """Bytes that a program would need, from XLA's message that there are fewer."""
    if found := TOO_LARGE.search(message):
        number, unit = (part for part in found.groups() if part)
        return float(number) * UNITS[unit]
    return None


def fingerprint(program: Program, target: Target, options: dict[str, float]) -> str:
    """A hash of all that decides what the compiler makes of a program."""
    parts = [program.lowered.as_text(), target.name, str(len(target.devices)), COUNTED]
    parts += [f"{name}={os.environ.get(name, '')}" for name in VARIABLES]
    parts += [f"{name}={value}" for name, value in (versions() | options).items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of the compilers that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def load(content: dict[str, Any]) -> Measurement:
    """A measurement that was written as JSON."""
    listed = tuple(Collective(**c) for c in content["collectives"])
    return Measurement(**content | {"collectives": listed})
