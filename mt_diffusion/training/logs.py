"""Where scalars and pictures of a run go beside metrics.jsonl and samples/: --log.

Nothing is sent anywhere, but by `wandb` where it is asked for.
"""

import csv
import difflib
import importlib.util
import json
import math
import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

import PIL.Image
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.files import paths, writing
from mt_diffusion.files.names import shown
from mt_diffusion.training.events import Events, flat

METRICS = "metrics.jsonl"  # which there is always
NONE = "none"
USUAL = "tensorboard"


class Log(Protocol):
    """What takes scalars and pictures; raises OSError for what can't be written.

    file: its name in the workdir, for errors. told: what the banner says of it.
    resumed: files there that a run which goes on reads again.
    """

    file: str
    told: str
    resumed: tuple[str, ...]

    def __init__(self, workdir: pathlib.Path, start: int, config: ConfigDict):
        """start: steps that are done, after which anything said before is void."""

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars {name: value}, which need not be finite."""

    def picture(self, step: int, name: str, image: PIL.Image.Image) -> None:
        """A picture."""

    def flush(self) -> None:
        """What was said is on disk, in whole records."""

    def close(self) -> None:
        """The same, and nothing follows."""


class Csv:
    """metrics.csv: metrics.jsonl as a table, a column for each scalar.

    Made anew of that when a run begins or goes on, and when a scalar is new.
    """

    file = told = "metrics.csv"
    resumed: tuple[str, ...] = ()

    def __init__(self, workdir: pathlib.Path, start: int, config: ConfigDict):
        self._source, self._path = workdir / METRICS, workdir / self.file
        writing.stay_within(self._path, workdir)
        self._columns: list[str] = ["step"]
        self._rewrite()

    def scalars(self, step, scalars):
        """Scalars that stand in metrics.jsonl already."""
        if set(scalars) <= set(self._columns):
            with open(self._path, "a", newline="", encoding="utf-8") as file:
                row = {n: x for n, x in scalars.items() if math.isfinite(x)}
                csv.DictWriter(file, self._columns).writerow({"step": step} | row)
        else:
            self._rewrite()

    def _rewrite(self) -> None:
        text = self._source.read_text("utf-8") if self._source.exists() else ""
        rows = [json.loads(line) for line in text.splitlines()]
        self._columns = list(dict.fromkeys(["step", *(n for row in rows for n in row)]))
        with (
            writing.draft_of(self._path) as draft,
            open(draft, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, self._columns)
            table.writeheader()
            table.writerows(rows)

    def picture(self, step, name, image):
        """Pictures are files in samples/ already."""

    def flush(self):
        """Each line is on disk once it is written."""

    close = flush


class Wandb:
    """Weights & Biases, as its own variables say (WANDB_MODE=offline: on disk alone).

    A run that goes on is the same one there, by the id in wandb_run.txt.
    """

    file, told = "wandb", "Weights & Biases, project mt-diffusion"
    resumed: tuple[str, ...] = ("wandb_run.txt",)

    def __init__(self, workdir: pathlib.Path, start: int, config: ConfigDict):
        import wandb

        file = workdir / self.resumed[0]
        writing.stay_within(file, workdir)
        writing.stay_within(workdir / self.file, workdir)
        if not start or not file.exists():
            writing.text(file, secrets.token_hex(8) + "\n")
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project="mt-diffusion",
                name=workdir.absolute().name,
                id=file.read_text("utf-8").strip(),
                resume="allow",
                dir=str(workdir.absolute()),
                config=flat(config),
            )
        except wandb.errors.Error as error:  # no key, no network
            raise UserError(
                f"--log=wandb: {writing.reason(error)}. Log in by `wandb login`, or "
                "keep the run on this machine with WANDB_MODE=offline."
            ) from error

    def scalars(self, step, scalars):
        """Those of steps that it has already are dropped there."""
        self._run.log(dict(scalars), step=step)

    def picture(self, step, name, image):
        """A picture, by its name."""
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def flush(self):
        """Nothing: its client keeps its files itself."""

    def close(self):
        """Waits until all is sent, or on disk."""
        self._run.finish()


LOGS: Mapping[str, type[Log]] = {
    "tensorboard": Events,
    "csv": Csv,
    "wandb": Wandb,
}


def parse(text: str, workdir: pathlib.Path) -> tuple[str, ...]:
    """Names of logs, 'csv,wandb'; 'none' for none of them.

    Raises UserError for one that there is not, whose package is not installed, or whose
    files can't be in that workdir.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in LOGS and (name != NONE or len(names) > 1):
            (near,) = difflib.get_close_matches(name, [*LOGS, NONE], n=1, cutoff=0)
            raise UserError(
                f"--log={shown(text)}: {shown(name)!r} is none of {', '.join(LOGS)}, "
                f"several of which go together with commas, nor {NONE} alone; the "
                f"nearest is {near}."
            )
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"--log={shown(text)} needs the package of Weights & Biases: pip install "
            "'mt-diffusion[wandb]', or pip install wandb. metrics.jsonl is always "
            "there."
        )
    offline = os.environ.get("WANDB_MODE", "") in ("offline", "dryrun")
    if "wandb" in names and offline and paths.is_remote(workdir):
        raise UserError(
            f"--log=wandb with WANDB_MODE=offline keeps a folder, and {workdir} is in "
            "a bucket, which has none: leave WANDB_MODE out, or train in a folder."
        )
    return tuple(name for name in names if name != NONE)


def told(workdir: pathlib.Path, names: Sequence[str]) -> str:
    """What the banner says of them."""
    return "".join(f", {LOGS[name].told.format(workdir=workdir)}" for name in names)
