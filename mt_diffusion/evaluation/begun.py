"""The folder of an evaluation: begun once, gone on with by the same settings alone."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation.draws import Draw
from mt_diffusion.experiment.fields import flatten
from mt_diffusion.files import paths, writing
from mt_diffusion.inference import parts


def cache_folder(
    root: pathlib.Path, out: pathlib.Path | None, what: str
) -> pathlib.Path:
    """Where the reference is kept: `root`; `out` where that can't be written to."""
    try:
        writing.make_folder(root, what, root.parent)
    except UserError:
        if out is None:
            raise
        return out
    return root


def claim(
    out: pathlib.Path, manifest: Mapping[str, Any], draws: Sequence[Draw]
) -> None:
    """Says in `out` how it is made; UserError where it was begun in another way.

    Where that can't be read any more, its samples are not used.
    """
    path = out / "manifest.json"
    try:
        there = flatten(json.loads(path.read_bytes()))
    except FileNotFoundError:
        there = {}
    except (ValueError, AttributeError) as error:
        there = {}
        print(f"{path} is broken ({error}), so what lies beside it is made again")
        for draw in draws:
            (out / draw.name / "samples.npz").unlink(missing_ok=True)
            paths.remove(out / draw.name / parts.FOLDER)
    now = flatten(manifest)
    differences = [
        f"{name} ({there.get(name)} there, {now.get(name)} now)"
        for name in sorted(there.keys() | now.keys() if there else ())
        if there.get(name) != now.get(name)
    ]
    if differences:
        raise UserError(
            f"{out} holds an evaluation with other settings: {', '.join(differences)}. "
            "Name another folder with --out, or remove that one."
        )
    writing.as_json(path, manifest)
