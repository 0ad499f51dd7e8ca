"""samples.csv: which output is of which input."""

import csv
import types

import numpy as np
import PIL.Image

from mt_diffusion.inference import table


class Word:
    """A variable that people see as a word."""

    def show(self, item):
        return ["ant", "a, b"][int(item)]


class Picture:
    """And one that they see as a picture."""

    def show(self, item):
        return item


def test_each_row_names_its_file_its_input_and_its_words(tmp_path):
    for i in (10, 9, 1):
        PIL.Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    values = {"image_b": np.zeros((3, 8, 8, 1)), "label": np.zeros((1, 2))}
    texts = [f"image_b={tmp_path}", "label=a, b"]
    inputs = table.inputs_of(texts, values)
    variables = {"image": Picture(), "image_b": Picture(), "label": Word()}
    experiment = types.SimpleNamespace(
        of=variables.__getitem__, primary=types.SimpleNamespace(name="image")
    )
    examples = {n: np.zeros((4, 8, 8, 1)) for n in ("image", "image_b")}
    examples["label"] = np.array([0, 1, 1, 0])
    table.write(tmp_path, examples, experiment, inputs, seed=7)
    text = (tmp_path / "samples.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    words = ["ant", "a-b", "a-b", "ant"]
    files = [f"samples/{i:05d}_{word}.png" for i, word in enumerate(words)]
    assert [row["file"] for row in rows] == files
    names = [row["input"].split("; ") for row in rows]
    assert [name[0] for name in names] == [f"{tmp_path}/{i}.png" for i in (1, 9, 10, 1)]
    assert {name[1] for name in names} == {"label=a, b"}
    assert [row["label"] for row in rows] == ["ant", "a, b", "a, b", "ant"]
    assert {row["seed"] for row in rows} == {"7"}


def test_of_several_values_each_row_names_its_own(tmp_path):
    """A line of a file of words, a class of a list, a place in a file of vectors."""
    words = tmp_path / "words.txt"
    words.write_text("red heart\nblue, cat\n")
    values = {"text": np.zeros((2, 5)), "label": np.zeros((3, 9))}
    values |= {"vector": np.zeros((2, 4)), "image": np.zeros((2, 8, 8, 1))}
    texts = [f"text={words}", 'label=ant,"a, b",cow', "vector=v.npy", "image=gone"]
    found = table.inputs_of([*texts, "absent="], values)
    assert found == {
        "text": ["text=red heart", "text=blue, cat"],
        "label": ["label=ant", "label=a, b", "label=cow"],
        "vector": ["vector=v.npy[0]", "vector=v.npy[1]"],
        "image": ["image=gone[0]", "image=gone[1]"],
    }
    one = {"text": np.zeros((1, 5))}
    assert table.inputs_of(["text=a cat, a hat"], one)["text"] == ["text=a cat, a hat"]
    words.write_text("only \x1b[2J line")
    assert table.inputs_of([f"text={words}"], one) == {
        "text": [r"text=only \x1b[2J line"]
    }
