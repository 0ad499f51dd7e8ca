"""Files that are whole or not there, folders that can be written to."""

import json
import os

import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.files import writing


@pytest.mark.parametrize(
    "write, content, read",
    [
        (writing.text, "one\ntwo", lambda path: path.read_text()),
        (writing.as_json, {"a": [1, None]}, lambda path: json.loads(path.read_text())),
        (writing.arrays, {"x": np.eye(3)}, lambda path: dict(np.load(path))),
    ],
)
def test_what_is_written_replaces_what_was_there(tmp_path, write, content, read):
    path = tmp_path / "new.file"
    path.write_text("old")
    write(path, content)
    np.testing.assert_equal(read(path), content)
    assert list(tmp_path.iterdir()) == [path]


class Torn:
    """An array that the disk has no room for."""

    def __array__(self, *args, **kwargs):
        raise OSError("no space left")


@pytest.mark.parametrize(
    "write, content",
    [
        (writing.arrays, {"whole": np.ones(4), "torn": Torn()}),
        (writing.as_json, {"a": object()}),
        (writing.text, 3),
    ],
)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, write, content):
    path = tmp_path / "file.npz"
    path.write_text("old")
    with pytest.raises((UserError, TypeError)):
        write(path, content)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_file_is_not_there_until_it_is_whole(tmp_path, monkeypatch):
    path, seen = tmp_path / "file.json", []

    def replace(draft, target):
        seen.append((target.exists(), draft.read_text()))

    monkeypatch.setattr(type(path), "replace", replace)
    writing.text(path, "whole")
    assert seen == [(False, "whole")]


def test_folders_are_made_with_their_parents_and_left_empty(tmp_path):
    for _ in range(2):
        writing.make_folder(tmp_path / "a" / "b", "--out=a/b")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_folders_that_can_not_be_are_refused_by_what_the_user_said(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UserError, match="^--out=there can't be written to: "):
            writing.make_folder(path, "--out=there")
    assert (tmp_path / "file").read_text() == "mine"

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere
    with pytest.raises(UserError, match="--out=there can't be written to: read-only"):
        writing.make_folder(tmp_path, "--out=there")


def test_a_new_file_is_claimed_but_not_made(tmp_path):
    path = tmp_path / "new" / "file.json"
    writing.claim_file(path)
    assert path.parent.is_dir() and not path.exists()
    path.write_text("mine")
    with pytest.raises(UserError, match="file.json exists already; name another"):
        writing.claim_file(path)
    with pytest.raises(UserError, match=f"--out={path}/a can't be written to"):
        writing.claim_file(path / "a")
    assert path.read_text() == "mine"
