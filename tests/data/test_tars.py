"""Tars of examples: read in any order, and refused where they are not what they say."""

import io
import json
import tarfile

import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.data import changed, checking, sources
from mt_diffusion.errors import UserError
from mt_diffusion.files.within import tars

SPLITS = ("train", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mt_diffusion" / "tars"


def png(level):
    return encoded(PIL.Image.new("L", (10, 12), level))


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write(path, files):
    """A tar of {name: bytes, or a TarInfo}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def examples(numbers, classes=("cat", "dog", "eel")):
    """One image of level i for each number, its class and a caption."""
    for i in numbers:
        name = classes[i % len(classes)]
        yield f"x/{i:04}.png", png(i)
        yield f"x/{i:04}.cls", name.encode()
        yield f"x/{i:04}.txt", f"the {i}th".encode()
        yield f"x/{i:04}.json", json.dumps({"kind": name, "n": i}).encode()


def config_of(path, **fields):
    config = common.digits()
    config.data.update({"source": "tar", "path": str(path)} | fields)
    return config


def open_both(path, **fields):
    data = config_of(path, **fields).data
    return [sources.open_source(data, split) for split in SPLITS]


def levels(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_shards_are_parts_by_their_names_and_keep_all_that_is_asked_for(tmp_path):
    root = tmp_path / "shards"
    write(root / "toy-train-000000.tar", examples(range(8)))
    write(root / "toy-train-000001.tar", examples(range(8, 12)))
    write(root / "toy-val-000000.tar", examples(range(12, 15), ["eel"]))
    train, test = open_both(root, other_columns=("txt", "json.n", "nothing"))
    assert levels(train) == list(range(12)) and levels(test) == [12, 13, 14]
    assert train.class_names == test.class_names == ["cat", "dog", "eel"]
    assert [train[i]["label"] for i in (7, 3, 5)] == [1, 0, 2]
    assert [test[i]["label"] for i in range(3)] == [2, 2, 2]
    assert train[9]["txt"] == "the 9th" and train[9]["json.n"] == 9
    assert train[9].keys() == {"image", "label", "txt", "json.n"}
    assert train.facts["files"] == "15 .png; in 3 .tar"
    assert train.facts["split"].endswith("toy-val-000000.tar for testing")
    assert train.facts["classes"] == "0 cat (4), 1 dog (4), 2 eel (4)"


def test_a_table_of_captions_names_its_examples(tmp_path):
    path = write(tmp_path / "a.tar", examples(range(10)))
    (tmp_path / "a.csv").write_text("file,caption\nx/0003.png,by path\n0004,by name\n")
    fields = dict(captions=str(tmp_path / "a.csv"), splits="none")
    source, _ = open_both(path, **fields)
    by_level = {levels(source)[i]: source[i]["caption"] for i in range(len(source))}
    assert (
        by_level[3] == ["by path"] and by_level[4] == ["by name"] and by_level[5] == []
    )
    (tmp_path / "a.csv").write_text("file,caption\nother.png,one\n")
    with pytest.raises(UserError, match="of none.*as 000"):
        open_both(path, **fields)


def test_one_tar_is_split_by_the_names_of_its_examples(tmp_path):
    """Whatever else comes, and however they lie in shards."""
    one = open_both(write(tmp_path / "a.tar", examples(range(100))))
    assert sorted(levels(one[0]) + levels(one[1])) == list(range(100))
    assert 8 <= len(one[1]) <= 32  # of 100, three standard errors about a fifth
    write(tmp_path / "b" / "0.tar", examples(range(60, 120)))
    write(tmp_path / "b" / "1.tar", examples(range(60)))
    more = open_both(tmp_path / "b")
    assert set(levels(one[1])) == {x for x in levels(more[1]) if x < 100}
    none = open_both(tmp_path / "b", splits="none")
    assert [levels(part) for part in none] == [levels(part) for part in more]
    named = open_both(tmp_path / "b", splits="0,1")
    assert [len(part) for part in named] == [60, 60]


def test_a_class_may_be_a_field_or_nothing(tmp_path):
    files = list(examples(range(20)))
    path = write(tmp_path / "a.tar", files)
    train, _ = open_both(
        path, label_column="json.kind", class_names=("eel", "dog", "cat")
    )
    for i, level in enumerate(levels(train)):
        assert train[i]["label"] == 2 - level % 3
    plain = write(tmp_path / "b.tar", [f for f in files if f[0].endswith("png")])
    train, _ = open_both(plain)
    assert train.class_names == [] and train[0]["label"] == -1
    with pytest.raises(
        UserError, match="label_column = 'kls' is in no .*cls, json, png"
    ):
        open_both(path, label_column="kls")


def test_numbers_are_classes_in_natural_order(tmp_path):
    path = write(tmp_path / "a.tar", examples(range(60), [str(i) for i in range(12)]))
    train, _ = open_both(path)
    assert train.class_names == [str(i) for i in range(12)]
    assert all(train[i]["label"] == x % 12 for i, x in enumerate(levels(train)))


def test_halves_of_a_file_are_a_pair_there_too(tmp_path):
    files = []
    for i in range(10):
        halves = np.full((8, 16), 10 * i, np.uint8)
        halves[:, 8:] += 5
        files += [(f"{i}.png", encoded(PIL.Image.fromarray(halves)))]
        files += [(f"{i}.txt", str(i).encode())]
    path = write(tmp_path / "a.tar", files)
    for part in open_both(path, pair="left_right", other_columns=("txt",)):
        for e in (part[i] for i in range(len(part))):
            assert np.all(e["image"] == 10 * int(e["txt"]))
            assert np.all(e["pair"] == e["image"] + 5)
    odd = write(
        tmp_path / "odd.tar",
        [("0.png", png(0)), ("1.png", encoded(PIL.Image.new("L", (9, 8))))],
    )
    with pytest.raises(UserError, match="odd.tar:1.png has 9x8 pixels"):
        open_both(odd, pair="left_right")


def test_what_is_no_example_is_left_and_counted(tmp_path):
    link = tarfile.TarInfo("x/link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("x/hard.png")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret.png"
    fifo = tarfile.TarInfo("x/fifo.png")
    fifo.type = tarfile.FIFOTYPE
    odd = [("l", link), ("h", hard), ("f", fifo), ("x/._0001.png", b"mac")]
    odd += [("../out.png", png(1)), ("x/alone.txt", b"no image")]
    path = write(
        tmp_path / "a.tar", [*examples(range(9)), *odd, ("/abs.png", png(200))]
    )
    before = sorted(tmp_path.rglob("*"))
    train, test = open_both(path)
    assert sorted(levels(train) + levels(test)) == [*range(9), 200]
    assert train.facts["files"].startswith(
        "10 .png; left: 1 examples without an image;"
    )
    after = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    assert after == set(before)  # nothing is unpacked


def test_the_index_is_kept_and_made_anew_where_the_tar_is_another(tmp_path, cache):
    path = write(tmp_path / "a.tar", examples(range(10)))
    first = tars.index(path)
    (kept,) = cache.iterdir()
    assert tars.index(path) == first and [*cache.iterdir()] == [kept]
    kept.write_text("[[broken")
    assert tars.index(path) == first
    write(path, examples(range(11)))
    assert len(tars.index(path)) == 44
    cache.rename(tmp_path / "aside")
    (tmp_path / "cache" / "mt_diffusion" / "tars").touch()  # no folder can be made
    assert len(tars.index(path)) == 44


def test_data_may_be_moved_but_not_changed_under_a_run(tmp_path):
    path = write(tmp_path / "a" / "data.tar", examples(range(30)))
    run = changed.recorded(config_of(path), *open_both(path))
    path.parent.rename(tmp_path / "b")
    run.data.path = str(tmp_path / "b" / "data.tar")
    for split in SPLITS:
        sources.open_source(run.data, split)
    write(tmp_path / "b" / "data.tar", examples(range(31)))
    with pytest.raises(UserError, match="examples are not those"):
        open_both(run.data.path, found=run.data.found)


def test_broken_images_are_named_counted_and_left_out(tmp_path, capsys):
    files = [*examples(range(20)), ("x/9999.png", b"broken"), ("x/9999.cls", b"cat")]
    path = write(tmp_path / "a.tar", files)
    with pytest.raises(UserError, match="a.tar:x/9999.png can't be read.*=skip"):
        open_both(path)
    assert sum(map(len, open_both(path, broken="skip"))) == 20
    capsys.readouterr()
    with pytest.raises(UserError, match="1 examples can't be used"):
        checking.check(config_of(path).data)
    assert "a.tar:x/9999.png can't be read as an image" in capsys.readouterr().out


def cut(data):
    return data[: len(data) // 2]


def without_end(data):
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)


def liar(data):
    """The first file claims 7 GiB, with a checksum that is right."""
    header = bytearray(data[:512])
    header[124:136] = b"70000000000\0"
    return resealed(header) + data[512:]


def negative(data):
    header = bytearray(data[:512])
    header[124:136] = (2**96 - 512).to_bytes(12, "big")
    return resealed(header) + data[512:]


def resealed(header):
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def scribbled(data):
    """A header in the middle is none, which tarfile takes for the end."""
    at = data.index(b"x/0005.png")
    return data[:at] + b"\xff" * 512 + data[at + 512 :]


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        without_end,
        liar,
        negative,
        scribbled,
        lambda x: b"",
        lambda x: b"text" * 300,
    ],
)
def test_hostile_and_broken_tars_are_refused_in_words(tmp_path, damage):
    path = write(tmp_path / "a.tar", examples(range(10)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="a.tar can't be read as a tar") as refused:
        open_both(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "files, fields, said",
    [
        ([("a.png", png(1)), ("a.jpg", png(1))], {}, "several images, png, jpg: say"),
        ([("a.png", png(1)), ("a.png", png(2))], {}, "a.png is in its tar twice"),
        ([("a.txt", b"x")], {}, "no image in the tars of"),
        ([("a.png", png(1))], {}, "too few images to hold out"),
        ([("a.png", png(1)), ("a.cls", b"\xff\xfe")], {}, "a.cls can't be read"),
        ([("a.png", png(1)), ("a.cls", b"x" * 2**21)], {}, "2,097,152 bytes, more"),
        (
            [("a.png", png(1)), ("a.json", b"{")],
            {"label_column": "json.x"},
            "a.json ca",
        ),
        (
            [("a.png", png(1)), ("a.json", b'{"x": [1]}')],
            {"label_column": "json.x"},
            r"a.png has as its class \[1\]; a class is a text",
        ),
        ([("\x1b[31m.png", png(1)), ("\x1b[31m.cls", b"\xff")], {}, r"\\x1b\[31m.cls"),
    ],
)
def test_what_makes_no_examples_is_said(tmp_path, files, fields, said):
    with pytest.raises(UserError, match=said):
        open_both(write(tmp_path / "a.tar", files), **fields)


def test_paths_that_are_no_tars_are_said(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("", tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(UserError, match="is no tar, and no folder with"):
            open_both(path)
    write(tmp_path / "x" / "train.tar", examples(range(3)))
    write(tmp_path / "x" / "other.tar", examples(range(3)))
    with pytest.raises(UserError, match="none is for testing by its name.*data.splits"):
        open_both(tmp_path / "x")
    write(tmp_path / "x" / "toy_test2.tar", examples(range(4)))
    train, test = open_both(tmp_path / "x")
    assert (len(train), len(test)) == (3, 4)
    assert train.facts["split"].endswith("for testing; not used: other.tar")
    with pytest.raises(UserError, match="of which none is for training"):
        open_both(tmp_path / "x", splits="left,other")
    with pytest.raises(UserError, match="two words as TRAIN,TEST"):
        open_both(tmp_path / "x", splits="left")
    compressed = tmp_path / "z.tar"
    with tarfile.open(compressed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(UserError, match="unpacked to a plain .tar"):
        open_both(compressed)
