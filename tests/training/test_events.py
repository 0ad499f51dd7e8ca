"""TensorBoard's files, as those that read them find them; and no TensorFlow."""

import json
import pathlib
import subprocess
import sys
import urllib.request

import numpy as np
import PIL.Image
import pytest
import tbparse
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mt_diffusion.training.events import Events

CONFIG = ConfigDict(
    {
        "seed": 3,
        "unet": {"dropout": 0.25, "channel_mult": (1, 2)},
        "data": {"name": "é"},
    }
)
PICTURE = np.arange(24, dtype=np.uint8).reshape(4, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run of 4 steps that was ended after step 2, its checkpoint."""
    root = tmp_path_factory.mktemp("events")
    for start, losses in ((0, {1: 9.0, 2: 7.0, 3: 5.0}), (2, {3: 4.5, 4: np.nan})):
        events = Events(root, start, CONFIG)
        for step, loss in losses.items():
            events.scalars(step, {"loss": loss, "grad_share_label": 0.5})
        events.close()
    events = Events(root, 4, CONFIG)
    events.picture(4, "joint", PIL.Image.fromarray(PICTURE))
    events.close()
    return root


def check_picture(png):
    with PIL.Image.open(png) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")), PICTURE)


def test_the_accumulator_finds_all_and_no_step_twice(folder, tmp_path):
    found = EventAccumulator(str(folder)).Reload()
    tags = found.Tags()
    assert set(tags["scalars"]) == {"loss", "grad_share_label"}
    assert tags["images"] == ["joint"]
    loss = [(x.step, x.value) for x in found.Scalars("loss")]
    assert loss[:3] == [(1, 9.0), (2, 7.0), (3, 4.5)]  # not the 5.0 of before
    assert loss[3][0] == 4 and np.isnan(loss[3][1])
    (image,) = found.Images("joint")
    (tmp_path / "found.png").write_bytes(image.encoded_image_string)
    check_picture(tmp_path / "found.png")
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("```yaml") and "dropout: 0.25" in text


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # tbparse, to pandas
def test_tbparse_finds_numbers_text_and_settings(folder):
    found = tbparse.SummaryReader(str(folder))
    scalars = found.scalars
    assert set(scalars.tag) == {"loss", "grad_share_label"}
    loss = scalars[scalars.tag == "loss"]
    assert list(loss.step) == [1, 2, 3, 3, 4]  # it takes every file for itself
    assert list(loss.value)[:4] == [9.0, 7.0, 5.0, 4.5]
    assert "seed: 3" in found.text.value[0]
    settings = dict(zip(found.hparams.tag, found.hparams.value, strict=True))
    assert settings == {
        "seed": 3.0,
        "unet.dropout": 0.25,
        "unet.channel_mult": "(1, 2)",
        "data.name": "é",
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own parts
def test_tensorboard_shows_all(folder, tmp_path):
    from tensorboard import default, program

    board = program.TensorBoard(default.get_plugins())
    board.configure(logdir=str(folder), load_fast="false", port=0, reload_interval=0)
    url = board.launch()

    def get(path, **body):
        data = json.dumps(body).encode() if body else None
        headers = {"Content-Type": "application/json"} if body else {}
        request = urllib.request.Request(f"{url}data/plugin/{path}", data, headers)
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    assert set(json.loads(get("scalars/tags"))["."]) == {"loss", "grad_share_label"}
    points = json.loads(get("scalars/scalars?run=.&tag=loss"))
    assert [p[1:] for p in points[:3]] == [[1, 9.0], [2, 7.0], [3, 4.5]]
    assert (
        "dropout"
        in json.loads(get("text/text?run=.&tag=config/text_summary"))[0]["text"]
    )
    (image,) = json.loads(get("images/images?run=.&tag=joint&sample=0"))
    (tmp_path / "shown.png").write_bytes(
        get(f"images/individualImage?{image['query']}")
    )
    check_picture(tmp_path / "shown.png")
    wish = dict(allowedStatuses=["STATUS_UNKNOWN"], colParams=[], sliceSize=9)
    (group,) = json.loads(get("hparams/session_groups", **wish))["sessionGroups"]
    assert group["hparams"]["unet.dropout"] == 0.25
    assert group["metricValues"][0]["name"]["tag"] == "loss"


def test_none_of_it_needs_tensorflow(tmp_path):
    """Nor is it loaded where it is installed. (Of tbparse, pictures alone need it.)"""
    code = (
        "import pathlib, sys, ml_collections\n"
        "from mt_diffusion.training.events import Events\n"
        "config = ml_collections.ConfigDict({'a': 1})\n"
        "Events(pathlib.Path(sys.argv[1]), 0, config).close()\n"
        "print({'tensorflow', 'tensorboard', 'tensorboardX'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "{'tensorboardX'}\n"
    assert len(list(pathlib.Path(tmp_path).iterdir())) == 1
