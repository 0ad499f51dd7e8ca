"""What others get to see of a model: nothing of this machine, no words of its data."""

import copy
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.data import views
from mt_diffusion.data.prepared import emoji
from mt_diffusion.experiment import fields
from mt_diffusion.files import writing
from mt_diffusion.modalities import build as base
from mt_diffusion.models import sentences

PLACES = {  # fields that name files of a machine; what they are where they name none
    "init_from": "",
    "data.data_dir": "",
    "data.path": "",
    "data.pair_path": "",
    "data.vectors": "",
    "data.latents": "",
    "data.options": ConfigDict(),  # of code that others have not
    "data.captions": "",
    "sampling.guide": "",
    "sampling.autoguidance": 1.0,  # which is nothing without a guide
}
GUIDE = "WORKDIR"  # in a command, for one that lies here


def config_of(config: ConfigDict, with_captions: bool) -> ConfigDict:
    """A config without paths of this machine; says what it leaves out.

    An encoder is called by its package, or by its digest. with_captions: whether those
    of the training set go along, which they do without if all can read them.
    """
    kept = config.copy_and_resolve_references().unlock()
    keeps_words = with_captions or are_public(config.data)
    for name, section in kept.modalities.items():
        cls = base.locate(section.kind)
        for field, digest in cls.encoders.items():
            told = sentences.public(section[field], section[digest])
            if told != section[field]:
                section[field] = told
                print(f"left out: where config.modalities.{name}.{field} is; {told}")
        for field in () if keeps_words else cls.words:
            if num := len(section[field]):
                section[field] = ()
                print(
                    f"left out: config.modalities.{name}.{field}, {num:,} texts of the "
                    "training data; --with_captions takes them along"
                )
    for field, nothing in PLACES.items():
        part, name = section_of(kept, field)
        is_words = field == "data.captions" and part[name] == views.OF_CLASSES
        if part[name] != nothing and not is_words:
            print(f"left out: config.{field}, which is of this machine")
            part[name] = nothing
    for field in suspects(kept):
        print(f"look at config.{field}, which stays and looks like a path")
    return kept.lock()


def section_of(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    """The section that a field is in, and its name there."""
    section, _, name = field.rpartition(".")
    return (config[section] if section else config), name


def are_public(data: ConfigDict) -> bool:
    """Whether the captions of config.data are known to be for all to read.

    Names of classes, which a model of labels has as well; Unicode's names of emoji.
    """
    if not data.captions or data.captions == views.OF_CLASSES:
        return data.captions == views.OF_CLASSES
    place = pathlib.Path(data.captions).expanduser().resolve()
    return place.is_relative_to(writing.user_cache(emoji.NAME).resolve())


def suspects(config: ConfigDict) -> list[str]:
    """Fields of code of one's own, above all, whose text begins as a path does."""
    found = fields.flatten(config)
    begins = ("/", "~", "./", "../", "file:")
    return [n for n, x in found.items() if isinstance(x, str) and x.startswith(begins)]


def evaluation_of(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A metrics.json without the place of a guide."""
    if evaluation is None:
        return None
    found = copy.deepcopy(dict(evaluation))
    sampling = found["manifest"].get("sampling", {})
    if sampling.get("guide"):
        sampling["guide"] = GUIDE
    return found
