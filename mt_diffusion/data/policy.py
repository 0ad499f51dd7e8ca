"""What to do at an example that can't be read: stop, or go on with the next one."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data.views import View
from mt_diffusion.errors import UserError

STOP, SKIP = "stop", "skip"
TRIES = 100  # examples in a row that may be broken


class Skipping(View):
    """A source that has the next example in place of one that can't be read.

    It says so, once for each, with how many there are so far. refused: errors of files
    that were left out when it was opened.
    """

    told = None  # an example whose image nobody reads can't be seen to be broken

    def __init__(self, source: Any, refused: Sequence[UserError]):
        super().__init__(source)
        self.refused = list(refused)
        self._broken: set[int] = set()

    def __getitem__(self, i: int) -> dict:
        for row in range(i, i + TRIES):
            row %= len(self)
            try:
                example = self._source[row]
                example["image"]  # where it is put off it is read now: is it broken?
                return example
            except UserError as error:
                last = error
                self._tell(row, error)
        raise UserError(f"{last} So it is with {TRIES} examples in a row.") from last

    def _tell(self, row: int, error: UserError) -> None:
        if row not in self._broken:
            self._broken.add(row)
            num = len(self._broken) + len(self.refused)
            print(f"skipped, {num:,} so far: {error}", flush=True)

    def strictly(self) -> Any:
        """The source that has what can't be read."""
        return self._source


def check(config: ConfigDict) -> None:
    """Raises UserError for a policy that is none."""
    if config.broken not in (STOP, SKIP):
        raise UserError(
            f"config.data.broken is {config.broken!r}; choose {STOP!r} or {SKIP!r}."
        )


def of(source: Any, config: ConfigDict, refused: Sequence[UserError]) -> Any:
    """The source under config.broken; says which files were left out already."""
    for error in refused:
        print(f"left out: {error}")
    return Skipping(source, refused) if config.broken == SKIP else source
