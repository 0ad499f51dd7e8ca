"""Draws as pictures: a grid, PNG files, and what training images are near."""

import pathlib
from typing import Any

from mt_diffusion.evaluation import quality
from mt_diffusion.evaluation.draws import Drawn
from mt_diffusion.evaluation.real import Real
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import writing
from mt_diffusion.inference import table
from mt_diffusion.inference.drawing import pictures

NUM_NEIGHBOURS = 3  # in the picture, of 16 samples


def show(drawn: Drawn, experiment: Experiment, folder: pathlib.Path) -> None:
    """The first 64 examples as a grid, and their images as PNG files."""
    primary = experiment.primary
    truth = primary.postprocess(drawn.truth[primary.name])
    model, given = (experiment.variables, primary), drawn.draw.given
    grid = pictures.restored(drawn.made, *model, given, len(truth), truth)
    writing.image(folder / "grid.png", grid)
    writing.make_folder(folder / "samples", f"the folder {folder}", folder.parent)
    first = {n: values[: pictures.MOST_TILES] for n, values in drawn.made.items()}
    files = table.files_of(first, experiment)
    for file, image in zip(files, first[experiment.primary.name], strict=True):
        writing.image(folder / "samples" / file, pictures.to_image(image))


def neighbours(drawn: Drawn, real: Real) -> Any:
    """16 samples, each beside the training images nearest to it in features."""
    primary = real.experiment.primary
    made = drawn.made[primary.name][:16]
    queries = real.features(made, "neighbours").pooled
    _, rows = quality.neighbours(queries, real.train_features, NUM_NEIGHBOURS)
    near = real.train_images[rows]
    shown = {"sample": made} | {
        f"nearest {k + 1}": near[:, k] for k in range(NUM_NEIGHBOURS)
    }
    return pictures.grid(shown, dict.fromkeys(shown, primary))
