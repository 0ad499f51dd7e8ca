"""Where a run's numbers go: metrics.jsonl always, and what --log names."""

import json
import math
import sys

import numpy as np
import pandas
import PIL.Image
import pytest
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.files import paths
from mt_diffusion.training import logs
from mt_diffusion.training.watch import Watch

CONFIG = ConfigDict({"train": {"num_steps": 4, "batch_size": 2}, "seed": 3})
PICTURE = PIL.Image.fromarray(np.zeros((4, 4), np.uint8))


def run(folder, names, start, losses):
    """Logs these from step `start` on, with a test loss at the end."""
    with Watch(folder, start, CONFIG, names) as view:
        for step, loss in enumerate(losses, start + 1):
            view.write(step, {"loss": loss})
        view.write(step, {"test_loss": 1.0})
        view.picture(step, "joint", PICTURE)


def files(folder):
    return {p.name.partition(".tfevents")[0] for p in folder.iterdir()}


@pytest.mark.parametrize(
    "names, wanted",
    [
        ("none", set()),
        ("csv", {"metrics.csv"}),
        ("tensorboard", {"events.out"}),
        ("csv, tensorboard", {"metrics.csv", "events.out"}),
    ],
)
def test_what_is_named_is_written_beside_what_always_is(names, wanted, tmp_path):
    run(tmp_path, logs.parse(names, tmp_path), 0, [2.0])
    assert files(tmp_path) == wanted | {"metrics.jsonl", "samples"}


def test_pandas_reads_a_run_that_went_on_without_double_lines(tmp_path):
    """Steps 3 and 4 came after the checkpoint that the run went on from."""
    run(tmp_path, ["csv"], 0, [4.0, 3.0, 9.0, 9.0])
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("4,9.")  # where the machine went down
    run(tmp_path, ["csv"], 2, [math.nan, 1.5])
    table = pandas.read_csv(tmp_path / "metrics.csv")
    assert list(table.columns) == ["step", "loss", "test_loss"]
    assert list(table.step) == [1, 2, 3, 4, 4] and table.step.dtype == np.int64
    np.testing.assert_array_equal(table.loss, [4.0, 3.0, np.nan, 1.5, np.nan])
    np.testing.assert_array_equal(table.test_loss, [np.nan] * 4 + [1.0])
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(table.step)


def test_a_run_gets_a_table_when_it_is_asked_for_later(tmp_path):
    run(tmp_path, [], 0, [4.0, 3.0])
    run(tmp_path, ["csv"], 2, [2.0])
    table = pandas.read_csv(tmp_path / "metrics.csv")
    assert list(table.step) == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("text", ["wnadb", "csv,none", "", "csv;wandb"])
def test_what_is_no_log_is_refused(text, tmp_path):
    with pytest.raises(UserError, match="none of tensorboard, csv, wandb") as caught:
        logs.parse(text, tmp_path)
    assert "\n" not in str(caught.value)
    assert text != "wnadb" or "the nearest is wandb" in str(caught.value)


def test_weights_and_biases_that_is_not_installed_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mt-diffusion\[wandb\]'"):
        logs.parse("csv,wandb", tmp_path)


def test_an_offline_folder_can_not_be_in_a_bucket(monkeypatch):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match="gs://b/run is in a bucket.*WANDB_MODE"):
        logs.parse("wandb", paths.Literal("gs://b/run"))


def test_only_who_asks_for_it_loads_what_sends(tmp_path):
    run(tmp_path, logs.parse("csv,tensorboard", tmp_path), 0, [2.0])
    assert "wandb" not in sys.modules


def records(data):
    """Those of a file of W&B, which is a log as LevelDB's after 7 bytes."""
    block, header, place, whole = 2**15, 7, 7, b""
    while place + header <= len(data):
        if block - place % block < header:
            place += block - place % block
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind, start = data[place + 6], place + header
        whole += data[start : start + length]
        place = start + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


@pytest.mark.filterwarnings("ignore")  # of its own parts
def test_weights_and_biases_keeps_a_run_on_disk(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path, logs.parse("wandb", tmp_path), 0, [4.0, 3.0])
    run(tmp_path, logs.parse("wandb", tmp_path), 2, [2.0])
    ids, found = set(), []
    for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = {i.key or i.nested_key[0]: i for i in record.history.item}
                if "loss" in items:
                    loss = json.loads(items["loss"].value_json)
                    found.append((json.loads(items["_step"].value_json), loss))
    assert found == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert ids == {(tmp_path / "wandb_run.txt").read_text().strip()}  # one run


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_without_a_key_says_what_to_do(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def init(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login`")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(UserError, match="No API key.*WANDB_MODE=offline"):
        run(tmp_path, ["wandb"], 0, [4.0])
