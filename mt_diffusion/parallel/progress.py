"""How far something is that takes long: on a terminal, and in a file or pipe."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

EVERY = 30.0  # seconds between the lines of what is no terminal
OFTEN = 1.0  # seconds between looks at the speed, which is a moving average
# What matters most stands first: what a narrow terminal has no room for is cut.
FORMAT = (
    "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} {rate_fmt} {remaining} left"
    "{postfix} |{bar}|"
)
CLOCK = "{desc}: {elapsed}"  # of what has no parts


class Progress(tqdm.tqdm):
    """A bar as wide as the terminal; where there is none, a line each 30 s and at last.

    items: what is gone through; None where `update` counts. what: is done, with
    `total` of a unit, so many of them (`initial`) before. scaled: as 61.7M. form: what
    a line says.
    """

    _is_terminal = True
    _said, _said_at = -1, 0.0  # what the last line was of, and when

    def __init__(
        self,
        items: Iterable | None = None,
        what: str = "",
        total: int | None = None,
        unit: str = "example",
        initial: int = 0,
        scaled: bool = False,
        form: str = FORMAT,
    ):
        self._is_terminal = sys.stderr.isatty()
        pace: dict[str, Any] = {"dynamic_ncols": True}
        if not self._is_terminal:
            pace = {"mininterval": OFTEN, "delay": OFTEN}
        super().__init__(
            items,
            what,
            total,
            unit=f" {unit}",
            initial=initial,
            unit_scale=scaled,
            miniters=1,
            bar_format=form if self._is_terminal else form.partition(" |")[0],
            **pace,
        )
        self._said_at = self.start_t

    @property
    def is_terminal(self) -> bool:
        """Whether it is a bar."""
        return self._is_terminal

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        """As of tqdm; what is no bar is a line of its own."""
        if self._is_terminal:
            return super().display(msg, pos)
        if self._time() >= self._said_at + EVERY:
            self._say()
        return False

    def _say(self) -> None:
        """Writes a line."""
        self.wait()
        print(self, file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Says nothing for the next 30 s, for somebody else has said where it is."""
        self._said_at, self._said = self._time(), self.n

    def close(self) -> None:
        """As of tqdm; says that all is done, once."""
        if not self._is_terminal and not getattr(self, "disable", True):
            is_done = self.total is None or self.n >= self.total
            if is_done and self.n not in (0, self._said):
                self._say()
            self.disable = True
        super().close()


@contextlib.contextmanager
def clock(what: str) -> Iterator[None]:
    """Shows the time that something takes which has no parts, until it is done."""
    done = threading.Event()
    with Progress(what=what, total=1, form=CLOCK) as bar:

        def tick() -> None:
            while not done.wait(OFTEN):
                bar.refresh()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
            bar.update()
        finally:
            done.set()
            thread.join()
