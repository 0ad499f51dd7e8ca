"""Hugging Face's data sets on disk, as their own library wrote them; hostile ones."""

import io
import json
import pathlib
import shutil
import socket
import sys
import tarfile

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import common
from mt_diffusion.data import changed, checking, sources, splits
from mt_diffusion.errors import UserError
from tests.data import write_hf

SPLITS = ("train", "test")
WRITTEN = pathlib.Path(__file__).with_name("hf.tar.gz")  # by datasets 5.2.0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    with tarfile.open(WRITTEN) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A cache of one's own, and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refused(*args, **kwargs):
        raise AssertionError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refused)


def config_of(path, **fields):
    config = common.digits()
    config.data.update({"source": "hf", "path": str(path)} | fields)
    return config


def open_both(path, **fields):
    data = config_of(path, **fields).data
    return [sources.open_source(data, split) for split in SPLITS]


def examples(source):
    """{level: example}."""
    found = [source[i] for i in range(len(source))]
    return {int(e["image"][0, 0, 0]): e for e in found}


def check_written(folder):
    """What tests/data/write_hf.py says, in all that it wrote."""
    for name in ("both", "parquet"):
        columns = ("caption", "vector")
        train, test = open_both(folder / name, other_columns=columns)
        assert train.class_names == test.class_names == write_hf.CLASSES
        assert [e["label"] for e in map(train.__getitem__, range(12))] == 4 * [0, 1, 2]
        assert examples(train).keys() == {*range(12)}
        assert examples(test).keys() == {100, 101, 102}
        for level, e in (examples(train) | examples(test)).items():
            assert e["label"] == level % 3 and e["caption"] == f"the {level}th"
            np.testing.assert_array_equal(e["vector"], [level, 1, 2])
            assert e["image"].shape == (8, 8, 1) and np.ptp(e["image"]) == 0
    for name, num in (("one", 60), ("named", 40)):
        train, test = (examples(part) for part in open_both(folder / name))
        assert train.keys() | test.keys() == {*range(num)}
        assert not train.keys() & test.keys() and len(test) > 1
        assert all(e["label"] == level % 3 for level, e in (train | test).items())
    return set(test)


def test_what_their_library_wrote_is_read(written):
    named = check_written(written)
    assert "datasets" not in sys.modules
    facts = open_both(written / "both")[0].facts
    assert facts["rows"] == "15"
    assert facts["split"] == "train for training and validation for testing"
    assert facts["classes"] == "0 cat (4), 1 dog (4), 2 eel (4)"
    # Images that had names are split as those files would be.
    assert named == levels_of_names(range(40))


def levels_of_names(numbers):
    return {i for i in numbers if splits.draw(f"{i:03}.png") < 1 / splits.HOLDOUT}


@pytest.mark.wide
def test_what_the_library_that_is_here_writes_is_read(tmp_path):
    pytest.importorskip("datasets")
    write_hf.write(tmp_path)
    check_written(tmp_path)


def png(level):
    file = io.BytesIO()
    PIL.Image.new("L", (10, 12), level).save(file, "PNG")
    return file.getvalue()


def parquet(path, **columns):
    """A plain Parquet file, of which `datasets` knows nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def pictures(numbers):
    return [png(i) for i in numbers]


def test_images_without_names_are_split_by_what_is_in_them(tmp_path):
    """So that rows that are there twice, or moved, stay in one part."""
    order = [*range(60), *range(30)]
    one = parquet(tmp_path / "a.parquet", image=pictures(order))
    other = parquet(tmp_path / "b.parquet", image=pictures(range(69, -1, -1)))
    (train, test), (more, rest) = (
        [set(examples(part)) for part in open_both(path)] for path in (one, other)
    )
    assert not train & test and train | test == {*range(60)}
    assert test == {i for i in rest if i < 60}


def test_plain_columns_are_found_or_named(tmp_path):
    numbers = range(30)
    path = parquet(
        tmp_path / "a.parquet",
        image=[{"bytes": png(i), "path": f"{i}.png"} for i in numbers],
        mask=pictures(numbers),
        kind=[("x", "b 10", "b 2")[i % 3] for i in numbers],
        label=[i % 2 + 7 for i in numbers],
        half=[i / 2 for i in numbers],
    )
    assert open_both(path)[0].class_names == ["7", "8"]
    train, _ = open_both(path, label_column="kind", image_column="mask")
    assert train.class_names == ["b 2", "b 10", "x"]
    assert all(e["label"] == (2, 1, 0)[i % 3] for i, e in examples(train).items())
    for fields, said in (
        ({"label_column": "half"}, "row 0 has 0.0 as its half; a class is a text"),
        ({"label_column": "kid"}, "'kid', which is no column of a.parquet; it has im"),
        ({"other_columns": ("x",)}, "other_columns names 'x', which is no column"),
        ({"image_column": "label"}, "columns image, mask, and 'label' is none of them"),
    ):
        with pytest.raises(UserError, match=said):
            open_both(path, **fields)


def test_rows_without_an_image_are_left_and_no_path_is_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    rows = [{"bytes": png(i), "path": None} for i in range(20)]
    rows += [None, {"bytes": None, "path": str(secret)}]
    path = parquet(tmp_path / "a.parquet", image=rows)
    parts = open_both(path)
    assert set(examples(parts[0])) | set(examples(parts[1])) == {*range(20)}
    assert parts[0].facts["rows"] == "20; left: 2 without an image"
    alone = parquet(
        tmp_path / "b.parquet",
        image=pa.array(
            rows[-1:], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        ),
    )
    with pytest.raises(UserError, match="no image in the rows .* path alone is not fo"):
        open_both(alone)


def test_broken_images_are_named_counted_and_left_out(tmp_path, capsys):
    path = parquet(tmp_path / "a.parquet", image=[*pictures(range(20)), b"broken"])
    with pytest.raises(UserError, match="a.parquet: row 20 can't be read.*=skip"):
        open_both(path)
    assert sum(map(len, open_both(path, broken="skip"))) == 20
    with pytest.raises(UserError, match="1 examples can't be used"):
        checking.check(config_of(path).data)
    assert "row 20 can't be read as an image" in capsys.readouterr().out


def test_data_may_be_moved_but_not_changed_under_a_run(written, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(written / "both", folder)
    run = changed.recorded(config_of(folder), *open_both(folder))
    folder.rename(tmp_path / "there")
    for split in SPLITS:
        run.data.path = str(tmp_path / "there")
        sources.open_source(run.data, split)
    shutil.copytree(written / "both" / "train", folder / "train")
    shutil.copytree(written / "both" / "train", folder / "validation")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(UserError, match="test examples are not those"):
        open_both(folder, found=run.data.found)


def test_a_parquet_file_is_unpacked_once_and_anew_where_it_is_another(tmp_path):
    path = parquet(tmp_path / "a.parquet", image=pictures(range(20)))
    cache = tmp_path / "cache" / "mt_diffusion" / "arrow"
    open_both(path)
    (kept,) = cache.iterdir()
    before = kept.stat().st_mtime_ns
    open_both(path)
    assert [*cache.iterdir()] == [kept] and kept.stat().st_mtime_ns == before
    parquet(path, image=pictures(range(25)))
    assert sum(map(len, open_both(path))) == 25


def state(folder, content):
    (folder / "state.json").write_text(json.dumps(content))


def outside(folder):
    state(folder, {"_data_files": [{"filename": "../validation/data.arrow"}]})


def nothing(folder):
    state(folder, {"_data_files": []})


def no_json(folder):
    (folder / "state.json").write_text("{" * 5000)


def gone(folder):
    next(folder.glob("*.arrow")).unlink()


def cut(folder):
    path = next(folder.glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:900])


def scribbled(folder):
    """Offsets of images that lie far outside of what there is."""
    path = next(folder.glob("*.arrow"))
    table = pa.table({"img": pa.array([bytes(0x0102)], pa.binary())})
    with pa.OSFile(str(path), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    content = bytearray(path.read_bytes())
    offsets = content.rindex(bytes([0, 0, 0, 0, 2, 1, 0, 0]))  # 0 and 258
    content[offsets + 7] = 64
    path.write_bytes(content)


def rewritten(folder, columns, features):
    """A table of these columns, with what is said of them."""
    said = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    arrays = [pa.array(values, kind) for _, values, kind in columns]
    schema = pa.schema(
        [(n, a.type) for (n, *_), a in zip(columns, arrays, strict=True)]
    )
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata(said))
    path = next(folder.glob("*.arrow"))
    with pa.OSFile(str(path), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)


def twice(folder):
    rewritten(folder, 2 * [("img", [png(1)], pa.binary())], {})


def no_bytes(folder):
    """Said to be images, and texts: none is found where nothing is bytes."""
    rewritten(folder, [("img", ["a.png"], pa.string())], {"img": {"_type": "Image"}})


def odd_words(folder):
    """What is said of columns makes no sense, and paths are numbers."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.int64())])
    image = ("img", [{"bytes": png(1), "path": 7}], kind)
    fine = ("fine", [5], pa.int64())
    rewritten(folder, [image, fine], {"img": 3, "fine": {"names": [1, 2]}})


def splits_outside(folder):
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["../x", "train"]}')


@pytest.mark.parametrize(
    "damage, said",
    [
        (outside, "names '../validation/data.arrow', which is no file beside it"),
        (nothing, r"state.json is not as save_to_disk writes it .*_data_files is \[\]"),
        (no_json, "state.json is not as save_to_disk writes it"),
        (gone, "arrow can't be read as a table"),
        (cut, "arrow can't be read as a table"),
        (scribbled, "arrow can't be read as a table"),
        (twice, "train has two columns of one name"),
        (no_bytes, "train has the image columns none: name one"),
        (odd_words, "row 0 has 5 as its fine; .* a whole number below 2"),
        (splits_outside, "names '../x', which is no file beside it"),
    ],
)
def test_hostile_and_broken_data_are_refused_in_words(written, tmp_path, damage, said):
    shutil.copytree(written / "both", tmp_path / "both")
    damage(tmp_path / "both" / "train")
    with pytest.raises(UserError, match=said) as refused:
        open_both(tmp_path / "both")
    assert "\n" not in str(refused.value)


def test_paths_that_are_no_data_are_said(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for path in ("", tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(
            UserError, match="is no folder of save_to_disk, no .parquet"
        ):
            open_both(path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(UserError, match="a.parquet can't be read as a table"):
        open_both(tmp_path / "a.parquet")
    assert not list((tmp_path / "cache").rglob("*.*"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r"data.source = 'hf' needs.*mt-diffusion\[hf\]"
    ):
        open_both(parquet_copy(tmp_path))


def parquet_copy(tmp_path):
    return shutil.copy(tmp_path / "a.parquet", tmp_path / "b.parquet")
