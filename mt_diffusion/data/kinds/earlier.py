"""The rules of version 0, by which earlier runs found and split a folder."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.data import splits
from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import shown

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


def split_folders(root: pathlib.Path, config: ConfigDict) -> dict[str, pathlib.Path]:
    """Folders train and test (or val, validation), in small letters; else root."""
    if not (root / "train").is_dir():
        return {"train": root, "test": root}
    for name in ("test", "val", "validation"):
        if (root / name).is_dir():
            return {"train": root / "train", "test": root / name}
    raise UserError(
        f"{shown(root)} has a folder train, but none named test or val; add one, or "
        "point --config.data.path to the folder that holds the classes."
    )


def find(root: pathlib.Path) -> finding.Found:
    """Images of the suffixes of that time, sorted by letters, none behind links."""
    images = sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    )
    return finding.Found(images, {})


def class_names(
    roots: Mapping[str, pathlib.Path], parts: Mapping[str, Sequence[Any]]
) -> list[str]:
    """Sub-folders with images, sorted by letters."""
    return sorted({e.name for part in parts.values() for e in part if e.name})


def held_out(examples: Sequence[Any], split: str) -> np.ndarray:
    """Indices of the 'train' or 'test' part, which another file would change."""
    return splits.holdout(len(examples), split)
