"""Every byte of the files below a folder is accounted for."""

import zlib

import pytest

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


def test_it_is_the_size_and_the_common_checksum(written):
    content = b"one"
    assert digests.of(written / "a" / "1") == (3, zlib.crc32(content))
    assert digests.of(written / "none") is digests.of(written) is None
    large = bytes(range(256)) * 9000  # read in several parts
    (written / "large").write_bytes(large)
    assert digests.of(written / "large") == (len(large), zlib.crc32(large))


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
    of = digests.of
    monkeypatch.setattr(digests, "of", lambda p: looked_at.append(p) or of(p))
    for i in range(2):
        assert digests.check(written, PARTS, (i, 2))
    names = sorted(p.relative_to(written).as_posix() for p in looked_at)
    assert names == ["a/1", "a/deep/2", "b/3"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a/1": 3}', '{"a/1": [3, "x"]}'])
def test_digests_that_are_broken_themselves_are_seen(written, text):
    (written / digests.FILE).write_text(text)
    with pytest.raises(digests.Damaged):
        digests.check(written, PARTS)
