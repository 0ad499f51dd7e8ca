"""Data of a run that lie elsewhere now; a data set that is only looked at."""

import numpy as np
import PIL.Image
import pytest

from configs import common, image_representation
from mt_diffusion.command import moved
from mt_diffusion.data import checking
from mt_diffusion.errors import UserError
from mt_diffusion.inference import restoring


def test_fields_of_data_are_taken_where_there_is_no_config():
    argv = ["main", "--mode=bound", "--config.data.path=/a b/[c]=d", "--workdir=w"]
    assert moved.take(argv) == ["main", "--mode=bound", "--workdir=w"]
    assert moved.said == {"data.path": "/a b/[c]=d"}
    config = common.digits()
    restoring.override(config, {"num_steps": 3} | moved.said)
    assert config.data.path == "/a b/[c]=d" and config.sampling.num_steps == 3
    moved.check("bound")
    with pytest.raises(UserError, match="data.path means nothing to --mode=report"):
        moved.check("report")
    with pytest.raises(UserError, match="data.source can't change.*path, pair_path"):
        moved.take(["main", "--config.data.source=digits"])
    for config in (["--config=a.py"], ["--config", "a.py"], ["-config=a.py"]):
        argv = ["main", *config, "--config.data.path=x"]
        assert moved.take(argv) == argv and not moved.said


def test_frozen_models_of_a_run_may_be_elsewhere():
    clip = "--config.modalities.vector.clip=/a b/clip"
    argv = ["main", "--config.primary.space.autoencoder=c=d", clip]
    assert moved.take(argv) == ["main"]
    wanted = {"primary.space.autoencoder": "c=d", "modalities.vector.clip": "/a b/clip"}
    assert moved.said == wanted
    config = image_representation.get_config("smoke")
    restoring.override(config, {"modalities.representation.clip": "x"})
    assert config.modalities.representation.clip == "x"
    others = "vector.clip", "representation.encoder", "representation.vectors"
    for name in others:  # the last is code, and no frozen model
        with pytest.raises(UserError, match="can't change.*: modalities.rep.*n.clip"):
            restoring.override(config, {f"modalities.{name}": "x:y"})


def test_all_content_is_read_and_what_is_broken_is_counted(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    (tmp_path / "ant").mkdir()
    for i in range(20):
        PIL.Image.fromarray(pixels).save(tmp_path / "ant" / f"{i}.jpg")
    data = common.digits().data
    data.update(source="folder", path=str(tmp_path))
    checking.check(data)
    assert "all examples can be read" in capsys.readouterr().out
    whole = (tmp_path / "ant" / "3.jpg").read_bytes()
    (tmp_path / "ant" / "3.jpg").write_bytes(whole[: len(whole) // 2])  # its header not
    (tmp_path / "ant" / "4.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="2 examples can't be used.*broken=skip"):
        checking.check(data)
    printed = capsys.readouterr().out
    for name in ("3.jpg", "4.jpg"):
        assert f"  {tmp_path}/ant/{name} can't be read" in printed
    assert data.broken == "stop"
