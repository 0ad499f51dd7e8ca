"""Folders of images: which part an example is in, which class, and what is told."""

import os
import random
import socket

import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.data import changed, sources, splits
from mt_diffusion.data.kinds import folders
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import translate

SPLITS = ("train", "test")


def fill(root, names):
    """Images of one level each."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (10, 10), i % 256).save(root / name, "PNG")


def config_of(root, **fields):
    config = common.digits()
    config.data.update({"source": "folder", "path": str(root)} | fields)
    return config


def open_both(root, **fields):
    data = config_of(root, **fields).data
    return [sources.open_source(data, split) for split in SPLITS]


def places(source):
    return {str(place) for place in source.places}


# The split


def test_a_split_is_a_property_of_the_example(tmp_path):
    """Whatever comes or goes, nothing else changes its part; nor does a new class."""
    names = [f"{c}/{i}.png" for c in ("ant", "bee") for i in range(60)]
    fill(tmp_path, names)
    before = [places(part) for part in open_both(tmp_path)]
    assert before[0] | before[1] == set(names) and not before[0] & before[1]
    assert 12 <= len(before[1]) <= 36  # of 120, four standard errors about a fifth
    rng = random.Random(0)
    for name in rng.sample(names, 20):
        (tmp_path / name).unlink()
    new = [f"{c}/new{i}.png" for c in ("ant", "bee", "aardvark") for i in range(10)]
    fill(tmp_path, new)
    after = [places(part) for part in open_both(tmp_path)]
    assert not after[0] & before[1] and not after[1] & before[0]
    assert after[0] | after[1] == {
        str(p.relative_to(tmp_path)) for p in all_of(tmp_path)
    }


def all_of(root):
    return [p for p in root.rglob("*") if p.is_file()]


def test_a_part_is_that_of_the_name_below_the_class(tmp_path):
    """Not of the class, the case, the suffix, or how an accent is written."""
    for one, other in (
        ("a/b.png", "a/b.jpg"),
        ("B.PNG", "b.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
    ):
        assert splits.draw(one) == splits.draw(other)
    assert splits.draw("a.png") != splits.draw("b.png")
    draws = [splits.draw(f"{i}.png") for i in range(4000)]
    assert abs(np.mean(draws) - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    fill(tmp_path, [f"ant/{i}.png" for i in range(40)])
    before = [places(part) for part in open_both(tmp_path)]
    (tmp_path / "ant").rename(tmp_path / "bee")
    after = [places(part) for part in open_both(tmp_path)]
    assert [{p.replace("bee", "ant") for p in part} for part in after] == before


@pytest.mark.parametrize("num", [2, 3, 5])
def test_no_part_of_a_few_is_empty(tmp_path, num):
    for name in "abcdefgh":
        fill(tmp_path / name, [f"ant/{name}{i}.png" for i in range(num)])
        assert all(len(part) for part in open_both(tmp_path / name))


def test_a_stored_config_of_an_earlier_version_keeps_its_split(tmp_path):
    """That was: sorted by letters, and a draw that the number of files decides."""
    names = [f"{c}/{i}.png" for c in ("a", "b") for i in range(12)]
    fill(tmp_path, names)
    stored = translate.with_files({"data": {"source": "folder"}})["data"]
    found = open_both(tmp_path, **stored)
    order = np.random.default_rng(0).permutation(24)
    expected = [sorted(names)[i] for i in np.sort(order[:4])]
    assert [str(place) for place in found[1].places] == expected
    assert len(found[0]) == 20


# Folders of splits


@pytest.mark.parametrize(
    "train, test", [("Train", "Test"), ("Training", "val"), ("TRAIN", "Validation")]
)
def test_parts_are_known_by_their_names(tmp_path, train, test):
    fill(tmp_path, [f"{train}/ant/0.png", f"{train}/bee/1.png", f"{test}/bee/2.png"])
    parts = open_both(tmp_path)
    assert [len(part) for part in parts] == [2, 1]
    assert [part.class_names for part in parts] == [["ant", "bee"]] * 2
    assert f"folders {train} and {test}" in parts[0].facts["split"]


def test_the_config_says_which_folders_are_parts(tmp_path):
    fill(tmp_path, ["left/ant/0.png", "right/ant/1.png", "rest/ant/2.png"])
    train, test = open_both(tmp_path, splits="left,right")
    assert places(train) == places(test) - {"ant/1.png"} | {"ant/0.png"}
    assert "not used: rest" in train.facts["split"]
    assert open_both(tmp_path)[0].class_names == ["left", "rest", "right"]
    for text in ("left,nowhere", "left", "left,left", "a,b,c"):
        with pytest.raises(UserError, match=f"splits = '{text}' must be.*left, rest"):
            open_both(tmp_path, splits=text)


def test_a_class_may_be_called_train(tmp_path):
    names = [f"{c}/{i}.png" for c in ("train", "plane", "test") for i in range(9)]
    fill(tmp_path, names)
    train, _ = open_both(tmp_path)
    assert train.class_names == ["plane", "test", "train"]
    fill(tmp_path, ["train/deep/0.png", "val/deep/0.png"])
    train, _ = open_both(tmp_path, splits="none")
    assert train.class_names == ["plane", "test", "train", "val"]


def test_parts_that_are_not_clear_are_refused(tmp_path):
    fill(tmp_path, ["train/ant/0.png"])
    with pytest.raises(UserError, match="none named test or val.*data.splits"):
        open_both(tmp_path)
    fill(tmp_path, ["test/ant/0.png", "Test/ant/0.png"])
    with pytest.raises(UserError, match="has the folders .*est, .*est.*data.splits"):
        open_both(tmp_path)


# Classes


def test_classes_are_in_natural_order_and_so_are_files(tmp_path):
    fill(tmp_path, [f"{c}/{i}.png" for c in range(12) for i in range(3)])
    train, _ = open_both(tmp_path)
    assert train.class_names == [str(i) for i in range(12)]
    order = [tuple(map(int, str(p.with_suffix("")).split("/"))) for p in train.places]
    assert order == sorted(order)
    assert train.labels == [c for c, _ in order]


def test_an_empty_class_is_a_class(tmp_path):
    fill(tmp_path, [f"{c}/{i}.png" for c in ("ant", "cat") for i in range(9)])
    (tmp_path / "bee").mkdir()
    train, _ = open_both(tmp_path)
    assert train.class_names == ["ant", "bee", "cat"]
    assert "no example of bee" in train.facts["classes"]


def test_classes_that_differ_in_case_or_are_strange(tmp_path):
    names = ["A", "a", "a, b", " c", "007", "\u732b", "\x1b[31mred"]
    fill(tmp_path, [f"{c}/{i}.png" for c in names for i in range(5)])
    train, test = open_both(tmp_path)
    assert sorted(train.class_names) == sorted(names) == sorted(test.class_names)
    assert "\x1b" not in str(train.facts)
    for part in (train, test):
        for place, label in zip(part.places, part.labels, strict=True):
            assert part.class_names[label] == place.parts[0]


def test_one_name_in_two_writings_is_refused(tmp_path):
    fill(tmp_path, ["caf\u00e9/0.png", "cafe\u0301/0.png"])
    with pytest.raises(UserError, match="two folders that are both called caf"):
        open_both(tmp_path)


def test_the_order_of_classes_may_be_said(tmp_path):
    fill(tmp_path, [f"{c}/{i}.png" for c in ("ant", "bee") for i in range(9)])
    for part in open_both(tmp_path, class_names=("bee", "cow", "ant")):
        assert part.class_names == ["bee", "cow", "ant"]
        for place, label in zip(part.places, part.labels, strict=True):
            assert part.class_names[label] == place.parts[0]
    with pytest.raises(UserError, match="has the classes bee.*lacks cow"):
        open_both(tmp_path, class_names=("ant", "cow"))


def test_sources_of_other_kinds_have_that_order_too():
    names = tuple("9876543210")
    config = common.digits()
    plain, turned = (
        sources.open_source(config.data, "test")
        for config.data.class_names in ((), names)
    )
    for i in range(len(plain)):
        label = turned[i]["label"]
        assert names[label] == str(plain[i]["label"])
    assert list(turned.labels) == [turned[i]["label"] for i in range(len(turned))]


# What is told, and what is left


def test_all_that_is_left_is_counted(tmp_path):
    root = tmp_path / "data"
    fill(root, [f"ant/{i}.png" for i in range(9)] + ["ant/x.JPG", "ant/y.Jfif"])
    (root / "ant" / "notes.txt").touch()
    (root / "ant" / ".hidden.png").touch()
    (root / "ant" / "000.png").mkdir()  # a folder, and what is in it counts
    fill(root, ["ant/000.png/deep.png"])
    fill(tmp_path, ["elsewhere/linked.png"])
    (root / "ant" / "link").symlink_to(tmp_path / "elsewhere")
    (root / "ant" / "file.png").symlink_to(tmp_path / "elsewhere" / "linked.png")
    (root / "ant" / "dead.png").symlink_to(tmp_path / "nowhere")
    (root / "ant" / "round").symlink_to(root)
    os.mkfifo(root / "ant" / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "ant" / "socket.png"))
    train, test = open_both(root)
    assert len(train) + len(test) == 14
    assert train.facts["files"].startswith("12 .png, 1 .jfif, 1 .jpg; left: ")
    for what in ("2 .png (no regular file)", "1 .txt (no image)", "1 hidden"):
        assert what in train.facts["files"]
    for what in ("1 links to nothing", "1 links to a folder that they lie in"):
        assert what in train.facts["files"]


def test_a_linked_folder_of_data_is_like_the_folder(tmp_path):
    fill(tmp_path, [f"here/ant/{i}.png" for i in range(9)])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "ant").symlink_to(tmp_path / "here" / "ant")
    one, other = (open_both(tmp_path / name)[0] for name in ("here", "there"))
    assert one.digest == other.digest and len(one) == len(other)


@pytest.mark.parametrize("broken", [1, 3])
def test_broken_files_are_counted_or_left_out(tmp_path, capsys, broken):
    fill(tmp_path, [f"ant/{i}.png" for i in range(20)])
    whole = [len(part) for part in open_both(tmp_path)]
    train = [p for p in open_both(tmp_path)[0].paths]
    for path in train[:broken]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=f"with {broken} of {whole[0]} files.*=skip"):
        open_both(tmp_path)
    parts = open_both(tmp_path, broken="skip")
    assert [len(part) for part in parts] == [whole[0] - broken, whole[1]]
    assert capsys.readouterr().out.count("left out: ") == broken
    with pytest.raises(UserError, match="broken is 'skp'; choose 'stop' or 'skip'"):
        open_both(tmp_path, broken="skp")


def test_what_breaks_later_is_skipped_and_said_once(tmp_path, capsys):
    fill(tmp_path, [f"ant/{i}.png" for i in range(20)])
    train, _ = open_both(tmp_path, broken="skip")
    images = [train[i]["image"] for i in range(3)]
    train.strictly().paths[1].write_bytes(b"broken")
    for _ in range(2):
        np.testing.assert_array_equal(train[1]["image"], images[2])
    assert capsys.readouterr().out.count("skipped, 1 so far: ") == 1
    with pytest.raises(UserError, match="can't be read"):
        train.strictly()[1]


# What a run found, and whether it is still so


def recorded(root, **fields):
    config = config_of(root, **fields)
    return changed.recorded(config, *open_both(root, **fields))


def test_a_run_knows_its_data_wherever_they_are(tmp_path):
    fill(tmp_path / "a", [f"{c}/{i}.png" for c in ("x", "y") for i in range(30)])
    run = recorded(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    run.data.path = str(tmp_path / "b")
    for split in SPLITS:
        sources.open_source(run.data, split)


@pytest.mark.parametrize("what", ["added", "removed", "other", "moved"])
def test_data_that_changed_under_a_run_are_refused(tmp_path, what):
    names = [f"{part}/x/{i}.png" for part in SPLITS for i in range(9)]
    fill(tmp_path, names)
    run = recorded(tmp_path)
    path = tmp_path / "train" / "x" / "3.png"
    if what == "added":
        fill(tmp_path, ["train/x/new.png"])
    elif what == "other":
        PIL.Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(path)
    elif what == "moved":
        path.rename(tmp_path / "test" / "x" / "from_train.png")
    else:
        path.unlink()
    with pytest.raises(UserError, match="train examples are not those.*9 there"):
        sources.open_source(run.data, "train")
    now = recorded(tmp_path)
    with pytest.raises(UserError, match="changed=accept"):
        changed.check_same(now.data, run.data)
    now.data.changed = run.data.changed = "accept"
    sources.open_source(run.data, "train")
    changed.check_same(now.data, run.data)


def test_a_renamed_class_is_refused_by_name(tmp_path):
    fill(tmp_path, [f"{c}/{i}.png" for c in ("ant", "bee") for i in range(9)])
    run = recorded(tmp_path)
    (tmp_path / "bee").rename(tmp_path / "aardvark")
    with pytest.raises(UserError, match="has the classes aardvark.*lacks bee"):
        sources.open_source(run.data, "train")
    with pytest.raises(UserError, match="examples are not those"):
        changed.check_same(recorded(tmp_path).data, run.data)


def test_versions_that_there_are_none_of_are_refused(tmp_path):
    fill(tmp_path, ["ant/0.png"])
    with pytest.raises(UserError, match=r"version is 7; choose one of \[0, 1\]"):
        open_both(tmp_path, version=7)
    assert folders.RULES[0].find(tmp_path).images


def test_a_run_of_an_earlier_version_says_how_it_goes_on(tmp_path):
    fill(tmp_path, [f"ant/{i}.png" for i in range(9)])
    now, old = recorded(tmp_path), recorded(tmp_path, version=0)
    with pytest.raises(UserError, match="add --config.data.version=0"):
        changed.check_same(now.data, old.data)
    old.data.found = {}  # such a run knew nothing of its files
    changed.check_same(recorded(tmp_path, version=0).data, old.data)


def test_vectors_of_other_files_or_another_order_are_refused(tmp_path):
    """As --mode=precompute writes them; those without a word about it are in order."""
    root, path = tmp_path / "data", str(tmp_path / "v.npz")
    fill(root, [f"{part}/x/{i}.png" for part in SPLITS for i in range(12)])
    both = {s: np.ones((12, 2), np.float32) for s in SPLITS}
    told = {
        f"{s}_digest": p.digest for s, p in zip(SPLITS, open_both(root), strict=True)
    }
    np.savez(path, **both, **told)
    assert open_both(root, vectors=path)[0][0]["vector"].shape == (2,)
    with pytest.raises(UserError, match="other train examples, or in another order"):
        open_both(root, vectors=path, version=0)
    (root / "test" / "x" / "3.png").rename(root / "test" / "x" / "4b.png")
    with pytest.raises(UserError, match="other test examples.*precompute"):
        open_both(root, vectors=path)
    np.savez(path, **both)
    open_both(root, vectors=path)
