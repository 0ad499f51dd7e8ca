"""The notebooks for Colab: clean in git, and executed here with tiny networks."""

import base64
import functools
import html
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import nbformat
import numpy as np
import PIL.Image
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from sklearn.datasets import load_digits

from mt_diffusion.inference.drawing.pictures import GIVEN

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "launch" / "colab"
NAMES = ("quickstart", "tpu")
EXECUTED = ["quickstart", pytest.param("tpu", marks=pytest.mark.wide)]
TINY = (
    "--config.train.num_steps=2 --config.train.batch_size=16 "
    "--config.unet.channel_mult=1, --config.unet.attention_resolutions=2, "
    "--config.watch.num_pictures=16 --config.sampling.num_steps=2"
)
SMALLER = {
    "quickstart": {"CONFIG": "configs/joint.py:smoke", "OPTIONS": TINY},
    "tpu": {
        "CONFIG": "configs/image_label.py:smoke",
        "OPTIONS": f"{TINY} --config.data.source=folder --config.data.path=",
        "PLATFORM": "cpu",
        "REQUIREMENTS": "requirements.txt",
        "PREPARE": "pip",  # which is there
        "EVALUATION": "--num_samples=32 --num_examples=0 --draws=joint",
    },
}
KEEP = """
import numpy as np

for name in ("threes", "named", "restored"):
    np.savez(f"{WORKDIR}/{name}.npz", **globals()[name])
"""
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
V5E = {"accelerator": "TPU", "colab": {"gpuType": "V5E1"}}  # the runtime Colab offers


def load(name):
    """A notebook, and its cells by their names."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    return notebook, {cell.id: cell for cell in notebook.cells}


def defaults(name):
    """{name: value} of the cell that asks for them."""
    found = {}
    exec(load(name)[1]["parameters"].source, found)
    return {key: value for key, value in found.items() if key.isupper()}


def given(**values):
    """A cell with these values, to stand after the one with the defaults."""
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    return nbformat.v4.new_code_cell("\n".join(lines))


def execute(cells, folder, env):
    """Runs cells in a kernel that starts in `folder`."""
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=KERNEL)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=where).execute(env=env)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """Of a person's shell: one device, this Python, a cache that is empty at first."""
    one = " --xla_force_host_platform_device_count=1"
    return os.environ | {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + one,
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # most of the time here is XLA's
        "PIP_NO_INDEX": "1",  # nothing is downloaded
    }


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder with ten real digits of each class, so that a judge learns quickly."""
    root, digits = tmp_path_factory.mktemp("few"), load_digits()
    for label in range(10):
        (root / str(label)).mkdir()
        for i in np.flatnonzero(digits.target == label)[:10]:
            image = PIL.Image.fromarray((digits.images[i] * 15).astype(np.uint8))
            image.save(root / str(label) / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def executed(tmp_path_factory, few, env):
    """From a name to that notebook's cells with their outputs, and its workdir."""

    @functools.cache
    def run(name):
        notebook, cells = load(name)
        workdir = tmp_path_factory.mktemp(name) / "run"
        values = SMALLER[name] | {"WORKDIR": str(workdir)}
        values["OPTIONS"] += str(few) if name == "tpu" else ""
        at = notebook.cells.index(cells["parameters"]) + 1
        notebook.cells.insert(at, given(**values))
        if name == "quickstart":
            notebook.cells.append(nbformat.v4.new_code_cell(KEEP))
        execute(notebook.cells, FOLDER, env)
        return cells, workdir

    return run


def text(cell):
    """What a cell printed."""
    return "".join(x.text for x in cell.outputs if x.output_type == "stream")


def shown(cell, kind):
    """What a cell showed of that kind."""
    data = [x.data for x in cell.outputs if "data" in x]
    return [found[kind] for found in data if kind in found]


def picture(cell):
    """The one picture that a cell showed, uint8 [H, W, 3]."""
    (png,) = shown(cell, "image/png")
    with PIL.Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image.convert("RGB"))


def marked(grid):
    """Whether anything has the colour of what was given; all else is grey."""
    assert GIVEN[0] - GIVEN[2] > 200 and grid.std() > 10
    return np.any(grid[..., 0] > grid[..., 2] + 100.0)


@pytest.mark.parametrize("name", NAMES)
def test_git_has_the_notebook_without_traces_of_a_run(name):
    notebook, cells = load(name)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    nbformat.validate(notebook)
    assert notebook.metadata == KERNEL | (V5E if name == "tpu" else {})
    assert len(cells) == len(notebook.cells)
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, cell.id
    canonical = nbformat.writes(notebook) + "\n"
    assert (FOLDER / f"{name}.ipynb").read_text() == canonical


@pytest.mark.parametrize("name", NAMES)
def test_a_person_gets_the_real_thing_and_the_tests_change_what_there_is(name):
    values = defaults(name)
    assert SMALLER[name].keys() | {"WORKDIR"} <= values.keys()
    assert "smoke" not in " ".join(values.values())
    assert "OWNER" in values["REPOSITORY"]  # no one's until it is filled in
    file, _, preset = values["CONFIG"].partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    assert module.get_config(*filter(None, [preset])).train.num_steps >= 4000
    assert (ROOT / values["REQUIREMENTS"]).exists()


def test_both_set_themselves_up_alike():
    one, other = (load(name)[1] for name in NAMES)
    assert all(one[x].source == other[x].source for x in ("project", "requirements"))


def test_small_convolutions_are_as_fast_as_in_the_launchers():
    source = load("quickstart")[1]["train"].source
    (flags,) = [x.split('"')[3] for x in source.splitlines() if "XLA_FLAGS" in x]
    assert f'flags="{flags}"' in (ROOT / "launch/setup.sh").read_text()


def test_the_tpu_notebook_wants_a_tpu_and_leaves_it_to_the_commands():
    values, cells = defaults("tpu"), load("tpu")[1]
    assert values["PLATFORM"] == "tpu" and "tpu" in values["REQUIREMENTS"]
    assert "--config.platform={PLATFORM}" in cells["train"].source
    code = [c.source for c in cells.values() if c.cell_type == "code"]
    own = [x for source in code for x in source.splitlines() if "!python" not in x]
    assert not [x for x in own if "jax" in x or "mt_diffusion" in x]


def test_without_the_platform_it_ends_at_once(env, tmp_path):
    cells = load("tpu")[1]
    start = [given(PLATFORM="absent"), nbformat.v4.new_code_cell("import os")]
    with pytest.raises(CellExecutionError, match="choose a runtime with a TPU"):
        execute([*start, cells["devices"]], tmp_path, env)


def test_the_quickstart_shows_what_it_draws(executed):
    cells, workdir = executed("quickstart")
    assert "done: 2 steps" in text(cells["train"])
    assert not marked(picture(cells["joint"]))
    for name in ("label", "image", "masked"):
        assert marked(picture(cells[name])), name
    threes, named, restored = (
        dict(np.load(workdir / f"{name}.npz"))
        for name in ("threes", "named", "restored")
    )
    assert set(threes["label"]) == {3} and len(threes["image"]) == 16
    np.testing.assert_array_equal(named["image"], threes["image"])
    assert named["label"].shape == (16,)
    with PIL.Image.open(workdir / "erased/0000.png") as image:
        pixels, seen = np.moveaxis(np.asarray(image), -1, 0)
    found = restored["image"][0, ..., 0]
    np.testing.assert_array_equal(found[seen > 0], pixels[seen > 0])


@pytest.mark.wide
def test_the_tpu_notebook_evaluates_what_it_trained(executed):
    cells, workdir = executed("tpu")
    assert "CpuDevice" in text(cells["devices"])
    assert "done: 2 steps" in text(cells["train"])
    assert not marked(picture(cells["joint"]))
    figures = json.loads((workdir / "evaluation/2/metrics.json").read_text())
    assert figures and "fid_convnet_32_cfg1.0" in text(cells["evaluate"])


@pytest.mark.parametrize("name", EXECUTED)
def test_the_report_is_seen_in_the_notebook(executed, name):
    cells, workdir = executed(name)
    page = (workdir / "report/index.html").read_text()
    (frame,) = shown(cells["report"], "text/html")
    assert html.escape(page) in frame and "eps" in page
    assert ("fid_" in page) == (name == "tpu")


@pytest.mark.parametrize("name", EXECUTED)
def test_in_a_copy_of_the_project_nothing_is_cloned_or_installed(executed, name):
    cells, _ = executed(name)
    assert text(cells["project"]) == f"project: {ROOT}\n"
    assert text(cells["requirements"]) == ""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository with the places of ours, that needs a package of its own."""
    root = tmp_path_factory.mktemp("repository")
    wheel = root / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "")
        about = "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n"
        file.writestr("tiny-1.dist-info/METADATA", about)
        kind = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        file.writestr("tiny-1.dist-info/WHEEL", kind)
        file.writestr("tiny-1.dist-info/RECORD", "")
    files = {
        "launch/colab/some.ipynb": "",
        "mt_diffusion/training/loop.py": "import tiny",
        "requirements.txt": f"./{wheel.name}",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    return root


def test_elsewhere_it_clones_once_and_installs_once(env, repository, tmp_path):
    cells = load("quickstart")[1]
    own = given(REPOSITORY=f"file://{repository}", REQUIREMENTS="requirements.txt")
    look = nbformat.v4.new_code_cell("!python -c 'import tiny; print(tiny.__file__)'")
    clone = tmp_path / "mt-diffusion"
    for again in (False, True):
        execute([own, cells["project"], cells["requirements"], look], tmp_path, env)
        assert f"project: {clone}" in text(cells["project"])
        assert ("Cloning" in text(cells["project"])) is not again
        assert text(look).startswith(str(clone / ".venv"))
        for wheel in clone.glob("*.whl"):
            wheel.unlink()  # to install it once more would fail


def test_a_clone_needs_an_owner_and_says_so(env, tmp_path):
    cells = load("quickstart")[1]
    with pytest.raises(CellExecutionError, match="where this project is hosted"):
        execute([cells["parameters"], cells["project"]], tmp_path, env)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_stops_the_notebook(env, tmp_path):
    cells = load("quickstart")[1]
    with pytest.raises(CellExecutionError, match="the message above is git's"):
        gone = given(REPOSITORY=f"file://{tmp_path}/nothing")
        execute([gone, cells["project"]], tmp_path, env)
