"""samples.csv: which output is of which input."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import finding, writing
from mt_diffusion.files.names import shown

FILE = "samples.csv"


def inputs_of(
    texts: Sequence[str], values: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """{variable: what says where each value is from} of texts NAME=VALUE.

    The file of an image; else the text itself.
    """
    inputs = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in values:  # it was said to be absent
            continue
        is_there = pathlib.Path(value).expanduser().exists()
        paths = finding.image_files(value) if is_there else []
        num = len(values[name])
        named = map(shown, paths if len(paths) == num else [text] * num)
        inputs[name] = list(named)
    return inputs


def write_nearest(
    path: pathlib.Path,
    files: Sequence[str],
    found: Sequence[Sequence[tuple[str, float]]],
) -> None:
    """The texts nearest to what is read of each file, with their cosines."""
    with (
        writing.draft_of(path) as draft,
        open(draft, "w", newline="", encoding="utf8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["input", "rank", "text", "cosine"])
        for name, texts in zip(files, found, strict=True):
            for rank, (text, cosine) in enumerate(texts, 1):
                rows.writerow([name, rank, shown(text), f"{cosine:.4f}"])


def write(
    folder: pathlib.Path,
    examples: Mapping[str, np.ndarray],
    experiment: Experiment,
    inputs: Mapping[str, Sequence[str]],
    seed: int,
) -> None:
    """A row for each example: its file, what it was made of, its words, the seed."""
    words: dict[str, list] = {}
    for name, values in examples.items():
        told = [experiment.of(name).show(value) for value in values]
        words |= {name: told} if all(isinstance(word, str) for word in told) else {}
    with (
        writing.draft_of(folder / FILE) as draft,
        open(draft, "w", newline="", encoding="utf8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["file", "input", *words, "seed"])
        for i in range(len(examples[experiment.primary.name])):
            given = "; ".join(texts[i % len(texts)] for texts in inputs.values())
            row = [told[i] for told in words.values()]
            rows.writerow([f"samples/{i:05d}.png", given, *row, seed])
