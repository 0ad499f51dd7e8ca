"""`python -m mt_diffusion.demo`, as launch/demo.sh calls it."""

import argparse
import signal
from collections.abc import Sequence

from mt_diffusion.command import exits, startup
from mt_diffusion.demo import serving
from mt_diffusion.experiment import programs


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the page until it is interrupted."""
    parser = argparse.ArgumentParser(
        "launch/demo.sh", description="A page to play with a trained model."
    )
    parser.add_argument(
        "--workdir",
        default="",
        help="a run, an exported model, or the name of one that comes with the package "
        f"({' or '.join(serving.PREFERRED)}, the first that is there)",
    )
    parser.add_argument(
        "--host",
        default=serving.HOST,
        help=f"address to listen on ({serving.HOST}: this machine alone)",
    )
    parser.add_argument("--port", type=int, default=serving.PORT)
    parser.add_argument(
        "--trust", default="", help="modules that its config may name, by commas"
    )
    flags = parser.parse_args(arguments)
    startup.set_up_python()
    programs.keep()
    trust = [module for module in flags.trust.split(",") if module]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: tidily
    with exits.decided(), exits.explained():
        serving.serve(flags.workdir, flags.host, flags.port, trust)


if __name__ == "__main__":
    main()
