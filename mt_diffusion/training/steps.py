"""The steps of a run, one after another, and what is due after some of them."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.training.look import Look
from mt_diffusion.training.preemption import Preemption
from mt_diffusion.training.state import TrainState
from mt_diffusion.training.step import Step
from mt_diffusion.training.watch import Silent, Watch

LAG = 2  # steps in flight before a step's counters are looked at

# Called as (step, scalars by name); True in return asks to stop.
Callback = Callable[[int, dict[str, float]], object]


class End(NamedTuple):
    """The last step that was made. wished: by a callback, before the others."""

    step: int
    wished: bool


@dataclasses.dataclass
class Steps:
    """What the steps of a run need, and what happens after some of them.

    train_step: compiled. key: of all steps. stop: whether the run was told to end.
    callback: called after each step that is logged; the run ends where it returns True.
    """

    config: ConfigDict
    mesh: Mesh
    train_step: Step
    key: PRNGKeyArray
    view: Watch | Silent
    look: Look
    stop: Preemption
    checkpoints: Checkpoints
    callback: Callback | None

    def __call__(
        self,
        state: TrainState,
        start: int,
        batches: Iterable[Batch],
        failed: Sequence[Exception],
    ) -> End:
        """Trains after step `start` on one batch after another.

        failed: what ended the batches too early, once they have; then the last step is
        saved as well. Raises UserError where too many steps in a row have gradients
        that are not finite.
        """
        in_flight: collections.deque[dict] = collections.deque()
        terms: dict[str, Any] = {}
        end = End(start, False)
        waited_for = self.view.waited_for(batches, lambda: is_done(in_flight))
        for step, batch in enumerate(waited_for, start + 1):
            state, terms = self.train_step(state, batch, self.key)
            self.view.advance(step)
            in_flight.append(terms)
            if len(in_flight) > LAG:
                check_finite(in_flight.popleft(), self.config, step)
            end = End(step, self._log(step, terms))
            if is_due(self.config, "sample_every", step):
                self.look(self.view, step, sharding.gather(state.ema_params, self.mesh))
                self.view.restart_clock(step)
            told = self.stop.reached(step) or end.wished
            if told or is_due(self.config, "checkpoint_every", step):
                self._save(step, state, terms)
            if told:
                return end
        due = is_due(self.config, "checkpoint_every", end.step)
        if failed and end.step > start and not due:
            self._save(end.step, state, terms)
        return end

    def _log(self, step: int, terms: dict[str, Any]) -> bool:
        """Logs the terms where that is due; whether the callback ends the run."""
        if not is_due(self.config, "log_every", step):
            return False
        scalars = {name: float(x) for name, x in jax.device_get(terms).items()}
        self.view.scalars(step, scalars)
        return self.callback is not None and is_wish(self.callback(step, scalars))

    def _save(self, step: int, state: TrainState, terms: dict[str, Any]) -> None:
        """Begins to write a checkpoint, unless the last gradients were not finite."""
        self.view.send()
        if terms["skipped_in_a_row"]:
            print(f"no checkpoint at step {step}: its gradients are not finite")
        else:
            self.checkpoints.save(step, state.saved, self.config)


def is_wish(said: object) -> bool:
    """Whether a callback said True, and not what a write or an append returns."""
    return isinstance(said, bool | np.bool_) and bool(said)


def is_due(config: ConfigDict, interval: str, step: int) -> bool:
    """Whether what happens every config.watch[interval] steps, and last, is due.

    What happens every 0 steps never does.
    """
    every = config.watch[interval]
    return every > 0 and (step % every == 0 or step == config.train.num_steps)


def is_done(in_flight: Sequence[dict]) -> bool:
    """Whether the devices have done all steps that they were given."""
    return not in_flight or all(x.is_ready() for x in jax.tree.leaves(in_flight[-1]))


def check_finite(terms: dict, config: ConfigDict, step: int) -> None:
    """Raises UserError where too many steps in a row were skipped."""
    in_a_row = int(terms["skipped_in_a_row"])
    if in_a_row >= config.train.max_skipped_in_a_row:
        raise UserError(
            f"stopped near step {step}: the gradients of {in_a_row} steps in a row "
            "were not finite, so none of them was applied. The last checkpoint is "
            "sound. Start in a new workdir with a smaller "
            "--config.optimizer.learning_rate, or look for broken values in the data."
        )
