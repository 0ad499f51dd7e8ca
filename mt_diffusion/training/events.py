"""TensorBoard's event files: scalars, pictures, text and settings of a run."""

import math
import pathlib
import socket
import time
import uuid
from collections.abc import Mapping

import numpy as np
import PIL.Image
from ml_collections import ConfigDict
from tensorboardX import RecordWriter, summary
from tensorboardX.proto import event_pb2, summary_pb2

from mt_diffusion.experiment import fields

PATTERN = "events.out.tfevents.*"
FLUSH_EVERY = 30.0  # seconds; a bucket that is mounted writes the whole file each time
RESULT = "loss"  # the scalar that stands beside the settings of each run


class Events:
    """Writes one file of events, which is on disk half a minute later at most.

    tensorboardX makes the records. Its own SummaryWriter is not used: it writes in a
    thread, and waits for ever once that has met a full disk.
    """

    file, told = PATTERN, "tensorboard --logdir {workdir}"

    def __init__(self, workdir: pathlib.Path, start: int, config: ConfigDict):
        """Begins with the config, as text and as settings to compare runs by.

        start: steps that are done; what earlier files say of later ones is void.
        Raises OSError, as all here, for what can't be written.
        """
        # Readers take files in the order of their names, so the time stands first; and
        # nobody knows the name beforehand.
        name = f"{time.time():.6f}.{socket.gethostname()}.{uuid.uuid4().hex}"
        path = workdir.absolute() / PATTERN.replace("*", name)
        self._file, self._flushed = RecordWriter(str(path)), -math.inf
        self._record(event_pb2.Event(file_version="brain.Event:2"))
        began = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._record(event_pb2.Event(session_log=began, step=start + 1))
        columns, settings, _ = summary.hparams(flat(config), {RESULT: None})
        text = summary.text("config", f"```yaml\n{config}```")
        self._write(start, columns, settings, text)

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars {name: value}, which need not be finite."""
        self._write(step, *(summary.scalar(n, x) for n, x in scalars.items()))

    def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
        """A picture."""
        pixels = np.asarray(image.convert("RGB"))
        self._write(step, summary.image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, *summaries: summary_pb2.Summary) -> None:
        for content in summaries:
            self._record(event_pb2.Event(summary=content, step=step))
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            self._file.flush()
            self._flushed = time.monotonic()

    def _record(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())


def flat(config: ConfigDict) -> dict[str, bool | float | str]:
    """{"a.b": value} of a config's fields, what is no number or text as text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in fields.leaves(config)
    }
