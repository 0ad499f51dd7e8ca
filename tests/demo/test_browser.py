"""The page in headless Chromium, through every control, and on a phone's width."""

import base64
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from tests.demo import small

pytestmark = pytest.mark.wide
pytest.importorskip("gradio", reason="the page needs the extra demo")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="pip install playwright drives the browser"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM:
    pytest.skip(
        "there is no chromium: apt-get install chromium", allow_module_level=True
    )
START, SLOW = 240, 60_000  # seconds, milliseconds; of a machine that is busy
READY = "document.querySelector('#status')?.innerText.includes('ready')"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def is_open(host, port):
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0


class Server:
    """The page's process. folder: where it has its temporary files."""

    def __init__(self, root):
        self.folder, self.port = root / "tmp", free_port()
        self.folder.mkdir()
        model = small.saved(root / "run")
        words = ["-m", "mt_diffusion.demo", f"--workdir={model}", f"--port={self.port}"]
        self.log = open(root / "log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, *words],
            env=os.environ | {"TMPDIR": str(self.folder)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + START
        while not is_open("127.0.0.1", self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(self.log.read())
            time.sleep(0.2)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"

    def kept(self):
        """Bytes of visitors that lie in its folder."""
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        return sum(p.stat().st_size for p in files)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.process.kill()
    running.log.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        args = ["--no-sandbox"]
        found = running.chromium.launch(executable_path=CHROMIUM, args=args)
        yield found
        found.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page; afterwards, nothing was asked for elsewhere or went wrong."""
    contexts, asked_for, wrong = [], [], []

    def open_page(query="", **how):
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(SLOW)
        page.on("request", lambda request: asked_for.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.goto(server.address + query)
        page.wait_for_function(
            "/ready|link/.test(document.querySelector('#status')?.innerText)"
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    own = (server.address, "data:", "blob:")
    assert [url for url in asked_for if not url.startswith(own)] == []
    assert wrong == []


def make(page, button="#make"):
    """Clicks, and waits until all is there; the captions of the gallery."""
    page.locator("#downloads").evaluate(
        "e => e.querySelectorAll('p').forEach(p => p.classList.add('old'))"
    )
    page.click(button)
    page.wait_for_selector("#downloads p:not(.old) a")
    return page.locator("#gallery figcaption").all_inner_texts()


def heading(page):
    return page.inner_text("#gallery .mt-head")


def pictures(page):
    found = page.locator("#gallery img").evaluate_all("all => all.map(e => e.src)")
    return [src for src in found]


def painted(page):
    """How many pixels of the canvas are hidden, by their colour."""
    return page.evaluate(
        """() => {
          const canvas = document.querySelector("#brush-masked_image canvas");
          const {width, height} = canvas;
          const all = canvas.getContext("2d").getImageData(0, 0, width, height).data;
          let count = 0;
          for (let i = 0; i < all.length; i += 4) count += all[i] > all[i + 2] + 40;
          return count;
        }"""
    )


def tab(page, name):
    page.click(f"button[role=tab]:has-text('{name}')")


def test_from_nothing_and_what_can_be_saved(visit, tmp_path):
    page = visit()
    begun = time.monotonic()
    page.click("#make")
    page.wait_for_selector("#gallery img")
    assert time.monotonic() - begun < 30  # 5 s where nothing else runs
    page.wait_for_selector("#downloads a")
    assert page.locator("#gallery figure").count() == 8
    assert heading(page) == "image | label | masked_image (mean)"
    for name in ("grid.png", "samples.npz", "samples.csv"):
        with page.expect_download() as saved:
            page.click(f"#downloads a[download='{name}']")
        saved.value.save_as(tmp_path / name)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["image"].shape == (8, 8, 8, 1)
        src = page.get_attribute("#gallery img >> nth=0", "src").split(",")[1]
        first = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(src))))
        np.testing.assert_array_equal(first, arrays["image"][0, ..., 0])
    PIL.Image.open(tmp_path / "grid.png").load()


def test_a_class_is_clicked(visit):
    page = visit()
    page.click("#class-label label:has-text('7')")
    assert make(page) == ["7"] * 8
    assert "label (given)" in heading(page)
    page.click("#class-label label:has-text('made')")
    make(page)
    assert "given" not in heading(page)


def drag(page, ways):
    box = page.locator("#brush-masked_image canvas").bounding_box()
    places = [
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ways
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def test_a_part_is_painted_away_and_restored(visit, tmp_path):
    page = visit()
    drag(page, [(0.3, 0.3), (0.7, 0.3)])
    assert 0 < painted(page) < 32
    make(page)
    assert "masked_image (given)" in heading(page)
    assert page.locator("#gallery .mt-given").count() == 8  # beside each filling
    page.wait_for_selector("#downloads a[download='given_masked_image.png']")
    page.click("#brush-masked_image button:has-text('lower half')")
    assert painted(page) == 32
    page.click("#brush-masked_image button:has-text('nothing')")
    assert painted(page) == 0
    make(page)
    assert "given" not in heading(page)
    page.fill("#brush-masked_image input[type=range]", "1")
    drag(page, [(0.55, 0.55)])
    assert painted(page) == 1
    page.click("#draw-masked_image")
    page.wait_for_function("true")
    PIL.Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    page.set_input_files("#drop-masked_image input", tmp_path / "white.png")
    white = "() => { const c = document.querySelector('#brush-masked_image canvas');"
    white += (
        "return c.getContext('2d').getImageData(0, 0, 8, 8).data.every(v => v > 250)}"
    )
    page.wait_for_function(white)


def test_a_picture_is_dropped_in_and_read(visit, server, tmp_path):
    page = visit()
    PIL.Image.new("L", (50, 70), 99).save(tmp_path / "photo.jpg")
    page.set_input_files("#drop-image input", tmp_path / "photo.jpg")
    page.wait_for_selector("#reading .mt-bar")
    assert page.locator("#reading .mt-bar").count() == 10
    page.wait_for_selector("#picture-image img")
    make(page)
    assert "image (given)" in heading(page)
    assert page.locator("#downloads a[download='given_image.png']").count() == 1
    page.click("#none-image")
    page.wait_for_selector("#picture-image img", state="detached")
    make(page)
    assert "given" not in heading(page)
    assert server.kept() == 0


def test_what_is_no_picture_is_said_to_be_none(visit, server, tmp_path):
    page = visit()
    (tmp_path / "no.png").write_text("no picture")
    page.set_input_files("#drop-image input", tmp_path / "no.png")
    page.wait_for_selector("text=no.png can't be read as an image")
    PIL.Image.new("L", (9, 9)).save(tmp_path / "good.png")
    page.set_input_files(
        "#drop-image input", tmp_path / "good.png"
    )  # the place is free
    page.wait_for_selector("#reading .mt-bar")
    assert server.kept() == 0


def test_what_is_too_large_is_said_to_be(visit, server, tmp_path):
    page = visit()
    (tmp_path / "large.png").write_bytes(bytes(5_000_000))
    page.set_input_files("#drop-image input", tmp_path / "large.png")
    page.wait_for_selector("text=/exceeds|too large|maximum/i")
    assert server.kept() == 0


def test_settings_and_the_link_that_holds_them(visit):
    page = visit()
    first = pictures(page) or (make(page) and pictures(page))
    page.click("#settings button")
    page.click("#settings label:has-text('4') >> nth=0")
    page.click("#settings label:has-text('ddim')")
    page.fill("input[aria-label='number input for steps']", "5")
    page.keyboard.press("Tab")
    page.fill("input[aria-label='number input for guidance']", "2")
    page.keyboard.press("Tab")
    page.click("#class-label label:has-text('5')")
    assert make(page, "button:has-text('Another seed')") == ["5"] * 4
    assert not set(first) & set(pictures(page))
    tab(page, "The same elsewhere")
    link = page.input_value("#link textarea, #link input")
    query = "num=4&steps=5&sampler=ddim&guidance=2&seed=1&given.label=5"
    assert link.endswith(f"/?{query}")
    command = page.inner_text("#command")
    assert "--given=label=5" in command and "--sampler=ddim" in command
    lines = page.inner_text("#python")
    assert "given={'label': '5'}" in lines and "seed=1" in lines
    other = visit(f"?{query}")
    assert make(other) == ["5"] * 4
    assert pictures(other) == pictures(page)  # the same settings, the same pictures
    strange = visit("?steps=many&given.label=none")
    said = strange.inner_text("#status")
    assert "steps=many" in said and "given.label=none" in said


def test_a_walk_is_played_and_gone_through(visit):
    page = visit()
    page.click("#walk")
    page.wait_for_selector("#frames .mt-frame.mt-now")
    assert page.locator("#frames .mt-frame").count() == 3
    page.wait_for_function("document.querySelector('#frames input').value === '2'")
    assert page.locator("#frames .mt-now .mt-bar").count() == 10
    page.fill("#frames input", "0")
    assert page.inner_text("#frames output") == "t = 20"
    page.click("#frames button")
    page.wait_for_function("document.querySelector('#frames input').value === '2'")
    assert re.search(r"label is \d from t = \d+ on", page.inner_text("#frames p"))


def test_cancelling_and_waiting_for_ones_turn(visit):
    one, two = visit("?steps=19&num=32"), visit()
    one.click("#make")  # whose program has to be made first
    one.wait_for_selector("#status progress")
    two.click("#make")
    two.wait_for_selector("text=/queue/i")
    one.click("#cancel")
    one.wait_for_selector("text=stopped")
    two.wait_for_selector("#downloads a")
    assert two.locator("#gallery figure").count() == 8
    assert one.locator("#downloads a").count() == 0
    assert len(make(one)) == 32


def test_on_a_phone(visit, browser):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    canvas = page.locator("#brush-masked_image canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box["width"] > 200
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert painted(page) > 0
    page.locator("#class-label label:has-text('4')").tap()
    page.locator("#make").tap()
    page.wait_for_selector("#downloads a")
    page.locator("#walk").tap()
    page.wait_for_selector("#frames .mt-frame.mt-now")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_server_listens_here_alone_and_tells_browsers_so(server, visit):
    page = visit()
    answer = page.request.get(server.address)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    inside = socket.gethostbyname(socket.gethostname())
    if not inside.startswith("127."):
        assert not is_open(inside, server.port)
    page.close()


def test_it_ends_tidily(server):  # the last one
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert list(pathlib.Path(server.folder).glob("mt_diffusion_demo_*")) == []
