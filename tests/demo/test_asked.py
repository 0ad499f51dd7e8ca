"""What a visitor asks for, without a browser: links, commands, lines, brush, files."""

import pathlib
import re
import shlex
import urllib.parse

import numpy as np
import PIL.Image
import pytest

import mt_diffusion
from configs import image_representation, image_transition
from configs import text as words
from mt_diffusion.command import options
from mt_diffusion.demo import asked, shown
from mt_diffusion.demo.studio import AT_ONCE, Studio
from mt_diffusion.errors import UserError
from mt_diffusion.inference import sampling
from tests.demo import small

CLASSES = tuple(map(str, range(10)))
SETTINGS = asked.Settings(num=8, steps=3, sampler="ddim", guidance=2.5, seed=4)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = small.saved(tmp_path_factory.mktemp("run"))
    return Studio(mt_diffusion.load(folder), str(folder))


@pytest.fixture
def given(studio):
    """A class, and a picture of which a part is painted away."""
    hidden = np.zeros((8, 8), bool)
    hidden[2:5, 1:4] = True
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 1)).astype(np.uint8)
    return {"label": "3", "masked_image": asked.hide(pixels, hidden)}


def test_controls_follow_from_what_values_a_variable_has(studio):
    found = studio.parts
    assert found["image"] == ("image", (), True, False, 0, False)
    assert found["label"] == ("label", CLASSES, False, False, 0, False)
    assert found["masked_image"] == ("masked_image", (), True, True, 0, False)


@pytest.mark.parametrize(
    "setting, part",
    [
        (image_transition, ("image_b", (), True, False, 0, False)),
        (image_representation, ("representation", (), False, False, 16, False)),
        (words, ("text", (), False, False, 0, True)),
    ],
)
def test_controls_of_other_modalities(setting, part):
    experiment, _ = small.resolved(setting)
    assert asked.part_of(experiment.variables[part[0]]) == part


def test_words_are_given_as_they_were_typed():
    part = asked.Part("text", (), False, False, 0, True)
    settings, given, wrong = asked.read_link(
        {"given.text": "a red heart"}, SETTINGS, {"text": part}
    )
    assert (settings, given, wrong) == (SETTINGS, {"text": "a red heart"}, [])
    assert "'--given=text=a red heart'" in asked.command(
        "m", settings, given, {"text": part}
    )


def test_a_link_says_what_is_set(studio, given):
    query = dict(urllib.parse.parse_qsl(asked.link(SETTINGS, given)))
    start = asked.defaults(studio.model.config)
    assert start != SETTINGS
    assert asked.read_link(query, start, studio.parts) == (SETTINGS, {"label": "3"}, [])


def test_a_link_of_somebody_else_is_read_as_far_as_it_goes(studio):
    wrong = {"num": "7", "steps": "1e9", "sampler": "<b>", "guidance": "nan"}
    wrong |= {"seed": "-1", "given.label": "12", "given.image": "x", "given.none": "1"}
    start = asked.defaults(studio.model.config)
    query = wrong | {"other": "left alone"}
    settings, given, said = asked.read_link(query, start, studio.parts)
    assert (settings, given) == (start, {})
    assert said == [f"{name}={text}" for name, text in wrong.items()]


@pytest.mark.parametrize("name, value", [("num", 5), ("steps", 0), ("seed", None)])
def test_what_cannot_be_set_is_named(name, value):
    with pytest.raises(UserError, match=f"{name} can't be {value}"):
        asked.settings(vars(SETTINGS) | {name: value})


def test_a_brush_hides_pixels_and_what_was_below_them():
    pixels = np.full((2, 3, 1), 200, np.uint8)
    found = asked.painted(pixels, {"hidden": "010001"})
    assert found[..., 1].tolist() == [[255, 0, 255], [255, 255, 0]]
    assert found[..., 0].tolist() == [[200, 0, 200], [200, 200, 0]]
    assert asked.painted(pixels, {"hidden": "000000"}) is None
    for view in (None, {}, {"hidden": "01"}, {"hidden": "01000x"}, {"hidden": 7}):
        with pytest.raises(UserError, match="of another picture"):
            asked.painted(pixels, view)


def test_numbers_are_typed():
    part = asked.Part("vector", (), False, False, 3)
    assert asked.vector("1, 2.5 -3", part).tolist() == [1, 2.5, -3]
    assert asked.vector(" ", part) is None and asked.vector(None, part) is None
    for text in ("1 2", "1 2 x", "1 2 nan"):
        with pytest.raises(UserError, match="^vector"):
            asked.vector(text, part)


def made(studio, settings, given):
    """What the page makes, in the end, in parts."""
    *_, examples = studio.draw(settings, given)
    return examples


def write(studio, settings, given, monkeypatch, folder):
    """Goes where the files are that the page offers."""
    for name, content in asked.files(given).items():
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder)


def test_the_lines_of_python_make_the_same(studio, given, monkeypatch, tmp_path):
    examples = made(studio, SETTINGS, given)
    assert len(examples["image"]) == SETTINGS.num > AT_ONCE
    write(studio, SETTINGS, given, monkeypatch, tmp_path)
    space = {}
    exec(asked.python(studio.name, SETTINGS, given, studio.parts), space)
    assert space["drawn"].keys() == examples.keys()
    for name, values in examples.items():
        np.testing.assert_array_equal(space["drawn"][name], values)
    seen = given["masked_image"][..., 1:] > 0
    before = np.broadcast_to(given["masked_image"][..., :1], examples["image"].shape)
    seen = np.broadcast_to(seen, before.shape)
    np.testing.assert_array_equal(examples["image"][seen], before[seen])


def test_the_command_makes_the_same(studio, given, monkeypatch, tmp_path):
    examples = made(studio, SETTINGS, given)
    write(studio, SETTINGS, given, monkeypatch, tmp_path)
    text = asked.command(studio.name, SETTINGS, given, studio.parts)
    words = shlex.split(text.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "mt_diffusion.main"]
    flags = [word.removeprefix("--").split("=", 1) for word in words[3:]]
    assert {name for name, _ in flags} <= options.FLAGS_OF["sample"] | {"mode"}
    value = dict(flags)
    texts = [value for name, value in flags if name == "given"]
    steps, guidance = int(value["steps"]), float(value["guidance"])
    wishes = dict(num_steps=steps, sampler=value["sampler"], guidance=guidance)
    num, seed = int(value["num_samples"]), int(value["seed"])
    workdir, out = pathlib.Path(value["workdir"]), tmp_path / "out"
    sampling.sample(workdir, out, num, seed, texts, wishes, True)
    with np.load(out / "samples.npz") as written:
        for name, values in examples.items():
            np.testing.assert_array_equal(written[name], values)


def test_names_that_a_shell_or_python_would_act_on():
    parts = {"label": asked.Part("label", ("a'; rm -rf /",), False, False, 0)}
    given = {"label": "a'; rm -rf /"}
    command = asked.command("$(run) me", SETTINGS, given, parts)
    words = shlex.split(command.replace("\\\n", " "))
    assert "--workdir=$(run) me" in words and "--given=label=a'; rm -rf /" in words
    compile(asked.python("it's", SETTINGS, given, parts), "", "exec")


def test_from_nothing_has_no_guidance(studio):
    """The library refuses one towards nothing."""
    assert asked.wishes(SETTINGS, {"label": "3"}, studio.parts)["guidance"] == 2.5
    for given in ({}, {"image": None}):
        assert "guidance" not in asked.wishes(SETTINGS, given, studio.parts)


def test_downloads_hold_what_was_made(studio, given):
    examples = made(studio, SETTINGS, given)
    files = studio.files(SETTINGS, given, examples)
    names = {"grid.png", "samples.npz", "samples.csv", "given_masked_image.png"}
    assert files.keys() == names
    links = re.findall(r'download="([^"]+)" href="data:', shown.downloads(files))
    assert set(links) == names


def test_a_file_that_is_dropped_in_is_read_and_gone(studio, tmp_path):
    path = tmp_path / "photo.jpg"
    PIL.Image.new("RGB", (30, 20), "white").save(path)
    found = studio.take_in(path)
    assert found.shape == (8, 8, 1) and found.min() == 255
    bad = tmp_path / "no.png"
    bad.write_text("no picture")
    with pytest.raises(UserError, match="^no.png can't be read as an image") as error:
        studio.take_in(bad)
    assert str(tmp_path) not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_walk_has_a_frame_for_each_step(studio):
    walk = studio.walk(SETTINGS, {"label": "3"})
    assert len(walk.times) == 3 and list(walk.times) == sorted(walk.times)[::-1]
    assert walk.pictures["image"].shape == (3, 8, 8, 1)
    np.testing.assert_allclose(walk.chances["label"].sum(-1), 1, atol=1e-5)
    page = shown.walk(walk, studio.classes(), {"label"})
    assert page.count("mt-frame") == 3
    assert "image is within" in page and "label is" not in page  # which was given


def test_when_a_walk_is_decided():
    times = np.array([900, 500, 100])
    chances = np.eye(3)[[1, 2, 2]]
    pictures = np.array([0, 0, 255], np.uint8).reshape(3, 1, 1, 1)
    walk = shown.Walk(times, {"picture": pictures}, {"word": chances})
    said = shown.decided(walk, {"word": "abc"}, ())
    assert "word is c from t = 500" in said and "of its end from t = 100" in said


def test_reading_shows_each_modality(studio):
    pixels = np.zeros((8, 8, 1), np.uint8)
    said = studio.read(pixels)
    page = shown.reading(pixels, said, studio.variables, studio.classes())
    assert page.count('class="mt-bar') == len(CLASSES) + 1  # with the box around them
    assert page.count("<img") == 2  # what was given, and the masked image


def test_names_are_no_markup():
    evil = '<img src=x onerror="alert(1)">'
    page = shown.bars(np.array([0.25, 0.75]), (evil, "b\x1b"))
    page += shown.picture(np.zeros((1, 1, 1), np.uint8), evil)
    page += shown.downloads({f"{evil}.png": b""})
    assert evil not in page and "\x1b" not in page and "&lt;img src=x" in page


def test_of_many_classes_the_likely_are_shown_in_their_order():
    chances = np.linspace(0, 1, 100) / 50
    page = shown.bars(chances, [f"c{i}." for i in range(100)])
    names = [int(n) for n in re.findall(r"c(\d+)\.", page)]
    assert names == list(range(100 - shown.MOST_BARS, 100))
