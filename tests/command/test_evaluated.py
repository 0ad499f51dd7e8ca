"""After an evaluation the report is written again, unless it went elsewhere."""

import pytest
from absl import flags
from absl.testing import flagsaver

from mt_diffusion.command import modes
from mt_diffusion.evaluation import evaluate
from mt_diffusion.report import report


@pytest.mark.parametrize("out, written", [("", 1), ("elsewhere", 0)])
def test_the_report_is_written_again(out, written, monkeypatch, tmp_path):
    done, again = [], []
    monkeypatch.setattr(evaluate, "evaluate", lambda *args: done.append(args))
    monkeypatch.setattr(report, "again", lambda workdir, _: again.append(workdir))
    with flagsaver.flagsaver():
        flags.FLAGS(
            ["main", "--mode=evaluate", f"--workdir={tmp_path}", f"--out={out}"]
        )
        modes.evaluate()
    assert len(done) == 1 and again == [tmp_path] * written
