"""Configs as they were stored, by checkpoints and exported models."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion import trust
from mt_diffusion.data.kinds import own
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import fields, translate
from mt_diffusion.modalities import build as base

FOLDER = "checkpoints"  # of a run, in its workdir


def stored_config(stored: Mapping[str, Any], origin: str) -> ConfigDict:
    """A config as it was stored, in the words of this version.

    origin: where it was stored. Raises UserError for one that names code which is
    neither this package's nor trusted, and has no say in what is downloaded.
    """
    base.check_trusted(stored.get("modalities", {}), origin)
    for field, module in own.named_code(stored.get("data", {})):
        trust.check(module, f"{field}, stored in {origin},")
    config = ConfigDict(translate.translated(dict(stored)))
    config.data.download = False  # only who asks for it now gets it
    return fields.of_this_version(config, f"the config in {origin}").lock()


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
