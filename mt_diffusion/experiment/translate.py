"""Configs of earlier versions, as stored in checkpoints, in the words of this one."""

import math
from collections.abc import Mapping
from typing import Any

from mt_diffusion.errors import UserError
from mt_diffusion.experiment.presence import ABSENT, INDEPENDENT, UNREAD
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities.kinds import Coded
from mt_diffusion.protocol import NO_DRIFT

VARIANCES = {0.0: "beta_tilde", 1.0: "beta"}  # fixed_variance -> variance
GENERATED = {1.0: "mean", 0.0: "absent"}  # generated_drift -> guess


def translated(config: dict[str, Any]) -> dict[str, Any]:
    """A stored config; one of an earlier version says the same anew.

    The programs that it describes are those of that time, to the bit.
    """
    earlier = with_walk(with_tokens(with_prediction(config)))
    earlier = with_optimizer(with_pictures(with_files(with_primary(earlier))))
    return with_levels(with_bare(with_mesh(earlier)))


def with_levels(config: dict[str, Any]) -> dict[str, Any]:
    """One from before schedules could be shifted, and errors weighed by a sigmoid."""
    return config | {
        "diffusion": {"shift": 0.0} | config["diffusion"],
        "objective": {"sigmoid_bias": 0.0} | config["objective"],
    }


def with_bare(config: dict[str, Any]) -> dict[str, Any]:
    """One from before heads were told what else is read, and learned most at last."""
    then = {"bare_of": "all", "last_power": 0.0}
    return config | {"objective": then | config["objective"]}


def with_optimizer(config: dict[str, Any]) -> dict[str, Any]:
    """One from before there was a second kind of optimizer."""
    return config | {"optimizer": {"kind": "adamw"} | config["optimizer"]}


def with_mesh(config: dict[str, Any]) -> dict[str, Any]:
    """One from before there was a choice of what devices send each other."""
    return config | {"mesh": {"gather": "step", "sum": "float32"} | config["mesh"]}


def with_pictures(config: dict[str, Any]) -> dict[str, Any]:
    """One from before training drew how its samples come about."""
    return config | {"watch": {"walk": False} | config["watch"]}


def with_primary(config: dict[str, Any]) -> dict[str, Any]:
    """One from before the primary variable had a name and a space of its own."""
    usual = {"name": "image", "space": {"kind": "pixels"}}
    return config | {"primary": usual | config.get("primary", {})}


def with_files(config: dict[str, Any]) -> dict[str, Any]:
    """One from before the data's files were kept account of; version 0 reads them."""
    data = config["data"]
    version = 0 if data["source"] == "folder" else 1
    added: dict[str, Any] = {"version": version, "splits": ""}
    added |= {
        "latents": "",
        "options": {},
        "num_workers": 0,
        "captions": "",
        "prepared_by": "",
    }
    added |= {"image_column": "", "label_column": "", "other_columns": ()}
    added |= {"class_names": (), "found": {}, "broken": "stop", "changed": "refuse"}
    return config | {"data": added | data}


def with_walk(config: dict[str, Any]) -> dict[str, Any]:
    """One from before times and variances had names, which stay what they were."""
    added = {"resample": 1, "autoguidance": 1.0, "guide": ""}
    added |= {"spacing": "even", "correction": "none"}
    kept = added | config["sampling"]
    place = kept.pop("fixed_variance", None)
    if place is None:
        return config | {"sampling": kept}
    if place not in VARIANCES:
        raise UserError(
            f"the checkpoint's config.sampling.fixed_variance is {place}; this version "
            f"has only {' and '.join(f'{p:g}' for p in VARIANCES)}."
        )
    return config | {"sampling": kept | {"variance": VARIANCES[place]}}


def with_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """One from before there were recipes of tokens, which had no places then."""
    return config | {
        "unet": {"token_places": False, "transformer_depth": 0, "patch": 1}
        | config["unet"],
        "modalities": {
            name: with_recipe(fields) for name, fields in config["modalities"].items()
        },
    }


def with_recipe(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A modality's fields, with the recipe of what was of one size alone.

    And with fields that its class did not have then.
    """
    kept = base.with_added(fields)
    if "token_size" in kept and issubclass(base.locate(kept["kind"]), Coded):
        kept["tokens"] = {"size": kept.pop("token_size"), "seed": 0, "version": 0}
    return kept


def with_prediction(config: dict[str, Any]) -> dict[str, Any]:
    """One from before there were predictions.

    Such models predict eps, look at all of z_t, and have white or smooth codes.
    """
    if "prediction" in config["diffusion"]:
        return config
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
