"""A source of a user's own: what it must have, and what is said where it has not."""

import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import mt_diffusion
from configs import from_run, image_label
from mt_diffusion import trust
from mt_diffusion.data import changed, checking, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.report import record
from mt_diffusion.training import init_from

MODULE = """
import pathlib
import threading
import numpy as np

pathlib.Path(__file__).with_name("ran").touch()

class Levels:
    # Twelve images of one level each; label i % 3.
    class_names = ["a", "b", "c"]
    NUM = {"train": 12, "test": 5}

    def __init__(self, config, split):
        self.num, self.step = self.NUM[split], config.options.get("step", 10)

    def __len__(self):
        return self.num

    def __getitem__(self, i):
        image = np.full((9, 7, 1), self.step * i, np.uint8)
        return {"image": image, "label": i % 3, "vector": np.ones(4, np.float32)}

class Labelled(Levels):
    @property
    def labels(self):
        return [i % 3 for i in range(self.num)]

class NoClasses(Levels):
    class_names = ()
    def __getitem__(self, i):
        return {"image": super().__getitem__(i)["image"]}

class Init(Levels):
    def __init__(self, config, split):
        raise KeyError("no table")

class Item(Levels):
    def __getitem__(self, i):
        return super().__getitem__(1 // (i - 4) and i)

class Late(Levels):
    def __getitem__(self, i):
        if i == 11:
            raise OSError("gone")
        return super().__getitem__(i)

class Floats(Levels):
    def __getitem__(self, i):
        return {"image": np.zeros((8, 8, 1))}

class Flat(Levels):
    def __getitem__(self, i):
        return {"image": np.zeros((8, 8), np.uint8)}

class Tuples(Levels):
    def __getitem__(self, i):
        return np.zeros((8, 8, 1), np.uint8), 0

class Range(Levels):
    def __getitem__(self, i):
        return super().__getitem__(i) | {"label": i}

class Half(Levels):
    def __getitem__(self, i):
        return super().__getitem__(i) | {"label": 0.5}

class Ragged(Levels):
    def __getitem__(self, i):
        return super().__getitem__(i) | {"vector": np.ones(4 + i % 2)}

class Nothing(Levels):
    NUM = {"train": 0, "test": 0}

class Grown(Levels):
    NUM = {"train": 13, "test": 5}

class Twice(Levels):
    class_names = ["a", "b", "a"]

class Nameless(Levels):
    @property
    def class_names(self):
        raise AttributeError("class_names")

class Short(Levels):
    labels = [0, 1]

class Locked(Levels):
    def __init__(self, config, split):
        super().__init__(config, split)
        self.lock = threading.Lock()

def function():
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's package, and what says whether its code has run."""
    folder = tmp_path / "their_own"
    folder.mkdir()
    (folder / "table.py").write_text(MODULE)
    (folder / "broken.py").write_text("import json\njson.loads('{')\n")
    (folder / "lacking.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trust, "_trusted", {trust.PACKAGE})
    yield folder / "ran"
    for name in [m for m in sys.modules if m.split(".")[0] == "their_own"]:
        del sys.modules[name]


def config_of(name="Levels", **fields):
    config = image_label.get_config("smoke")
    config.data.update({"source": f"their_own.table.{name}"} | fields)
    return config


def open_both(name="Levels", **fields):
    data = config_of(name, **fields).data
    return [sources.open_source(data, split) for split in ("train", "test")]


def test_it_is_a_source_like_any_other(module):
    train, test = open_both(pair="half", keep={"label": 0.5})
    assert (len(train), len(test)) == (12, 5)
    assert train.class_names == ["a", "b", "c"]
    assert [test[i]["label"] for i in range(5)] == [0, 1, 2, 0, 1]
    for i in range(12):
        example = train[i]
        assert example["image"].shape == example["pair"].shape == (8, 8, 1)
        assert np.all(example["image"] == 10 * i)
    assert sum("label" in train[i] for i in range(12)) == 6
    assert "vector" in train[0]


def test_options_reach_it_and_classes_go_by_name(module):
    train, _ = open_both(options={"step": 3}, class_names=("c", "x", "a", "b"))
    assert np.all(train[5]["image"] == 15)
    assert [train[i]["label"] for i in range(3)] == [2, 3, 0]
    assert sources.read_labels(train).tolist()[:3] == [2, 3, 0]
    with_labels, _ = open_both("Labelled", class_names=("c", "a", "b"))
    assert sources.read_labels(with_labels).tolist()[:3] == [1, 2, 0]
    assert with_labels.facts["classes"] == "0 c (4), 1 a (4), 2 b (4)"


def test_classes_may_be_none(module):
    train, _ = open_both("NoClasses")
    assert train.class_names == [] and "label" not in train[0]


@pytest.mark.parametrize(
    "name, said",
    [
        ("Init", "train split: KeyError: 'no table' .*table.py, line 3.*"),
        ("Item", r"at \[4\]: ZeroDivisionError: .*table.py, line "),
        ("Floats", r"at \[0\] has as its image float64 \[8, 8, 1\]; it must be uint8"),
        ("Flat", r"at \[0\] has as its image uint8 \[8, 8\]; it must be"),
        ("Tuples", "is a tuple; it must be a dict with an 'image'"),
        ("Range", r"at \[3\] has the label 3, but it has 3 class_names"),
        ("Half", "its label a float; it must be a whole number"),
        ("Ragged", r"vector float64 \(4,\) at \[0\], but float64 \(5,\) at \[1\]"),
        ("Nothing", "has no train example"),
        ("Twice", "class_names .'a', 'b', 'a'.; they must be texts"),
        ("Nameless", "AttributeError: class_names"),
        ("Short", "has 2 labels; there must be one for each of its 12"),
        ("function", "has no class function with a length"),
        ("Missing", "has no class Missing"),
    ],
)
def test_what_is_no_source_is_refused_before_anything_starts(module, name, said):
    with pytest.raises(UserError, match=said) as refused:
        open_both(name)
    assert f"their_own.table.{name}'" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "source, said",
    [
        ("their_own.tabel.Levels", "there is no module 'their_own.tabel'"),
        ("their_own.lacking.X", "there is no module 'no_such_package'"),
        ("their_own.broken.X", "can't be imported: JSONDecodeError"),
        ("..x", "names no class"),
        ("a b.C", "names no class"),
    ],
)
def test_what_can_not_be_imported_is_named(module, source, said):
    with pytest.raises(UserError, match=said):
        open_both(source=source)


def test_what_workers_can_not_have_is_said_at_once(module):
    open_both("Locked")
    open_both("Levels", num_workers=2)
    with pytest.raises(UserError, match="num_workers = 2 wants it"):
        open_both("Locked", num_workers=2)


def test_an_example_that_breaks_later_is_skipped_or_stops(module, capsys):
    train, _ = open_both("Late")
    with pytest.raises(UserError, match=r"at \[11\]: OSError: gone .*line "):
        train[11]
    skipping, _ = open_both("Late", broken="skip")
    assert np.all(skipping[11]["image"] == 0)
    with pytest.raises(UserError, match="1 examples can't be used"):
        checking.check(config_of("Late").data)
    assert r"at [11]: OSError: gone" in capsys.readouterr().out


def test_a_run_knows_how_many_examples_there_were(module):
    run = changed.recorded(config_of(), *open_both())
    sources.open_source(run.data, "train")
    run.data.source = "their_own.table.Grown"
    with pytest.raises(UserError, match="train examples are not those.*12 there, 13"):
        sources.open_source(run.data, "train")


def test_a_stored_run_imports_nothing_unless_it_is_trusted(module, tmp_path):
    config = config_of()
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    checkpoints.save(1, {"ema_params": {"params": jnp.zeros(1)}}, config)
    checkpoints.close()
    ways = [mt_diffusion.load, init_from.from_workdir, record.read_checkpoint]
    ways.append(lambda workdir: from_run.get_config(str(workdir)))
    for way in ways:
        with pytest.raises((UserError, ValueError)) as refused:
            way(tmp_path / "run")
        said = "config.data.source, stored in .* names code of .*trust=their_own.table"
        assert re.search(said, str(refused.value))
    assert not module.exists()
    trust.ask(["their_own"])
    stored = Checkpoints(tmp_path / "run").config(1)
    assert stored.data.source == config.data.source and not module.exists()
    assert experiment.resolve(stored, sources.open_source(stored.data, "train"))
    assert module.exists()
