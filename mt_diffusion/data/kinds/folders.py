"""A folder of images: what is in it, its classes, its training and test part."""

import pathlib

from ml_collections import ConfigDict

from mt_diffusion.data import splits
from mt_diffusion.data.kinds import earlier
from mt_diffusion.data.kinds.listed import LOOSE, Example, Listed
from mt_diffusion.data.prepared import maker
from mt_diffusion.errors import UserError
from mt_diffusion.files import finding
from mt_diffusion.files.names import same, shown

RULES = {0: earlier, 1: splits}  # by config.version


class Folder(Listed):
    """A folder of images with one sub-folder per class, of any size, RGB or grey.

    Pairs of images need no classes.
    """

    def __init__(self, config: ConfigDict, split: str):
        """Reads path, splits, version, class_names, found and broken.

        Raises UserError for a folder without images, or with broken ones.
        """
        root = pathlib.Path(config.path).expanduser()
        if not config.path or not root.is_dir():
            raise UserError(
                f"config.data.path = {shown(repr(config.path))} is no folder."
                f"{maker.said(config)}"
            )
        if config.version not in RULES:
            raise UserError(
                f"config.data.version is {config.version}; choose one of {list(RULES)}."
            )
        rules = RULES[config.version]
        roots = rules.split_folders(root, config)
        found = {folder: rules.find(folder) for folder in dict.fromkeys(roots.values())}
        for folder, files_there in found.items():
            check_any(folder, files_there)
        listed = {folder: examples_in(folder, x) for folder, x in found.items()}
        parts = {part: listed[folder] for part, folder in roots.items()}
        if not config.pair:
            check_no_loose(roots, parts)
        names = rules.class_names(roots, parts)
        told = {"of": shown(root)} | facts(roots, found)
        super().__init__(config, split, parts, names, told, rules.held_out)


def examples_in(root: pathlib.Path, found: finding.Found) -> list[Example]:
    """The images found below a folder; LOOSE is the class of those in itself."""
    examples = []
    for path in found.images:
        place = path.relative_to(root)
        name = same(place.parts[0]) if len(place.parts) > 1 else LOOSE
        below = "/".join(place.parts[1:] if name else place.parts)
        examples.append(Example(path, name, place, below))
    return examples


def check_any(folder: pathlib.Path, found: finding.Found) -> None:
    """Raises UserError for a folder without images."""
    if not found.images:
        raise UserError(
            f"there is no image in the folder {shown(folder)} ({found}); "
            f"{finding.AN_IMAGE}"
        )


def check_no_loose(
    roots: dict[str, pathlib.Path], parts: dict[str, list[Example]]
) -> None:
    """Raises UserError for images that lie in no class."""
    for part, examples in parts.items():
        if loose := [e.path for e in examples if e.name == LOOSE]:
            more = f" (and {len(loose) - 1:,} more)" if len(loose) > 1 else ""
            raise UserError(
                f"{shown(loose[0])} lies directly in {shown(roots[part])}{more}; "
                "put the images of each class into a sub-folder of their own (a single "
                "one, if there are no classes)."
            )


def facts(
    roots: dict[str, pathlib.Path], found: dict[pathlib.Path, finding.Found]
) -> dict[str, str]:
    """What was found in a folder, and what its splits are, in words."""
    if len(found) == 1:
        said = str(next(iter(found.values())))
        return {"files": said, "split": f"one in {splits.HOLDOUT} for testing"}
    said = "; ".join(f"in {shown(f.name)} {x}" for f, x in found.items())
    split = "folders " + " and ".join(shown(roots[p].name) for p in roots)
    return {"files": said, "split": split + splits.besides(roots)}
