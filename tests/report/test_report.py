"""The pages: what they say, that they are whole, and what a browser makes of them."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree

import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.report import figures, plots, record, report, tables
from mt_diffusion.report.plots import Line
from mt_diffusion.report.record import Series

VOID = {"meta", "img"}
EVIL = "<script>alert(1)</script>"


def metric(name, value, better, floor=None, ceiling=None, draw="joint"):
    marks = {"floor": floor, "ceiling": ceiling}
    marks = {k: v and {"value": v, "of": f"{k} of {name}"} for k, v in marks.items()}
    return {"draw": draw, "name": name, "value": value, "better": better} | marks


METRICS = [
    metric("fid_5k", 3.25, "lower", 83.25, 1.25),
    metric("coherence_5k", 0.75, "higher", 0.5, 1.0),
    metric("bits_of_16", 2.875, "lower", draw="likelihood"),
]


def make_run(workdir, config=None, metrics=METRICS, scale=1.0):
    """All that a run can leave behind."""
    (workdir / "samples").mkdir(parents=True)
    config = config or common.digits()
    checkpoints = Checkpoints(workdir, 1)
    params = {"params": {"unet": {"a": np.zeros((30, 4))}, "heads_x": np.zeros(7)}}
    checkpoints.save(400, {"params": params}, config)
    checkpoints.close()
    rows = [
        {"step": s, "eps": scale * 10 / s, "x": scale / s, "loss": scale * 11 / s}
        | {"images_per_second": 64.0, "grad_norm": 1.0, "skipped": 0.0}
        for s in range(10, 401, 10)
    ]
    for s in (200, 400):
        rows.append({"step": s, "test_eps": 0.5, "test_x": scale * s, "test_loss": 1})
        rows[-1] |= {"grad_share_image": 0.75, "grad_share_x": 0.25, "nothing": None}
        noise = np.random.default_rng(s).integers(256, size=(64, 96, 3), dtype=np.uint8)
        for kind in ("joint", "given_x"):
            PIL.Image.fromarray(noise).save(workdir / f"samples/{s:07d}_{kind}.png")
    lines = [json.dumps(row) for row in rows]
    (workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 500, "ep']))
    folder = workdir / "evaluation" / "400"
    (folder / "joint").mkdir(parents=True)
    manifest = {"step": 400, "num_samples": 5000, "seed": 0, "versions": {"jax": "0.9"}}
    evaluation = {"manifest": manifest, "metrics": metrics}
    (folder / "metrics.json").write_text(json.dumps(evaluation))
    for name in ("joint/grid.png", "neighbours.png"):
        shutil.copy(workdir / "samples/0000400_joint.png", folder / name)
    term = {"mean": 1.5625, "standard_error": None, "num_examples": 1234}
    facts = {"step": 400, "parameters": "raw", "num_times": 7, "seed": 0}
    (workdir / "bounds").mkdir()
    bounds = json.dumps(facts | {"terms": {"L0_bits": term}})
    (workdir / "bounds" / "400.json").write_text(bounds)
    (workdir / "reading.json").write_text(
        json.dumps({"step": 400, "averaged": True, "levels": {"x": [44, 87]}})
    )
    return workdir


def make_bare_run(workdir):
    workdir.mkdir()
    (workdir / "metrics.jsonl").write_text("")
    return workdir


class Page(html.parser.HTMLParser):
    """A page's pictures, text, headings, addresses and ids; asserts that tags close."""

    def __init__(self, path):
        super().__init__()
        self.open, self.images, self.words, self.tags = [], [], [], []
        self.addresses, self.ids = [], []
        self.source = path.read_text()
        self.feed(self.source.replace("<wbr>", ""))  # where a name may break
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        self.addresses += [attrs[a] for a in ("href", "src") if a in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: path} of a report of all parts, one of none, and a comparison."""
    folder = tmp_path_factory.mktemp("runs")
    config = common.digits()
    config.optimizer.learning_rate = 0.0625
    config.modalities = {"x": {"kind": "label.Codebook", "class_names": (EVIL,)}}
    full = make_run(folder / "<script>", config)
    worse = [
        m | {"value": v} for m, v in zip(METRICS, (9.5, 0.875, 2.875), strict=True)
    ]
    other = make_run(folder / ("long_name_" * 6), None, worse, scale=2.0)
    bare = make_bare_run(folder / "bare")
    return {
        "full": report.write(full, common.digits()),
        "bare": report.write(bare),
        "compare": report.compare([full, other, bare], folder / "new" / "runs.html"),
    }


@pytest.mark.parametrize("name", ["full", "bare", "compare"])
def test_a_page_is_whole_by_itself(pages, name):
    page = Page(pages[name])
    assert all(a.startswith(("data:image/", "#")) for a in page.addresses)
    assert not re.search(r"https?:|url\(|@import|<script|<link", page.source)
    assert all(image["alt"] and int(image["width"]) for image in page.images)
    assert page.tags.count("figcaption") == page.tags.count("img")
    anchors = [a[1:] for a in page.addresses if a.startswith("#")]
    assert anchors == page.ids and len(set(anchors)) == len(anchors)
    assert page.tags.count("h1") == 1 and page.tags.count("title") == 1


def test_every_picture_can_be_decoded_again(pages):
    images = [i["src"] for n in ("full", "compare") for i in Page(pages[n]).images]
    kinds = set()
    for source in images:
        kind, data = source.removeprefix("data:image/").split(";base64,")
        data = base64.b64decode(data, validate=True)
        kinds.add(kind)
        if kind == "svg+xml":
            assert xml.etree.ElementTree.fromstring(data).tag.endswith("svg")
        else:
            PIL.Image.open(io.BytesIO(data)).verify()
    assert kinds == {"svg+xml", "png"}


def test_a_report_has_all_that_there_is(pages):
    text = Page(pages["full"]).text
    for words in (
        "127: unet 120, heads_x 7",  # parameters
        "400 steps of 64 images, 25,600 in all, in 7 min",  # at 64 images per second
        "jax 0.9 (of the evaluation)",
        "fid_5k 3.25 lower 83.25 floor of fid_5k 1.25 ceiling of fid_5k",
        "bits_of_16 2.875 lower – –",
        "L0_bits 1.562 – 1,234",
        "x 44, 87",
        "in the end image 75%, x 25%",
        "test 200 → 400",
        "optimizer.learning_rate 0.0625 0.004",  # and its default
        "Step 400 last",
        "Step 200 first",
    ):
        assert words in text, words
    assert "No " not in text and "Not " not in text


def test_what_is_missing_is_said_with_what_makes_it(pages):
    page = Page(pages["bare"])
    assert page.images == [] and "table" not in page.tags
    for words in (
        "--mode=evaluate",
        "--mode=bound",
        "--mode=read",
        "--mode=sample",
        "config.watch.gradient_shares",
        "config.watch.log_every",
        "config.watch.checkpoint_every",
    ):
        assert words in page.text, words


def test_text_is_escaped(pages):
    for name in ("full", "compare"):
        page = Page(pages[name])
        assert "script" not in page.tags
        assert "<script>" in page.text and EVIL in page.text


def test_a_comparison_marks_the_best_and_what_differs(pages):
    page = Page(pages["compare"])
    assert "fid_5k lower 3.25 ✓ 9.5 –" in page.text
    assert "coherence_5k higher 0.75 0.875 ✓ –" in page.text
    assert "bits_of_16 lower 2.875 ✓ 2.875 ✓ –" in page.text  # both
    assert "optimizer.learning_rate 0.0625 0.004 –" in page.text
    assert "train.batch_size 64 64 –" in page.text  # the bare run's is not known
    assert "x, test" in page.text and "lowest in the end: <script> 400" in page.text
    assert "bare is not evaluated yet" in page.text


def test_equal_configs_have_no_differences(tmp_path):
    runs = {n: record.load(make_run(tmp_path / n)) for n in "ab"}
    assert tables.differing(runs) == []


def test_a_second_report_is_the_first(pages, tmp_path):
    folder = pages["full"].parents[1]
    before = pages["full"].read_bytes()
    assert report.write(folder, common.digits()).read_bytes() == before
    assert [p.name for p in (folder / "report").iterdir()] == ["index.html"]


def test_a_large_picture_is_made_small(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(3000, 2000, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    PIL.Image.fromarray(noise).save(path)
    found = figures.picture(path, "", "", "")
    assert max(found.size) == figures.MOST_SIDE
    assert found.size[0] / found.size[1] == pytest.approx(2 / 3, abs=1e-3)
    assert len(found.source) < path.stat().st_size / 10


@pytest.mark.parametrize(
    "value, floor, ceiling, place",
    [(3, 5, 1, 0.5), (0.9, 0.5, 1, 0.8), (9, 5, 1, 0), (0, 5, 1, 1), (1, 2, 2, None)],
)
def test_a_bar_runs_from_floor_to_ceiling_whichever_is_better(
    value, floor, ceiling, place
):
    found = tables.place(metric("m", value, "lower", floor, ceiling))
    assert found == pytest.approx(place) if place is not None else found is None


@pytest.mark.parametrize(
    "value, place", [(1, 0), (1.5, 0.5), (2, 1), (2.25, 0.75), (4, 0)]
)
def test_what_should_be_near_its_ceiling_is_as_bad_beyond_it(value, place):
    assert tables.place(metric("m", value, "near", 1, 2)) == pytest.approx(place)


@pytest.mark.parametrize(
    "better, goal, best",
    [
        ("lower", None, [True, False, False, False]),
        ("higher", None, [False, False, False, True]),
        ("near", 1.0, [False, True, False, False]),
        ("near", None, [False] * 4),
    ],
)
def test_the_best_of_several(better, goal, best):
    cells = tables.mark_best([0.5, 1.25, None, 2.5], better, goal)
    assert [cell.is_best for cell in cells] == best


def test_last_middle_and_first():
    assert figures.spread([5]) == {"last": 5}
    assert figures.spread([5, 6]) == {"last": 6, "first": 5}
    steps = list(range(50))
    assert list(figures.spread(steps).items()) == [
        ("last", 49),
        ("middle", 24),
        ("first", 0),
    ]


def test_the_moving_average_keeps_constants_and_means():
    values = np.random.default_rng(0).normal(size=6000)
    steps = np.arange(6000)
    trend = plots.trend(Line(Series(steps, values), 0, True))
    assert len(trend.values) == plots.MOST_POINTS
    assert trend.steps.mean() == pytest.approx(steps.mean())
    assert trend.values.std() < 0.5 * plots.binned(Series(steps, values)).values.std()
    flat = plots.trend(Line(Series(steps, np.full(6000, 2.5)), 0, True))
    np.testing.assert_allclose(flat.values, 2.5)
    exact = Series(steps[:100], values[:100])
    np.testing.assert_array_equal(
        plots.trend(Line(exact, 0, False)).values, values[:100]
    )


def test_wide_positive_curves_alone_have_a_logarithmic_axis():
    assert plots.is_wide(np.array([0.1, 2.0]))
    assert not plots.is_wide(np.array([0.1, 0.9]))
    assert not plots.is_wide(np.array([-0.1, 2.0])) and not plots.is_wide(np.zeros(3))


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no metrics.jsonl"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="--runs is empty"):
        report.compare([], tmp_path / "runs.html")
    bare = make_bare_run(tmp_path / "bare")
    with pytest.raises(UserError, match="is a folder"):
        report.compare([bare], tmp_path)
    with pytest.raises(UserError, match="twice"):
        report.compare([bare, bare], tmp_path / "runs.html")


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --enable-logging=stderr --allow-file-access-from-files "
    "--virtual-time-budget=10000 --window-size=1400,1000 --dump-dom"
).split()
# Frames have the widths that windows may not have; it writes what it finds of each.
HARNESS = """<body><script>
const found = [];
for (const width of [390, 1280]) {
  const frame = document.createElement("iframe");
  frame.style.width = width + "px";
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement;
    found.push({
      width, page: root.scrollWidth,
      pictures: [...page.images].map(i => i.naturalWidth > 0 && i.complete),
      requests: frame.contentWindow.performance.getEntriesByType("resource")
        .map(entry => entry.name),
    });
    document.title = JSON.stringify(found);
  };
  frame.src = "PAGE";
  document.body.append(frame);
}
</script></body>"""


def browse(path, folder):
    """What a browser finds of a page at each width, and what its console says."""
    harness = folder / "harness.html"
    harness.write_text(HARNESS.replace("PAGE", path.as_uri()))
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, profile, harness.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search("<title>(.*)</title>", done.stdout)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title[1])), console


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH")


@needs_chromium
@pytest.mark.parametrize("name", ["full", "bare", "compare"])
def test_a_browser_shows_it_from_disk(pages, tmp_path, name):
    found, console = browse(pages[name], tmp_path)
    assert console == []
    assert sorted(f["width"] for f in found) == [390, 1280]
    for each in found:
        assert each["page"] <= each["width"], "it scrolls sideways"
        assert all(each["pictures"]) and each["requests"] == []
        assert len(each["pictures"]) == len(Page(pages[name]).images)


@needs_chromium
def test_the_browser_would_tell(tmp_path):
    """Each of the faults that the test above looks for."""
    page = tmp_path / "page.html"
    page.write_text(
        "<link rel=stylesheet href=http://127.0.0.1:9/x.css>"
        "<div style='width: 800px'>wide</div>"
        "<img src='data:image/png;base64,AAAA'><script>console.error('x')</script>"
    )
    found, console = browse(page, tmp_path)
    assert console
    narrow = min(found, key=lambda each: each["width"])
    assert narrow["page"] > narrow["width"]
    assert narrow["pictures"] == [False] and len(narrow["requests"]) == 1
