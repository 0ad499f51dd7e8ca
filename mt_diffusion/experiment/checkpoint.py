"""Checkpoints of a run: Orbax, written in the background, with the config inside."""

import contextlib
import functools
import gc
import json
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import translate
from mt_diffusion.files import writing

FOLDER = "checkpoints"
BROKEN = "broken_checkpoints"


class Checkpoints:
    """The checkpoints below a workdir.

    keep: how many of the newest stay; None where none will be written.
    """

    def __init__(self, workdir: pathlib.Path, keep: int | None = None):
        """Creates the folder only to write (keep given)."""
        self._workdir = workdir.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=keep is not None,
            read_only=keep is None,
            cleanup_tmp_directories=keep is not None,  # of saves that were cut off
        )
        self._manager = ocp.CheckpointManager(self._workdir / FOLDER, options=options)

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Mapping[str, Any], config: ConfigDict) -> None:
        """Starts to write the parts of a state; returns once these may be changed."""
        items = {n: ocp.args.StandardSave({n: part}) for n, part in state.items()}
        items["config"] = ocp.args.JsonSave(json.loads(config.to_json()))
        with self._explained():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def close(self) -> None:
        """Returns once all that was saved is on disk; nothing can follow."""
        with self._explained():
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes of whatever Orbax raises a UserError that says what is left."""
        folder = self._workdir / FOLDER
        try:
            yield
        except Exception as error:
            # A folder has its final name only once all in it is written.
            whole = sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal())
            raise UserError(
                f"a checkpoint could not be written to {folder} "
                f"({writing.reason(error)}). Whole ones: {whole or 'none yet'}. Make "
                "room, or mend what is wrong; the same command then continues from the "
                "newest of them."
            ) from error

    def newest(
        self,
        abstract: Callable[[ConfigDict], Mapping[str, Any]],
        only: int | None = None,
    ) -> tuple[int, ConfigDict, dict[str, Any]] | None:
        """(step, config, state) of the newest whole checkpoint; None if there is none.

        abstract: from a config to the shapes and shardings of the parts of the state
        that are wanted; may raise UserError. only: the step of the one that is asked
        for.
        Broken checkpoints are reported and passed over. Raises UserError where all are.
        """
        ignore_abandoned_reads()
        if only is not None and only not in self.steps:
            raise UserError(
                f"{self._workdir / FOLDER} has no checkpoint {only}; it has "
                f"{', '.join(map(str, self.steps)) or 'none'}."
            )
        for step in self.steps if only is None else [only]:
            try:
                config = self.config(step)
                with of_this_version(step):
                    wanted = abstract(config)
                state = self.restore(step, wanted)
            except (UserError, MemoryError, PermissionError):
                raise
            except Exception as error:  # whatever a damaged file makes Orbax raise
                reason = writing.reason(error)
                print(f"checkpoint {step} is broken and passed over ({reason})")
            else:
                return step, config, state
            collect_abandoned_reads()
        if self.steps:
            raise UserError(
                f"all checkpoints in {self._workdir / FOLDER} are broken: "
                f"{self.steps}. Nothing was changed; restore them from a copy, or use "
                "another --workdir."
            )
        return None

    def config(self, step: int) -> ConfigDict:
        """The config that the checkpoint of a step carries."""
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        stored = self._manager.restore(step, args=args).config
        with of_this_version(step):
            return stored_config(stored, str(self._workdir / FOLDER / str(step)))

    def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of a state that `abstract` names, in its shapes and shardings."""
        items = {n: ocp.args.StandardRestore({n: x}) for n, x in abstract.items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        return {n: found[n][n] for n in abstract}

    def shapes(self, step: int, part: str) -> Any:
        """A part of the state of a step, each array as what has its shape; unread."""
        with ocp.StandardCheckpointer() as reader:
            found = reader.metadata(self._workdir / FOLDER / str(step) / part)
        return found.item_metadata.tree[part]

    def set_aside(self, step: int) -> pathlib.Path:
        """Moves a checkpoint out of the way; returns where it lies now."""
        target = self._workdir / BROKEN / str(step)
        with writing.explained(target):
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            (self._workdir / FOLDER / str(step)).rename(target)
        self._manager.reload()
        return target


def stored_config(stored: Mapping[str, Any], origin: str) -> ConfigDict:
    """A config as it was stored, in the words of this version.

    origin: where it was stored.
    """
    return ConfigDict(translate.translated(stored)).lock()


@contextlib.contextmanager
def of_this_version(step: int) -> Iterator[None]:
    """Makes a UserError of what a checkpoint's config, of another time, has not."""
    try:
        yield
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"the config of checkpoint {step} lacks what this version reads ({error}): "
            "it was written by another one. Use that, or train anew in another "
            "--workdir."
        ) from error


def collect_abandoned_reads() -> None:
    """Frees the coroutines of a read that failed, which Orbax leaves unawaited.

    Otherwise Python warns of them at some later time, in whatever then runs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


@functools.cache
def ignore_abandoned_reads() -> None:
    """From here on, drops what the other reads of a broken checkpoint have to say.

    Orbax closes its event loop at the first array that can't be read; each of the
    hundreds of reads under way then prints a traceback from a thread of its own.
    """
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook
