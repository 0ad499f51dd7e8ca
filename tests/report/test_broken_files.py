"""A log is no reason to stop: what is broken is passed over, said, or made again."""

import json

import numpy as np
import PIL.Image
import pytest

from mt_diffusion.report import record, report
from mt_diffusion.training import watch

METRIC = {"draw": "joint", "name": "fid_5k", "value": 3.0, "better": "lower"}
METRIC |= {"floor": None, "ceiling": None}
JSON = {
    "reading.json": {"step": 2, "averaged": True, "levels": {"x": [3]}},
    "bounds/2.json": {
        "step": 2,
        "parameters": "raw",
        "num_examples": 4,
        "num_times": 2,
        "seed": 0,
        "terms": {"total": {"mean": 1.0, "standard_error": 0.1, "unit": "nats"}},
    },
    "evaluation/2/metrics.json": {
        "manifest": {"step": 2, "versions": {}},
        "metrics": [METRIC],
    },
}


@pytest.fixture
def run(tmp_path):
    """A run without checkpoints, which has logged two steps."""
    lines = [json.dumps({"step": s, "loss": 1.0 / s, "eps": 0.5}) for s in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "samples").mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(32, 32), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "samples" / "0000002_joint.png")
    return tmp_path


BROKEN = [b'{"step": 2, "lo', b"\xff\xfe", b"[2]", b'{"step": "2"}', b"{}", b"null"]
BROKEN += [b'{"step": 3, "loss": "x"}', b'{"step": 3, "loss": {}}', b"[" * 9999]


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_passed_over_and_counted(run, line, capsys):
    path = run / "metrics.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert list(record.read_series(path)["loss"].steps) == [1, 2]
    assert "passed over 1 of 3 lines" in capsys.readouterr().out
    watch.keep_lines(path, 1)  # as training does when it goes on
    assert [row["step"] for row in watch.read_lines(path)] == [1]
    assert path.read_text().count("\n") == 1


def test_a_flipped_byte_anywhere_in_the_log_ends_nothing(run):
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        record.read_series(path)
        watch.keep_lines(path, 2)


def test_a_broken_picture_leaves_a_page_that_says_so(run, capsys):
    path = run / "samples" / "0000002_joint.png"
    path.write_bytes(path.read_bytes()[:60])
    page = report.write(run).read_text()
    assert "broken file" in page
    assert f"passed over {path}, which is broken" in capsys.readouterr().out


@pytest.mark.parametrize("name", JSON)
def test_files_of_json_with_any_byte_flipped_leave_a_page(run, name):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = json.dumps(JSON[name]).encode()
    for place in [*range(0, len(whole), 11), None]:
        broken = bytearray(whole)
        if place is not None:
            broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        report.load(run)


def test_what_was_broken_is_named(run, capsys):
    (run / "reading.json").write_text("{")
    (run / "bounds").mkdir()
    (run / "bounds" / "2.json").write_text('{"terms": 3}')
    assert report.write(run).exists()
    said = capsys.readouterr().out
    assert "reading.json, which is broken" in said
    assert f"passed over the bounds in {run}, whose file is broken" in said
