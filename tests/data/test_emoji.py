"""The emoji are prepared whole or not at all, and never on both sides of a split."""

import base64
import csv
import hashlib
import http.server
import io
import json
import pathlib
import re
import shlex
import tarfile
import threading

import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.data.prepared import bases, emoji
from mt_diffusion.errors import UserError
from mt_diffusion.files import download

TONED = ["1F44B", "1F44B-1F3FB", "1F44B-1F3FF"]
PLAIN = [f"{0x1F600 + i:X}" for i in range(24)]


def entry(unified, name, **others):
    return {
        "name": name,
        "unified": unified,
        "image": f"{unified.lower()}.png",
        "short_names": [name.lower().replace(" ", "_")],
        "category": "Smileys & Emotion" if unified in PLAIN else "People & Body",
        "subcategory": "face",
    } | others


def texts():
    tones = {
        code.partition("-")[2]: {"image": f"{code.lower()}.png"} for code in TONED[1:]
    }
    wave = entry(TONED[0], "WAVING HAND SIGN", skin_variations=tones)
    return [wave, *(entry(code, f"FACE {i}") for i, code in enumerate(PLAIN))]


def png(code, hand):
    """A disk of a colour of its own, transparent around."""
    seed = [*code.encode(), *hand.encode()]
    colour = np.random.default_rng(seed).integers(200, size=3)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    alpha = np.where(x**2 + y**2 < 0.8, 255, 0)
    pixels = np.dstack([np.broadcast_to(colour, (64, 64, 3)), alpha]).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def package(hand):
    files = {"emoji.json": json.dumps(texts()).encode(), "LICENSE": b"MIT"}
    for code in TONED + PLAIN:
        files[f"img/{hand}/64/{code.lower()}.png"] = png(code, hand)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def integrity(content):
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


class Registry(http.server.ThreadingHTTPServer):
    """Serves the packages; `cut` bytes at most of an answer, where that is set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.packages = {hand: package(hand) for hand in ("twitter", "google")}
        self.hands = {h: (len(p), integrity(p)) for h, p in self.packages.items()}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cut, self.asked = None, []


class Handler(http.server.BaseHTTPRequestHandler):
    """One file of the registry, from wherever it is asked for."""

    def do_GET(self):
        hand = "google" if "google" in self.path else "twitter"
        content, said = self.server.packages[hand], self.headers.get("Range")
        start = int(said.removeprefix("bytes=").rstrip("-")) if said else 0
        self.server.asked.append((hand, start))
        self.send_response(206 if said else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def registry():
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rows(path):
    with open(path, newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def test_what_is_prepared_is_pairs_with_captions(registry, tmp_path, capsys):
    out = tmp_path / "emoji"
    emoji.prepare(out, registry.url, hands=registry.hands)
    assert [p.name for p in tmp_path.iterdir()] == ["emoji"]
    num = len(TONED + PLAIN)
    assert len(list(out.rglob("*.png"))) == 4 * num
    captions = {r["file"]: r["caption"] for r in rows(out / "captions.csv")}
    assert captions["1f44b-1f3fb"].endswith(", light skin tone")
    assert captions["1f600"] == "face 0"
    assert "CC-BY" in (out / "LICENSES" / "README.md").read_text()
    config = common.get_config("smoke").data
    config.update(source="folder", path=str(out / "32/twitter"), pair="folders")
    config.update(pair_path=str(out / "32/google"), image_size=32, channels=3)
    both = [sources.open_source(config, split) for split in ("train", "test")]
    assert sum(map(len, both)) == num
    assert list(both[0].class_names) == ["People & Body", "Smileys & Emotion"]
    example = both[0][0]
    assert example["image"].shape == example["pair"].shape == (32, 32, 3)
    assert (example["image"][0, 0] == 255).all()  # what is transparent, on white
    assert not np.array_equal(example["image"], example["pair"])
    said = capsys.readouterr().out.splitlines()[-1]
    told = dict(re.findall(r"--config\.data\.(\w+)=([^\s)]+)", said))
    assert told == {
        "path": config.path,
        "captions": str(out / "captions.csv"),
        "pair_path": config.pair_path,
    }
    emoji.prepare(out, registry.url, hands=registry.hands)  # again: nothing to do
    said = capsys.readouterr().out
    assert "is there, and whole; remove it" in said
    assert f"--config.data.path={out}/32/twitter" in said
    with pytest.raises(UserError, match="classes are not by --label=subgroup; move"):
        emoji.prepare(out, registry.url, "subgroup", registry.hands)


def test_sub_groups_may_be_the_classes(registry, tmp_path):
    out = tmp_path / "emoji"
    emoji.prepare(out, registry.url, "subgroup", registry.hands)
    config = common.get_config("smoke").data
    config.update(source="folder", path=str(out / "32/twitter"))
    assert list(sources.open_source(config, "train").class_names) == ["face"]
    emoji.prepare(out, registry.url, hands=registry.hands)  # it is whole


def test_a_download_goes_on_where_it_was_cut_off(registry, tmp_path):
    out, half = tmp_path / "emoji", len(registry.packages["twitter"]) // 2
    registry.cut = half
    with pytest.raises(UserError, match="could not be downloaded|ended after") as told:
        emoji.prepare(out, registry.url, hands=registry.hands)
    assert "\n" not in str(told.value) and not out.exists()
    registry.cut = None
    emoji.prepare(out, registry.url, hands=registry.hands)
    assert registry.asked == [("twitter", 0), ("twitter", half), ("google", 0)]
    assert (out / "captions.csv").exists()


@pytest.mark.parametrize("change", [lambda x: x[:-1] + b"?", lambda x: x + b"more"])
def test_another_file_than_was_published_is_refused(registry, tmp_path, change):
    registry.packages["google"] = change(registry.packages["google"])
    with pytest.raises(UserError, match="google.* not the file that was published"):
        emoji.prepare(tmp_path / "emoji", registry.url, hands=registry.hands)
    assert not (tmp_path / "emoji").exists()
    assert not list(tmp_path.rglob("*google*"))


def test_a_server_that_can_not_go_on_sends_it_whole(registry, tmp_path):
    content = registry.packages["google"]
    wanted = download.Wanted(f"{registry.url}/google", *registry.hands["google"])
    part = tmp_path / "file.part"
    part.write_bytes(b"x" * (len(content) + 5))  # of something else
    download.fetch(wanted, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    assert registry.asked == [("google", 0)]


def test_no_net_is_said_in_a_paragraph(tmp_path):
    wanted = download.Wanted("http://127.0.0.1:9/x", 3, "sha512-")
    with pytest.raises(UserError, match="x could not be downloaded .*refused"):
        download.fetch(wanted, tmp_path / "x")


@pytest.mark.parametrize(
    "variant, base",
    [
        ("1F44B-1F3FB", "1F44B"),  # skin tone
        ("1F3C3-200D-2640-FE0F", "1F3C3"),  # sex
        ("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"),  # direction
        ("1F469-200D-1F680", "1F9D1-200D-1F680"),  # woman, as person
        ("1F567", "1F550"),  # half past twelve
        ("1F1F3-1F1F4", "1F1F3-1F1F4"),  # a flag
        ("1F468", "1F468"),
        ("1F469", "1F468"),  # a woman, who is an adult as a man is
        ("1F91C", "1F91B"),  # a fist to the other side
        ("1F483", "1F57A"),  # dancers
        ("0039-FE0F-20E3", "20E3"),  # a keycap
        ("1F3FF", "1F3FB"),  # a skin tone by itself
        ("1F49B", "2764"),  # a yellow heart
        ("2764-FE0F-200D-1F525", "2764-200D-1F525"),  # one that burns is none of these
    ],
)
def test_variants_have_the_base_of_their_kind(variant, base):
    assert bases.base_of(variant) == base


def grey(*levels):
    """Pictures 64x64 of these grey levels, by the names a, b, c, ..."""
    return {
        n: np.full((64, 64, 3), x, np.uint8)
        for n, x in zip("abcdef", levels, strict=False)
    }


def test_bases_of_one_picture_or_one_name_are_of_one_kind():
    of_file = dict(zip("abcdef", "ABCDEF", strict=True))
    names = {file: [f"thing {file}"] for file in of_file}
    names["f"] = ["another name", "thing b"]
    most = int(255 * bases.NEAR)
    one = grey(0, 100, 100 + most, 200, 60, 230)
    other = grey(0, 200, 150, 0, 100, 230)
    assert bases.kinds(of_file, names, [one, other]) == {
        "A": "A",
        "B": "B",
        "C": "B",  # nearly the same in one hand
        "D": "A",  # the same in the other
        "E": "E",
        "F": "B",  # of the same name
    }
    apart = grey(0, 100, 101 + most, 200, 60, 230)
    assert bases.kinds(of_file, names, [apart])["C"] == "C"


def test_words_of_one_side_are_not_on_the_other(registry, tmp_path):
    out = tmp_path / "emoji"
    emoji.prepare(out, registry.url, hands=registry.hands)
    side = {r["file"]: r["split"] for r in rows(out / "emoji.csv")}
    sides = {}
    for row in rows(out / "captions.csv"):
        sides.setdefault(row["caption"], set()).add(side[row["file"]])
    assert all(len(found) == 1 for found in sides.values())


@pytest.mark.parametrize(
    "category, name, short, said",
    [
        ("Flags", "Germany Flag", ["de", "flag-de"], ["germany flag"]),
        ("People & Body", "THUMBS UP SIGN", ["+1", "thumbsup"], ["thumbs up sign"]),
        ("Flags", None, ["us"], ["us"]),  # better than nothing
        ("Symbols", "OK", ["ok"], ["ok"]),
    ],
)
def test_names_that_say_nothing_are_no_captions(category, name, short, said):
    found = emoji.captions({"category": category, "name": name, "short_names": short})
    assert found[: len(said)] == said and not {"1", "de", "flag de"} & set(found)


@pytest.mark.parametrize("there", ["nothing", "a file", "another's"])
def test_what_is_no_prepared_folder_is_not_called_one(registry, tmp_path, there):
    out = tmp_path / "emoji"
    if there == "a file":
        out.write_text("x")
    else:
        out.mkdir()
    if there == "another's":
        (out / "emoji.csv").write_text("file,kind\n1,2\n")
    with pytest.raises(UserError, match="holds no emoji as this version"):
        emoji.prepare(out, registry.url, hands=registry.hands)
    assert registry.asked == [] and out.exists()


def test_a_folder_that_lost_files_says_so(registry, tmp_path):
    out = tmp_path / "emoji"
    emoji.prepare(out, registry.url, hands=registry.hands)
    lost = sorted(out.rglob("*.png"))[:3]
    for path in lost:
        path.unlink()
    with pytest.raises(UserError, match="lacks 3 of its .* move it away"):
        emoji.prepare(out, registry.url, hands=registry.hands)
    left = tmp_path / "emoji.unfinished"
    for path in lost:
        path.write_bytes(b"")
    left.mkdir()
    emoji.prepare(out, registry.url, hands=registry.hands)
    assert not left.exists()


def test_where_configs_look_nothing_has_to_be_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = common.get_config("emoji").data
    assert emoji.flags(pathlib.Path(data.captions).parent) == ("", "")
    first, pair = map(shlex.split, emoji.flags(tmp_path / "a b"))
    place = f"{tmp_path}/a b"
    assert first == [
        f"--config.data.path={place}/32/twitter",
        f"--config.data.captions={place}/captions.csv",
    ]
    assert pair == [f"--config.data.pair_path={place}/32/google"]


def test_the_command_names_its_own_flags():
    text = pathlib.Path("launch/emoji.sh").read_text()
    assert "mt_diffusion.command.emoji" in text and "--registry" in text
    assert "--label" in text
