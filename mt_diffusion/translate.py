"""Configs of earlier versions, as stored in checkpoints, in the words of this one."""

import math
from collections.abc import Mapping
from typing import Any

from mt_diffusion.diffusion.presence import ABSENT, INDEPENDENT, UNREAD
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import base
from mt_diffusion.modalities.base import NO_DRIFT
from mt_diffusion.modalities.kinds import Coded

VARIANCES = {0.0: "beta_tilde", 1.0: "beta"}  # fixed_variance -> variance
GENERATED = {1.0: "mean", 0.0: "absent"}  # generated_drift -> guess


def translated(config: dict[str, Any]) -> dict[str, Any]:
    """A stored config, as if written today; one that has all that is of today as is."""
    if "prediction" not in config["diffusion"]:
        config = predicting(config)
    return config | {n: sampling(config[n]) for n in ("sampling",) if n in config}


def sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """How to sample; times even in t and fixed variances stay what they were."""
    none = {"resample": 1, "autoguidance": 1.0, "guide": ""}
    kept = none | {"spacing": "even"} | fields
    place = kept.pop("fixed_variance", None)
    if place is None:
        return kept
    if place not in VARIANCES:
        raise UserError(
            f"the checkpoint's config.sampling.fixed_variance is {place}; this version "
            f"has only {' and '.join(f'{p:g}' for p in VARIANCES)}."
        )
    return kept | {"variance": VARIANCES[place]}


def predicting(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config from before there were predictions.

    Such models predict eps, look at all of z_t, and have white or smooth codes; the
    programs that these fields describe are those of that time, to the bit.
    """
    data, sampling = config["data"], dict(config["sampling"])
    numbers = data["image_size"] ** 2 * data["channels"]
    drift = sampling.pop("generated_drift", 1.0)
    if drift not in GENERATED:
        raise UserError(
            f"the checkpoint's config.sampling.generated_drift is {drift}; this "
            "version has only 1 (--guess=NAME=mean) and 0 (--guess=NAME=absent)."
        )
    rates = {
        name: {ABSENT: fields["drop_rate"], UNREAD: fields["null_rate"]}
        for name, fields in config["modalities"].items()
    }
    return config | {
        "diffusion": config["diffusion"] | {"prediction": "eps"},
        "objective": config["objective"] | {"bare_every": 0},
        "presence": {INDEPENDENT: rates} if rates else {},
        "sampling": sampling | {"guess": ""},
        "modalities": {
            name: modality(fields, numbers) | {"guess": GENERATED[drift]}
            for name, fields in config["modalities"].items()
        },
    }


def modality(fields: Mapping[str, Any], numbers: int) -> dict[str, Any]:
    """A modality's fields; numbers: D, how many an image has."""
    cls = base.locate(fields["kind"])
    kept = {n: x for n, x in fields.items() if n not in ("drop_rate", "null_rate")}
    kept["frame"] = "none"
    if not issubclass(cls, Coded):
        return kept
    scale, side = kept.pop("drift_scale"), kept.pop("code_side", 0)
    if not scale:
        kept["drift"], scale = NO_DRIFT, 1 / math.sqrt(numbers)
    recipe = {"family": "smooth" if side else "white", "side": side}
    return kept | {
        "energy": cls.energy_of(scale, fields, numbers),
        "codes": recipe | {"seed": 0, "version": 0},
        "measured": {},
    }
