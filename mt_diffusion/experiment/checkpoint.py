"""Checkpoints of a run: Orbax, written in the background, with the config inside."""

import contextlib
import functools
import gc
import json
import pathlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment.stored import FOLDER, of_this_version, stored_config
from mt_diffusion.files import digests, locks, paths, writing
from mt_diffusion.parallel import sharding

BROKEN = "broken_checkpoints"
CONFIG = "config"  # its name beside the parts of a state
COMMIT = "commit_success.txt"


class Checkpoints:
    """The checkpoints below a workdir.

    keep: how many of the newest stay; None where none will be written. Where some are,
    nobody else writes to the workdir until `close`; in a bucket this is no promise, and
    `check_lock` raises UserError where somebody does.
    """

    def __init__(self, workdir: pathlib.Path, keep: int | None = None):
        """Creates the folder only to write (keep given).

        Raises UserError where another process writes to the workdir.
        """
        self._workdir = workdir.absolute()
        self._folder = self._workdir / FOLDER
        literal = paths.literal(self._folder)
        self._lock = contextlib.ExitStack()
        self._unchecked: set[int] = set()  # steps of which that was said
        self.check_lock: Callable[[], None] = lambda: None
        if keep is not None:
            writing.stay_within(self._folder, self._workdir)
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=keep is not None,
            read_only=keep is None,
            cleanup_tmp_directories=keep is not None,  # of saves that were cut off
            # Process 0 calls it when all is written, before a step has its own name.
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._add_digests
            ),
        )
        self._manager = ocp.CheckpointManager(literal, options=options)

    def _take_lock(self) -> None:
        """Process 0 does; all of a job raise UserError where it can't."""
        refusal = None
        if jax.process_index() == 0:
            try:
                lock = locks.held(self._workdir, f"--workdir={self._workdir}")
                self.check_lock = self._lock.enter_context(lock)
            except UserError as error:
                refusal = error
        if sharding.anywhere(refusal is not None):
            raise refusal or UserError("process 0 may not write to the workdir.")

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Mapping[str, Any], config: ConfigDict) -> None:
        """Starts to write the parts of a state; returns once these may be changed.

        Raises UserError where another process has taken the workdir for its own.
        """
        self.check_lock()
        state = jax.tree.map(sharding.one_copy, dict(state))
        items = {n: ocp.args.StandardSave({n: part}) for n, part in state.items()}
        items[CONFIG] = ocp.args.JsonSave(json.loads(config.to_json()))
        with self._explained():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def _add_digests(self) -> None:
        """To what is being saved, of which there is one at a time.

        In a bucket it has its name already.
        """
        steps = {p for p in self._folder.glob("*") if p.name.isdecimal()}
        drafts = set(self._folder.glob("*.orbax-checkpoint-tmp"))
        (draft,) = drafts or steps - set(self._whole())
        digests.write(draft)

    def _whole(self) -> Iterator[pathlib.Path]:
        """The folders of whole checkpoints.

        One has its final name only once all in it is written; in a bucket, where no
        folder can be renamed, Orbax writes COMMIT last.
        """
        for path in self._folder.glob("*"):
            is_there = not paths.is_remote(path) or (path / COMMIT).exists()
            if path.name.isdecimal() and is_there:
                yield path

    def close(self) -> None:
        """Returns once all that was saved is on disk; nothing can follow."""
        with self._lock, self._explained():
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes of whatever Orbax raises a UserError that says what is left."""
        try:
            yield
        except Exception as error:
            whole: list[int] = []
            with contextlib.suppress(*paths.failures(self._folder)):
                whole = sorted(int(p.name) for p in self._whole())
            raise UserError(
                f"a checkpoint could not be written to {self._folder} "
                f"({writing.reason(error)}). Whole ones: {whole or 'none yet'}. Make "
                "room, or mend what is wrong; the same command then continues from the "
                "newest of them."
            ) from error

    def newest(
        self,
        abstract: Callable[[ConfigDict], Mapping[str, Any]],
        only: int | None = None,
        read: Callable[[int, Any], Any] | None = None,
    ) -> tuple[int, ConfigDict, dict[str, Any]] | None:
        """(step, config, state) of the newest whole checkpoint; None if there is none.

        abstract: from a config to the shapes and shardings of the parts of the state
        that are wanted; may raise UserError. only: the step of the one that is asked
        for. read: what reads what is wanted of a step, `restore` where None.
        Broken checkpoints are reported and passed over. Raises UserError where all are.
        """
        ignore_abandoned_reads()
        broken: list[int] = []
        while steps := self._others(only, broken):
            try:
                config = self.config(steps[0])
                with of_this_version(steps[0]):
                    wanted = abstract(config)
                return steps[0], config, (read or self.restore)(steps[0], wanted)
            except (UserError, MemoryError, PermissionError):
                raise
            except Exception as error:  # whatever a damaged file makes Orbax raise
                reason = writing.reason(error)
            collect_abandoned_reads()
            # One that a training run has removed meanwhile, for newer ones, is whole.
            if self._others(only, broken) == steps:
                broken.append(steps[0])
                print(f"checkpoint {steps[0]} is broken and passed over ({reason})")
        if broken:
            raise UserError(
                f"all checkpoints in {self._folder} are broken: {broken}. Nothing was "
                "changed; restore them from a copy, or use another --workdir."
            )
        return None

    def _others(self, only: int | None, broken: Sequence[int]) -> list[int]:
        """Steps on disk now, newest first, without those; only the one asked for.

        Raises UserError where that is not there.
        """
        self._manager.reload()
        if only is None:
            return [step for step in self.steps if step not in broken]
        if only not in self.steps:
            raise UserError(
                f"{self._folder} has no checkpoint {only}; it has "
                f"{', '.join(map(str, self.steps)) or 'none'}."
            )
        return [] if broken else [only]

    def config(self, step: int) -> ConfigDict:
        """The config that the checkpoint of a step carries."""
        self._check(step, [CONFIG])
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        stored = self._manager.restore(step, args=args).config
        with of_this_version(step):
            return stored_config(stored, str(self._workdir / FOLDER / str(step)))

    def restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of a state that `abstract` names, in its shapes and shardings.

        Raises whatever Orbax does, and Damaged.
        """
        self._check(step, abstract)
        items = {n: ocp.args.StandardRestore({n: x}) for n, x in abstract.items()}
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        return {n: found[n][n] for n in abstract}

    def shapes(self, step: int, part: str) -> Any:
        """A part of the state of a step, each array as what has its shape; unread."""
        self._check(step, [part])
        with ocp.StandardCheckpointer() as reader:
            found = reader.metadata(paths.literal(self._folder / str(step) / part))
        return found.item_metadata.tree[part]

    def _check(self, step: int, parts: Collection[str]) -> None:
        """Raises Damaged, in all processes of a job, where files are not as written.

        Of checkpoints of earlier versions, which have no digests, nothing is known; nor
        of those of later ones, whose digests are of another kind, which is said.
        """
        share, damage = (jax.process_index(), jax.process_count()), None
        try:
            digests.check(self._folder / str(step), parts, share)
        except digests.Damaged as error:
            damage = error
        except digests.Newer as error:
            if step not in self._unchecked:
                print(
                    f"checkpoint {step} in {self._folder} was written by a newer "
                    f"version ({error}): whether it is damaged can't be told here, and "
                    "it is read as it is"
                )
            self._unchecked.add(step)
        if sharding.anywhere(damage is not None):
            raise damage or digests.Damaged("another process found damage")

    def set_aside(self, step: int) -> pathlib.Path:
        """Moves a checkpoint out of the way; returns where it lies now."""
        target = self._workdir / BROKEN / str(step)
        with writing.explained(target):
            writing.make_folder(target.parent, str(target), self._workdir)
            writing.move_folder(self._folder / str(step), target)
        self._manager.reload()
        return target


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
