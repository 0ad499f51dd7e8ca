"""Every byte of the files below a folder is accounted for."""

import json
import zlib

import pytest
import xxhash

from mt_diffusion.files import digests

PARTS = ("a", "b")


@pytest.fixture
def written(tmp_path):
    """Two parts with files, one of them empty, and a file that belongs to no part."""
    for name, content in {"a/1": b"one", "a/deep/2": b"", "b/3": bytes(3000)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "beside").write_text("changes later")
    digests.write(tmp_path)
    return tmp_path


def test_what_is_as_written_passes_and_what_has_no_digests_says_so(written, tmp_path):
    (written / "beside").write_text("has changed")
    assert digests.check(written, PARTS)
    (written / digests.FILE).unlink()
    assert not digests.check(written, PARTS)


@pytest.mark.parametrize("kind", ["xxh3_64", "crc32"])
def test_it_is_the_size_and_the_common_checksum_of_each_piece(
    written, monkeypatch, kind
):
    """Of either kind; those of CRC-32 are of an earlier version."""
    monkeypatch.setattr(digests, "PIECE", 1000)
    monkeypatch.setattr(digests, "CHUNK", 300)  # which no piece is a multiple of
    content = bytes(i % 251 for i in range(2500))
    (written / "a" / "1").write_bytes(content)
    digests.write(written)
    kept = json.loads((written / digests.FILE).read_text())
    pieces = [content[:1000], content[1000:2000], content[2000:]]
    assert kept["kind"] == "xxh3_64"
    assert kept["files"]["a/1"] == [2500, *map(xxhash.xxh3_64_hexdigest, pieces)]
    assert kept["files"]["a/deep/2"] == [0]
    if kind == "crc32":
        old = {"a/1": [2500, *map(zlib.crc32, pieces)], "a/deep/2": [0]}
        (written / digests.FILE).write_text(json.dumps(old))
    assert digests.check(written, PARTS)
    for place in (0, 999, 1000, 1999, 2000, 2499):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (written / "a" / "1").write_bytes(damaged)
        with pytest.raises(digests.Damaged, match="a/1 is damaged"):
            digests.check(written, PARTS)


@pytest.mark.parametrize("name", ["a/1", "a/deep/2", "b/3"])
@pytest.mark.parametrize("damage", ["delete", "longer", "shorter", "flip"])
def test_any_damage_is_seen_in_the_parts_that_are_asked_for(written, name, damage):
    path = written / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "longer":
        path.write_bytes(content + b"\0")
    elif not content:
        pytest.skip("nothing to damage")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(digests.Damaged, match=name):
        digests.check(written, PARTS)
    (other,) = set(PARTS) - {name[0]}
    assert digests.check(written, [other])


def test_shares_look_at_each_file_once(written, monkeypatch):
    looked_at = []
    of = digests.xxh3
    monkeypatch.setattr(digests, "xxh3", lambda p, i: looked_at.append(p) or of(p, i))
    for i in range(2):
        assert digests.check(written, PARTS, (i, 2))
    names = sorted(p.relative_to(written).as_posix() for p in looked_at)
    assert names == ["a/1", "b/3"]  # of an empty file the size is enough


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '{"a/1": 3}',
        '{"a/1": [3, "x"]}',
        '{"files": {}}',
        '{"kind": "md5", "files": {}}',
        '{"kind": [], "files": {}}',
    ],
)
def test_digests_that_are_broken_themselves_are_seen(written, text):
    (written / digests.FILE).write_text(text)
    with pytest.raises(digests.Damaged):
        digests.check(written, PARTS)


@pytest.mark.parametrize(
    "text",
    ['{"kind": "blake3", "files": {"a/1": [3]}}', '{"kind": "tree", "root": "ab12"}'],
)
def test_digests_of_a_later_kind_are_told_from_damage(written, text):
    (written / digests.FILE).write_text(text)
    with pytest.raises(digests.Newer, match=json.loads(text)["kind"]):
        digests.check(written, PARTS)
