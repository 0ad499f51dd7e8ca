"""An evaluation's folder goes on by the same settings, and through damage."""

import json

import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import begun
from mt_diffusion.evaluation.draws import Draw

DRAWS = [Draw(()), Draw(("label",))]
MANIFEST = {"step": 3, "sampling": {"eta": 0.0}}


@pytest.fixture
def folder(tmp_path):
    """With samples of two draws, and of something that is none of its."""
    begun.claim(tmp_path, MANIFEST, DRAWS)
    for name in ("joint", "given_label", "mine"):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "samples.npz").write_bytes(b"x")
    return tmp_path


def samples(folder):
    return sorted(p.parent.name for p in folder.glob("*/samples.npz"))


def test_the_same_settings_go_on_and_others_are_refused(folder):
    begun.claim(folder, MANIFEST, DRAWS)
    with pytest.raises(UserError, match=r"sampling.eta \(0.0 there, 1.0 now\)"):
        begun.claim(folder, MANIFEST | {"sampling": {"eta": 1.0}}, DRAWS)
    assert samples(folder) == ["given_label", "joint", "mine"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"3"])
def test_samples_beside_a_broken_manifest_are_drawn_again(folder, content, capsys):
    (folder / "manifest.json").write_bytes(content)
    begun.claim(folder, MANIFEST, DRAWS)
    assert samples(folder) == ["mine"]
    assert not list(folder.glob("joint/parts"))
    assert json.loads((folder / "manifest.json").read_text()) == MANIFEST
    assert "manifest.json is broken" in capsys.readouterr().out


def test_a_workdir_that_is_read_only_keeps_nothing(tmp_path):
    (tmp_path / "workdir").touch()  # root may write anywhere, but not below a file
    root, out = tmp_path / "workdir" / "evaluation", tmp_path / "out"
    assert begun.cache_folder(root, out, "--workdir=a") == out
    with pytest.raises(UserError, match="--workdir=a can't be written to"):
        begun.cache_folder(root, None, "--workdir=a")
    assert begun.cache_folder(tmp_path / "new", out, "") == tmp_path / "new"
