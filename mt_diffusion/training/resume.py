"""Continuing a run: from the newest whole checkpoint, under the same config."""

import json
import math
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data import changed as changed_data
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.fields import flatten
from mt_diffusion.training.optimizer import build_rate
from mt_diffusion.training.state import TrainState

# What may change from one call to the next in the same workdir, and what that does.
ROUNDING = "the same numbers but for rounding"
SAME_DATA = "must be the same examples in the same order, wherever they lie"
CHANGEABLE = {
    "watch.": "what is written and when, nothing that is learnt",
    "sampling.": "pictures, and what sampling does where no flag says otherwise",
    "init_from": "nothing: only a new run begins with another's parameters",
    "platform": ROUNDING,
    "mesh.": ROUNDING,
    "unet.remat": ROUNDING,
    "train.num_steps": "the learning rate follows the longer or shorter schedule",
    "train.num_microbatches": ROUNDING,
    "data.path": SAME_DATA,
    "data.vectors": SAME_DATA,
    "data.pair_path": SAME_DATA,
    "data.data_dir": SAME_DATA,
    "data.captions": SAME_DATA,
    "data.latents": SAME_DATA,
    "primary.space.autoencoder": "nothing: its weights must be the same",
    "data.prepared_by": "nothing",
    "data.download": "nothing, where the data is there",
    "data.num_workers": "how fast examples are read, and nothing in them",
    "data.broken": "what is done at an example that can't be read",
    "data.changed": "whether data that has changed is refused",
    "data.found.": "",  # compared by itself
    "primary.space.found.limit": "",  # by rounding: latents may be made anew elsewhere
}
MOST = 5  # fields that an error writes out
JUMP = 1.5  # times the learning rate, that a longer run may begin with
LONGEST = 60  # letters of a value
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
    step, saved, state = found
    for broken in [s for s in checkpoints.steps if s > step]:
        print(f"moved broken checkpoint {broken} to {checkpoints.set_aside(broken)}")
    print(f"resuming from the checkpoint of step {step:,}")
    for line in changes(config, saved, step):
        print(line)
    return TrainState(**state)


def check_same(config: ConfigDict, saved: ConfigDict) -> None:
    """Raises UserError where a workdir's config differs in what can't be changed."""
    found = differences(config, saved)
    new, old = (flatten(json.loads(c.to_json())) for c in (config, saved))
    changed = {}
    for name, values in found.items():
        if name.startswith(tuple(CHANGEABLE)):
            continue
        part = ".".join(name.split(".")[:2])  # of which one may have nothing at all
        has = [any(f"{n}.".startswith(f"{part}.") for n in flat) for flat in (old, new)]
        if all(has):
            changed[name] = f"{name} ({values})"
        else:
            changed[part] = f"{part} (only {'there' if has[0] else 'now'})"
    if changed:
        some = list(changed.values())[:MOST]
        more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
        raise UserError(
            f"the workdir holds a run of another config: {', '.join(some)}{more}. Use "
            "another --workdir, where --config.init_from can begin with this one's "
            "parameters, or the config that this one was started with."
        )


def changes(config: ConfigDict, saved: ConfigDict, step: int) -> list[str]:
    """A line for each field with another value than before, and what that does."""
    new, old = (flatten(json.loads(c.to_json())) for c in (config, saved))
    lines = []
    for name in differences(config, saved):
        effect = next(e for start, e in CHANGEABLE.items() if name.startswith(start))
        if not effect:
            continue
        if name == "train.num_steps":
            before, now = (float(build_rate(c)(step)) for c in (saved, config))
            effect = f"the next step has learning rate {now:.3g}, and had {before:.3g}"
            if now > JUMP * before:
                effect += (
                    "; to go on without that jump, begin a new workdir with "
                    "--config.init_from"
                )
        values = f"{brief(old.get(name))} -> {brief(new.get(name))}"
        lines.append(f"config.{name}: {values} ({effect})")
    return lines


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
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
