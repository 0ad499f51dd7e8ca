"""How long until the first step? `configs/masked_image.py` on the digits, here.

    . launch/setup.sh
    python -m benchmarks.first_step [--runs=3]

Every run starts it with an empty cache of compiled programs and again with the one just
filled, each time in an empty workdir, and takes the time from the command to the line
of step 1 on the terminal. On 2 cores a minute for each run.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

CONFIG = "configs/masked_image.py"
FIRST = "step 1/"


def seconds(config: str, cache: pathlib.Path, workdir: pathlib.Path) -> float:
    """From the command to its first step; the run ends there."""
    command = [sys.executable, "-m", "mt_diffusion.main", f"--config={config}"]
    command += [f"--workdir={workdir}", "--config.watch.log_every=1"]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    start = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        found = any(line.startswith(FIRST) for line in process.stdout)
        taken = time.monotonic() - start
        process.kill()
    if not found:
        raise SystemExit(f"{' '.join(command)} ended before its first step.")
    return taken


def main() -> None:
    """Prints the times as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--config", default=CONFIG, help="another one (%(default)s)")
    args = parser.parse_args()
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for kind in ("cold", "warm"):
                taken = seconds(args.config, root / "cache", root / kind)
                print(f"{kind}: {taken:.1f} s", flush=True)


if __name__ == "__main__":
    main()
