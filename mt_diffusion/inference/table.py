"""samples.csv: which output is of which input."""

import csv
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import captions, finding, writing
from mt_diffusion.files.names import shown

FILE = "samples.csv"
LONGEST = 40  # letters of the words in the name of a file


def inputs_of(
    texts: Sequence[str], values: Mapping[str, np.ndarray]
) -> dict[str, list[str]]:
    """{variable: what says where each value is from} of texts NAME=VALUE.

    The file of an image, a line of a file of words, one of several classes; a place in
    another file.
    """
    inputs = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in values:  # else it was said to be absent
            inputs[name] = list(map(shown, _each(name, value, values[name])))
    return inputs


def _each(name: str, value: str, found: np.ndarray) -> Sequence[str | pathlib.Path]:
    """As many texts as there are values in what was found."""
    path, num = pathlib.Path(value).expanduser(), len(found)
    if found.ndim == 4 and path.exists():  # words may be called as a folder is
        files = finding.image_files(value)
        return files if len(files) == num else [f"{name}={value}"] * num
    is_list = captions.is_list(path) and path.is_file()
    several = captions.lines(path) if is_list else _listed(value)
    if len(several) == num:
        return [f"{name}={one}" for one in several]
    places = [f"[{i}]" for i in range(num)] if num > 1 else [""]
    return [f"{name}={value}{place}" for place in places]


def _listed(text: str) -> list[str]:
    """What stands between commas, as labels are given."""
    try:
        (found,) = csv.reader([text], skipinitialspace=True)
    except (csv.Error, ValueError):
        found = [text]
    return found


def words_of(
    examples: Mapping[str, np.ndarray], experiment: Experiment
) -> dict[str, list[str]]:
    """{variable: the word of each example}, of those that people see as words."""
    found = {}
    for name, values in examples.items():
        show = experiment.of(name).show
        if isinstance(show(values[0]), str):  # else pictures, and none is drawn here
            found[name] = [str(show(value)) for value in values]
    return found


def tell(
    examples: Mapping[str, np.ndarray], experiment: Experiment, given: Collection[str]
) -> None:
    """Prints the words that were found where an image is given: what was read of it."""
    if experiment.primary.name in given:
        for name, words in words_of(examples, experiment).items():
            if name not in given and any(words):
                print(f"{name}: {', '.join(words)}")


def files_of(examples: Mapping[str, np.ndarray], experiment: Experiment) -> list[str]:
    """The name of each example's picture: its number, and its words, as 00003_cat."""
    num = len(examples[experiment.primary.name])
    return _files(words_of(examples, experiment), num)


def _files(words: Mapping[str, Sequence[str]], num: int) -> list[str]:
    files = []
    for i in range(num):
        told = "_".join(re.sub(r"\W+", "-", x[i]).strip("-") for x in words.values())
        files.append(f"{i:05d}_{told[:LONGEST]}".rstrip("_-") + ".png")
    return files


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
    words = words_of(examples, experiment)
    files = _files(words, len(examples[experiment.primary.name]))
    with (
        writing.draft_of(folder / FILE) as draft,
        open(draft, "w", newline="", encoding="utf8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["file", "input", *words, "seed"])
        for i, name in enumerate(files):
            given = "; ".join(texts[i % len(texts)] for texts in inputs.values())
            row = [told[i] for told in words.values()]
            rows.writerow([f"samples/{name}", given, *row, seed])
