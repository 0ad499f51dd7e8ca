"""`--mode=check`: every example of a data set read once, and what is wrong with it."""

import concurrent.futures
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data import sources
from mt_diffusion.data.changed import SPLITS
from mt_diffusion.data.policy import SKIP, STOP
from mt_diffusion.errors import UserError
from mt_diffusion.parallel.progress import Progress

MOST = 20  # faults that are written out


def check(config: ConfigDict) -> None:
    """Reads all examples of config.data, in parallel; prints what was found.

    Raises UserError where any of them can't be read; all are looked at first.
    """
    config = config.copy_and_resolve_references()
    config.broken = SKIP  # at the headers, so that all is looked at
    faults = []
    for split in SPLITS:
        source: Any = sources.open_source(config, split)
        for name, text in source.facts.items():
            print(f"{split} {name}: {text}")
        faults += [str(error) for error in source.refused]
        broken = read_all(source.strictly(), split)
        print(f"{split}: {len(source) - len(broken):,} of {len(source):,} read")
        faults += broken
    if faults:
        for text in faults[:MOST]:
            print(f"  {text}")
        raise UserError(
            f"{len(faults):,} examples can't be used"
            f"{f', of which the first {MOST} are named' if len(faults) > MOST else ''}."
            f" Repair or remove them; or --config.data.broken={SKIP} trains without "
            f"them, where {STOP} ends at the first."
        )
    print("all examples can be read")


def read_all(source: Any, name: str) -> list[str]:
    """What is wrong with each example of a source that can't be read."""

    def fault(i: int) -> str:
        try:
            source[i]
        except UserError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = pool.map(fault, range(len(source)))
        bar = Progress(found, name, len(source))
        return [text for text in bar if text]
