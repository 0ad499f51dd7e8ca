"""Data sources with random access: source[i] -> {feature: array}.

The feature 'image' is uint8 [H, W, C]; `pairs` adds a second one, 'pair'.

A source is a class that `open_source` finds by its name in the config, one file in
`kinds/`, or a user's own; it has a length, an item, and the names of its classes; where
it has any, also the `labels` of all examples, so that these can be counted without
their images. It may have `facts`, what people are told of it, and a `digest` of what it
holds.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import changed, classes, latents, pairs, policy, views
from mt_diffusion.data.kinds import own
from mt_diffusion.data.kinds.digits import Digits
from mt_diffusion.data.kinds.folders import Folder
from mt_diffusion.data.kinds.tables import Tables
from mt_diffusion.data.kinds.tars import Tars
from mt_diffusion.data.kinds.tfds import Tfds
from mt_diffusion.errors import UserError

CLASS = classes.CLASS


class Source(Protocol):
    """Random access to examples."""

    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict: ...


BY_NAME = {"digits": Digits, "tfds": Tfds, "folder": Folder, "tar": Tars, "hf": Tables}


def open_source(config: ConfigDict, split: str) -> Source:
    """The 'train' or 'test' part of config.data; UserError for what is not there."""
    kind = own.Own if own.is_one(config.source) else BY_NAME.get(config.source)
    if kind is None:
        raise UserError(
            f"config.data.source is {config.source!r}; choose one of {list(BY_NAME)}, "
            "or name a class of your own, package.module.Class."
        )
    policy.check(config)
    pairs.check(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TFDS, about its optional dependencies
        source = kind(config, split)
    changed.check(config, split, source)
    labels = functools.partial(read_labels, source)
    refused = getattr(source, "refused", [])
    told = views.captioned(pairs.add(source, config), config, source, split)
    found = latents.attach(views.of(told, config, split, labels), config, split)
    return policy.of(found, config, refused)


def read_labels(source: Any) -> np.ndarray:
    """The class of each example, int [N], -1 where there is none."""
    if not source.class_names:
        return np.full(len(source), -1)
    return np.asarray(source.labels)
