"""Continuing a run: from the newest whole checkpoint, under the same config."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data import changed as changed_data
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.training.state import TrainState

# What may change from one call to the next in the same workdir.
CHANGEABLE = (
    "watch.",
    "sampling.",
    "init_from",
    "platform",
    "mesh.",
    "unet.remat",
    "train.num_steps",
    "train.num_microbatches",
    "data.path",
    "data.vectors",
    "data.pair_path",
    "data.data_dir",
    "data.download",
    "data.broken",
    "data.changed",
    "data.found.",  # compared by itself
)
# Of numbers in lists, which may be fitted to the data, and differ by the BLAS.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


def resume(
    checkpoints: Checkpoints,
    config: ConfigDict,
    abstract: TrainState,
) -> TrainState | None:
    """The state of the newest whole checkpoint; None to start anew.

    abstract: its shapes and where its arrays will lie, whatever mesh wrote it.

    Broken newer checkpoints are moved aside. Raises UserError for another config.
    """

    def target(saved: ConfigDict) -> dict[str, Any]:
        changed_data.check_same(config.data, saved.data)
        check_same(config, saved)
        return abstract.saved

    found = checkpoints.newest(target)
    if found is None:
        return None
    step, _, state = found
    for broken in [s for s in checkpoints.steps if s > step]:
        print(f"moved broken checkpoint {broken} to {checkpoints.set_aside(broken)}")
    print(f"resuming from the checkpoint of step {step:,}")
    return TrainState(**state)


def check_same(config: ConfigDict, saved: ConfigDict) -> None:
    """Raises UserError where a workdir's config differs in what can't be changed."""
    changed = [
        f"{name} ({values})"
        for name, values in differences(config, saved).items()
        if not name.startswith(CHANGEABLE)
    ]
    if changed:
        raise UserError(
            "the workdir holds a run of another config: " + ", ".join(changed) + ". "
            "Use another --workdir, or the config that this one was started with."
        )


def differences(config: ConfigDict, saved: ConfigDict) -> dict[str, str]:
    """{field: "1 there, 2 now"} where a saved config has other values than this one."""
    new, old = (flatten(json.loads(c.to_json())) for c in (config, saved))
    return {
        name: f"{brief(old.get(name))} there, {brief(new.get(name))} now"
        for name in sorted(new.keys() | old.keys())
        if not same(new.get(name), old.get(name))
    }


def same(new: Any, old: Any) -> bool:
    """Whether two values are equal, lists of numbers about so."""
    if not (isinstance(new, list) and isinstance(old, list)):
        return new == old
    return len(new) == len(old) and all(map(_near, new, old))


def _near(new: Any, old: Any) -> bool:
    if isinstance(new, float) and isinstance(old, float):
        return math.isclose(new, old, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return same(new, old)


def brief(value: Any) -> str:
    """What an error says of a value; what was fitted to data may have thousands."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested dicts."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat
