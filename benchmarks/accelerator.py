"""What one accelerator gives: attention, images per second, MFU, and PyTorch beside it.

    bash benchmarks/accelerator.sh [--smoke]

which calls this and then trains the joint model. One training step of `configs/ddpm.py`
with an ADM U-Net of 64x64 images, in float32 and in bfloat16, and of diffusers' same
network where the Python of --torch has PyTorch. MFU: three times the network's
forward operations, as a share of the chip's in bfloat16.
"""

import argparse
import json
import pathlib
import signal
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import __main__ as speed
from benchmarks.speed.shapes import ACCELERATED
from mt_diffusion.files import writing
from mt_diffusion.models import attention
from mt_diffusion.preflight.topology import CHIPS

# Dense operations per second in bfloat16, by JAX's device_kind: NVIDIA's data sheets.
GPUS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L4": 121e12}
OURS = {"ours, float32": "", "ours, bf16": "bf16"}
THEIRS = {
    "PyTorch, bf16": "bf16",
    "PyTorch, bf16, channels_last, compile": "channels_last+compile+bf16",
}


def peak() -> float | None:
    """Of the device here; None where it is not known."""
    kind = jax.devices()[0].device_kind
    if kind in CHIPS:
        return CHIPS[kind].flops
    return next((flops for name, flops in GPUS.items() if name in kind), None)


def seconds(function: Any, *args: Any, times: int = 20) -> float:
    """Of one call, once it is compiled."""
    jax.block_until_ready(function(*args))
    start = time.perf_counter()
    for _ in range(times):
        found = function(*args)
    jax.block_until_ready(found)
    return (time.perf_counter() - start) / times


def compare_attention(size: int) -> dict[str, Any]:
    """Both ways of attention, with gradients, on size^2 pixels in bfloat16."""
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (32, size**2, 8, 64)
    args = [jax.random.normal(key, shape, jnp.bfloat16) for key in keys]

    def of(way):
        def loss(*args):
            return jnp.square(way(*args).astype(jnp.float32)).sum()

        return jax.jit(way), jax.jit(jax.grad(loss, (0, 1, 2)))

    own, plain = of(attention.attention), of(attention.by_products)
    device = jax.local_devices()[0]
    fused = attention.takes_cudnn(args[0], device)
    fused |= attention.takes_splash(*args[:2], device)
    a, b = (np.asarray(f[0](*args), np.float32) for f in (own, plain))
    return {
        "pixels": size**2,
        "fused": fused,
        "rms_difference": float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))),
        "ms": 1e3 * seconds(own[1], *args),
        "ms_by_products": 1e3 * seconds(plain[1], *args),
    }


def compare_steps(
    shape: str, torch: str, rounds: int, path: pathlib.Path
) -> dict[str, dict]:
    """Seconds of training steps of each side, one side after the other.

    For a TPU belongs to one process at a time, and most of a GPU's memory as well.
    Written to path after each, for time may run out in the next.
    """
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as caches:
        for name, variant in (OURS | (THEIRS if torch else {})).items():
            order = {"shape": shape, "job": "train", "variant": variant}
            side = "ours" if name in OURS else "pytorch"
            python = sys.executable if name in OURS else torch
            command = [python, "-m", f"benchmarks.speed.{side}", json.dumps(order)]
            running = speed.Side(command, speed.environment(caches, ""))
            found[name] = running.facts | {"seconds": [], "peak_bytes": 0}
            found[name]["first_seconds"] = running.first_seconds
            speed.take_turns({name: running}, found, rounds)
            running.close()
            writing.as_json(path, {"steps": found})
    return found


def said(shape: str, found: dict[str, dict]) -> list[str]:
    """A line of each side."""
    images, most, lines = ACCELERATED[shape].batch_size, peak(), []
    best = [np.median(found[name]["seconds"]) for name in THEIRS if name in found]
    for name, side in found.items():
        middle = float(np.median(side["seconds"]))
        rate = images / middle
        line = f"{name}: {rate:.1f} images/s, first {side['first_seconds']:.0f} s"
        if most:
            line += f", MFU {3 * side['flops_per_image'] * rate / most:.1%}"
        if best and name in OURS:
            line += f", {min(best) / middle:.2f} of PyTorch's fastest"
        lines.append(line)
    return lines


def main() -> None:
    """Measures, and writes OUT/accelerator.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = pathlib.Path("runs/accelerator")
    parser.add_argument("--out", type=pathlib.Path, default=out, help="(%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="small, to see it run")
    parser.add_argument("--torch", default="", help="Python with torch and diffusers")
    args = parser.parse_args()
    shape, sizes, rounds = (
        ("8x8x1", [4], 2) if args.smoke else ("64x64x3", [16, 32], 30)
    )
    # An exception, by which the side that is measured ends as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    writing.make_folder(args.out, f"--out={args.out}")
    if args.torch and (problem := speed.lacks(args.torch)):
        print(f"without PyTorch, for {args.torch}: {problem}")
        args.torch = ""
    path = args.out / "accelerator.json"
    steps = compare_steps(shape, args.torch, rounds, path)
    device = jax.devices()[0]  # from here on this process has it
    print(f"{jax.device_count()} x {device.device_kind}, JAX {jax.__version__}")
    print(*said(shape, steps), sep="\n")
    attended = [compare_attention(size) for size in sizes]
    for row in attended:
        print(
            f"attention, {row['pixels']} pixels: {row['ms']:.2f} ms"
            f"{' fused' if row['fused'] else ''}, {row['ms_by_products']:.2f} ms by "
            f"products, which differ by {row['rms_difference']:.1e}"
        )
    report = {"device": device.device_kind, "jax": jax.__version__}
    report |= {"steps": steps, "attention": attended}
    writing.as_json(path, report)


if __name__ == "__main__":
    main()
