"""What a run found in its data, kept in its config; and whether it is still so.

Otherwise a file that is added, or moved, could make a test example of one that a model
was trained on.
"""

import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data import views
from mt_diffusion.errors import UserError

SPLITS = ("train", "test")
REFUSE, ACCEPT = "refuse", "accept"


def recorded(config: ConfigDict, train: Any, test: Any) -> ConfigDict:
    """A config whose data.found says what these two sources hold."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.found = {
            "class_names": tuple(train.class_names),
            "train": told(train),
            "test": told(test),
        }
    return config


def told(source: Any) -> dict[str, Any]:
    """How many examples a source has, what stands for their names and captions."""
    found = {"examples": len(source), "digest": views.digest_of(source)}
    if captions := getattr(source, views.CAPTIONS, None):
        text = json.dumps([list(several) for several in captions])
        found["captions"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def check(config: ConfigDict, split: str, source: Any) -> None:
    """Raises UserError where a run's data are others than it was trained on.

    config: of the data; `found` is empty before there is a run.
    """
    compare(config, split, told(source), config.found.get(split))


def check_same(config: ConfigDict, saved: ConfigDict) -> None:
    """The same of the data of a run that goes on, and those that it was begun with."""
    if config.version != saved.version:
        raise UserError(
            f"this run splits its data by the rules of version {saved.version}, and by "
            f"those of version {config.version} would mix what it trains on with what "
            f"it tests on: add --config.data.version={saved.version}."
        )
    for split in SPLITS:
        compare(config, split, config.found.get(split), saved.found.get(split))


def compare(config: ConfigDict, split: str, now: Any, before: Any) -> None:
    """Raises UserError where both are known, and differ."""
    if config.changed not in (REFUSE, ACCEPT):
        raise UserError(
            f"config.data.changed is {config.changed!r}; choose {REFUSE!r} or "
            f"{ACCEPT!r}."
        )
    if not now or not before or config.changed == ACCEPT:
        return
    # What an earlier version did not look at is taken for the same.
    if all(now[name] == before[name] for name in set(now) & set(before)):
        return
    raise UserError(
        f"the {split} examples are not those that this run was trained with: "
        f"{before.get('examples')} there, {now.get('examples')} now, or others by "
        "name, size or caption. What was trained on might be tested on. Put the files "
        f"back, or go on all the same with --config.data.changed={ACCEPT}."
    )
