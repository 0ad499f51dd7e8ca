"""Links that a stranger laid in a run's folder: nothing outside of it is written."""

import pathlib

import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.files import writing
from mt_diffusion.inference import sampling
from mt_diffusion.report import report
from mt_diffusion.training import watch

LINE = '{"step": 1, "loss": 2.0}\n'


@pytest.fixture
def victim(tmp_path):
    """A folder beside the run, which must stay as it is."""
    folder = tmp_path / "victim"
    (folder / "1").mkdir(parents=True)
    (folder / "file").write_text("mine")
    yield folder
    assert sorted(folder.rglob("*")) == [folder / "1", folder / "file"]
    assert (folder / "file").read_text() == "mine"


@pytest.fixture
def run(tmp_path):
    """A run's folder that has logged something."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / watch.METRICS).write_text(LINE)
    return tmp_path / "run"


FILES = {
    "text": lambda path: writing.text(path, "theirs"),
    "json": lambda path: writing.as_json(path, {"a": 1}),
    "arrays": lambda path: writing.arrays(path, {"x": np.zeros(3)}),
    "image": lambda path: writing.image(path, PIL.Image.new("L", (2, 2))),
}


@pytest.mark.parametrize("kind", FILES)
def test_links_in_the_place_of_a_file_or_its_draft_are_not_followed(run, victim, kind):
    path = run / "index.html"
    for name in ("index.html", "index.draft", "index.html.draft", ".index.draft"):
        (run / name).symlink_to(victim / "file")
    (run / "dangling.html").symlink_to(victim / "new")
    for name in ("index.html", "dangling.html"):
        FILES[kind](run / name)
        assert (run / name).is_file() and not (run / name).is_symlink()
    assert not [p for p in run.iterdir() if p.name not in before(run, path)]


def before(run, path):
    """Names that the test itself has made."""
    made = {"index.draft", "index.html.draft", ".index.draft", "dangling.html"}
    return made | {path.name, watch.METRICS}


def test_a_draft_is_new_and_can_not_be_foretold(tmp_path):
    names = set()
    for _ in range(3):
        with writing.draft_of(tmp_path / "a.json") as draft:
            names.add(draft.name)
            assert draft.parent == tmp_path and draft.read_bytes() == b""
    assert len(names) == 3 and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_are_as_readable_as_the_user_says(tmp_path):
    (tmp_path / "plain").touch()
    writing.text(tmp_path / "a.json", "{}")
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "a.json")}
    assert len(modes) == 1


def pick(run):
    return sampling.make_folder(None, run)


FOLDERS = {
    "generated": pick,
    "report": report.write,
    "samples": lambda run: watch.Watch(run, 0, common.digits()),
    "metrics.jsonl": lambda run: watch.Watch(run, 0, common.digits()),
    "checkpoints": lambda run: Checkpoints(run, keep=1),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("target", ["", "new"])
def test_folders_that_lead_out_of_the_run_are_refused(run, victim, name, target):
    is_file = "." in name
    (run / name).unlink(missing_ok=True)
    place = victim / ("new" if target else "file" if is_file else "")
    (run / name).symlink_to(place)
    if name == "report":
        (run / watch.METRICS).write_text(LINE)
    with pytest.raises(
        UserError, match=rf"{name}.* would be written to {victim}.*link"
    ):
        FOLDERS[name](run)


def test_a_given_folder_may_be_a_link_but_not_lead_elsewhere(tmp_path, victim):
    (tmp_path / "real").mkdir()
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "real")
    assert sampling.make_folder(out, tmp_path / "run") == out
    (out / "samples").rmdir()
    (out / "samples").symlink_to(victim)
    with pytest.raises(UserError, match="samples would be written to"):
        sampling.make_folder(out, tmp_path / "run")


def test_a_broken_checkpoint_is_not_moved_out_of_the_run(run, victim):
    checkpoints = Checkpoints(run, keep=1)
    checkpoints.save(1, {"params": {"x": np.zeros(1)}}, ConfigDict({}))
    checkpoints.close()
    (run / "broken_checkpoints").symlink_to(victim)
    with pytest.raises(UserError, match="broken_checkpoints would be written to"):
        Checkpoints(run, keep=1).set_aside(1)
    assert pathlib.Path(run / "checkpoints" / "1").is_dir()
