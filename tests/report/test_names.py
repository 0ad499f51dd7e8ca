"""Figures by short names, the long one a tooltip; the page anew after an evaluation."""

import re

import pytest

from mt_diffusion.evaluation.figures import full_name, short_names
from mt_diffusion.report import report
from tests.report.test_report import make_run, metric

LONG = full_name("fid_convnet", 5000, 1.0, 0.0)


@pytest.mark.parametrize(
    "more", [(1.0, 0.0), (2.5, 0.0), (1.0, 0.3), (1.5, 0.5, 2.0)], ids=str
)
@pytest.mark.parametrize("num", [1, 256, 5000, 10_000])
def test_a_short_name_lacks_what_the_long_one_added(num, more):
    assert short_names([full_name("fid_convnet", num, *more)]).popitem()[1] == (
        "fid_convnet"
    )


def test_names_that_would_be_the_same_stay_long():
    names = ["fid_5k_cfg1.0", "fid_5k_cfg2.0", "kid_5k_cfg2.0", "bits_of_256"]
    assert list(short_names(names).values()) == [*names[:2], "kid", "bits_of_256"]


def test_the_page_has_the_long_name_as_a_tooltip(tmp_path):
    run = make_run(tmp_path / "run", None, [metric(LONG, 3.0, "lower")])
    other = make_run(tmp_path / "other", None, [metric(LONG, 4.0, "lower")])
    for path in (report.write(run), report.compare([run, other], tmp_path / "c.html")):
        page = path.read_text()
        assert re.search(
            rf'<abbr title="{re.escape(LONG)}">fid_<wbr>convnet</abbr>', page
        )
        assert page.count(LONG) == 1


def test_a_page_is_written_again_where_there_is_a_run(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    report.again(run)
    assert "index.html" in capsys.readouterr().out
    (run / "metrics.jsonl").unlink()
    report.again(run)
    assert capsys.readouterr().out == ""
