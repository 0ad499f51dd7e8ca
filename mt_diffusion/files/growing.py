"""Files that grow, as logs do, also in a bucket, where nothing can be appended to."""

import contextlib
import pathlib
import tempfile
import time

from mt_diffusion.files import paths, writing

EVERY = 30.0  # seconds
PER_SECOND = 2**20  # bytes that are sent at most, in the long run


class Growing:
    """Files of a folder that grow: written `here`, and in the folder as they are there.

    On this machine `here` is the folder. Of one in a bucket it is one of this machine,
    from which `send` puts files into the bucket whole, those of others not being there.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._stack = folder, contextlib.ExitStack()
        self.here, self.is_apart = folder, paths.is_remote(folder)
        if self.is_apart:
            temporary = tempfile.TemporaryDirectory(prefix="mt_diffusion_")
            self.here = pathlib.Path(self._stack.enter_context(temporary), folder.name)
            self.here.mkdir()
        self._sent: dict[str, int] = {}
        self._next = time.monotonic() + EVERY

    def take(self, name: str) -> pathlib.Path:
        """A file of the folder `here`, to go on with; it need not be there."""
        file = self._folder / name
        if self.is_apart and file.exists():
            (self.here / name).write_bytes(file.read_bytes())
        return self.here / name

    def send(self) -> None:
        """Puts what has grown into the bucket."""
        if not self.is_apart:
            return
        for file in filter(pathlib.Path.is_file, self.here.iterdir()):
            size = file.stat().st_size
            if size != self._sent.get(file.name):
                writing.upload(file, self._folder / file.name)
                self._sent[file.name] = size
        seconds = sum(self._sent.values()) / PER_SECOND
        self._next = time.monotonic() + max(EVERY, seconds)

    @property
    def is_due(self) -> bool:
        """Whether it is time to send: every half a minute, less often for large files.

        Never where nothing has to be sent.
        """
        return self.is_apart and time.monotonic() > self._next

    def close(self, send: bool = True) -> None:
        """Sends all, unless told not to; nothing can follow."""
        with self._stack:
            if send:
                self.send()
