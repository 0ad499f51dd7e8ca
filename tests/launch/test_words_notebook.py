"""The notebook that draws from words by a model that is there already."""

import nbformat
import numpy as np
import PIL.Image
import pytest
from nbclient.exceptions import CellExecutionError

import mt_diffusion
from configs import text
from tests.launch.test_notebooks import (
    FOLDER,
    KERNEL,
    defaults,
    env,  # noqa: F401
    execute,
    given,
    load,
    marked,
    picture,
)

NAME = "words"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A workdir with a model of digits and their names, of one step."""
    config, workdir = text.get_config("smoke"), tmp_path_factory.mktemp("model")
    config.unet.update(channel_mult=(1,), attention_resolutions=(2,))
    config.train.update(num_steps=1, batch_size=16)
    config.watch.update(sample_every=0)
    mt_diffusion.train(config, workdir)
    return workdir


def test_git_has_the_notebook_without_traces_of_a_run():
    notebook, cells = load(NAME)
    nbformat.validate(notebook)
    assert notebook.metadata == KERNEL and len(cells) == len(notebook.cells)
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id
    canonical = nbformat.writes(notebook) + "\n"
    assert (FOLDER / f"{NAME}.ipynb").read_text() == canonical
    quick = load("quickstart")[1]
    for name in ("project", "requirements"):
        assert cells[name].source == quick[name].source


def test_it_draws_each_line_so_many_times(model, env, tmp_path):  # noqa: F811
    notebook, cells = load(NAME)
    values = {
        "REQUIREMENTS": "requirements.txt",
        "MODEL": str(model),
        "WORDS": "text",
        "ENCODER": "letters",
        "PROMPTS": "three; four ;",
        "EACH": "2",
        "OUT": str(tmp_path / "drawn"),
        "OPTIONS": "--steps=2",
    }
    assert values.keys() <= defaults(NAME).keys()
    at = notebook.cells.index(cells["parameters"]) + 1
    notebook.cells.insert(at, given(**values))
    execute(notebook.cells, FOLDER, env)
    words = (tmp_path / "drawn/words.txt").read_text()
    assert words == "three\nthree\nfour\nfour\n"
    made = np.load(tmp_path / "drawn/samples.npz")["image"]
    assert made.shape == (4, 8, 8, 1)
    with PIL.Image.open(tmp_path / "drawn/grid.png") as grid:
        np.testing.assert_array_equal(
            np.asarray(grid.convert("RGB")), picture(cells["show"])
        )
    assert marked(picture(cells["show"]))  # the words that were given


@pytest.mark.wide
def test_without_the_folder_it_says_so(env, tmp_path):  # noqa: F811
    cells = load(NAME)[1]
    start = [given(MODEL=str(tmp_path / "none"), DRIVE="")]
    with pytest.raises(CellExecutionError, match="write above, as MODEL"):
        execute([*start, cells["drive"]], tmp_path, env)
