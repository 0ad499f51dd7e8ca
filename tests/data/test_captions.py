"""Captions: tables of files, names of classes, and what is wrong with them."""

import numpy as np
import PIL.Image
import pytest

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.files import captions

TABLE = "file,caption\nA/1.png,one\nA/1.png,a one\nA/2,two\nB/3.png,  \n"


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate("AABBB"):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        image = PIL.Image.new("L", (8, 8), 40 * i)
        image.save(tmp_path / "photos" / name / f"{i + 1}.png")
    return tmp_path


def config_of(folder, **fields):
    config = common.get_config("smoke").data
    config.update(source="folder", path=str(folder / "photos"), **fields)
    return config


def of_both(config):
    both = [sources.open_source(config, split) for split in ("train", "test")]
    return both, {
        tuple(np.unique(example["image"])): example["caption"]
        for source in both
        for example in map(source.__getitem__, range(len(source)))
    }


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", TABLE),
        ("a.csv", "text,image,size\none,1.jpg,8\na one,1.jpg,8\ntwo,2.png,8\n"),
        ("a.json", '{"A/1.png": ["one", "a one"], "2": "two", "B/3": ""}'),
    ],
)
def test_a_table_names_files_by_name_or_path(folder, name, content):
    (folder / name).write_text(content)
    both, found = of_both(config_of(folder, captions=str(folder / name)))
    assert found == {(0,): ["one", "a one"], (40,): ["two"]} | dict.fromkeys(
        [(80,), (120,), (160,)], []
    )
    said = [source.facts["captions"] for source in both]
    assert all("examples" in words for words in said)
    assert [len(source.captions) for source in both] == [len(s) for s in both]


def test_a_caption_may_have_lines_of_any_kind(tmp_path):
    """Text from a web page has U+2028, which ends no line of a table."""
    path, words = tmp_path / "a.csv", "one\u2028half,\nand \x0bmore"
    path.write_text(f'file,caption\n1.png,"{words}"\n2.png,two\n', "utf-8")
    assert captions.table(path) == {"1": [words], "2": ["two"]}


def test_second_images_and_captions_go_together(folder):
    (folder / "a.csv").write_text(TABLE)
    config = config_of(folder, captions=str(folder / "a.csv"), pair="grey")
    source = sources.open_source(config, "train")
    assert {"pair", "caption", "image", "label"} == source[0].keys()


def test_names_of_classes_are_captions(folder):
    _, found = of_both(config_of(folder, captions="classes"))
    assert found[(0,)] == ["A"] and found[(160,)] == ["B"]
    digits = common.get_config("smoke").data
    digits.captions = "classes"
    example = sources.open_source(digits, "train")[0]
    assert example["caption"] == [str(example["label"])]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "name,words\n1.png,one\n", "has the columns name, words; "),
        ("a.csv", "", "has the columns none; "),
        ("a.csv", "file,caption\n,one\n", "the caption 'one' of the file '', which"),
        ("a.csv", "file,caption\n.,one\n", "the file '.', which is none"),
        ("a.csv", 'file,caption\n1.png,"one\n2.png,two\n', "can't be read as a table"),
        ("a.csv", f"file,caption\n1.png,{'x' * 200_000}\n", "can't be read as a table"),
        ("a.json", '{"": "x"}', "the file '', which is none"),
        ("a.json", '{"1.png": {"en": "x"}}', "neither a text nor a list"),
        ("a.json", "[" * 200_000, "no table of captions"),
        ("a.csv", "file,caption\nz.png,one\n", "of 1 files, as 'z', and of none"),
        ("a.csv", b"file,caption\n1.png,\xff\xfe\n", "can't be read as text"),
        ("a.json", "[1]", "no table of captions"),
        ("a.json", '{"1.png": [2]}', "neither a text nor a list of texts"),
        ("a.json", "{", "no table of captions"),
    ],
)
def test_a_table_that_is_none_is_said_in_a_paragraph(folder, name, content, words):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=words) as told:
        sources.open_source(config_of(folder, captions=str(folder / name)), "train")
    assert "\n" not in str(told.value)


def test_a_table_needs_files(folder):
    (folder / "a.csv").write_text(TABLE)
    digits = common.get_config("smoke").data
    digits.captions = str(folder / "a.csv")
    with pytest.raises(UserError, match="'digits' has none; use a folder, or 'classes"):
        sources.open_source(digits, "train")
    with pytest.raises(UserError, match="'missing.csv' is no file. Give the path"):
        sources.open_source(config_of(folder, captions="missing.csv"), "train")


def test_what_is_not_prepared_names_its_command(tmp_path):
    config = common.get_config("emoji").data
    config.path = str(tmp_path / "emoji")
    command = "bash launch/emoji.sh, or python -m mt_diffusion.command.emoji, makes the"
    with pytest.raises(UserError, match=f"is no folder. {command}"):
        sources.open_source(config, "train")


@pytest.mark.parametrize("lost", ["captions", "pair_path"])
def test_what_is_lost_of_what_was_prepared_names_its_command(folder, lost):
    config = config_of(folder, prepared_by="bash make.sh")
    if lost == "pair_path":
        config.pair = "folders"
    config[lost] = str(folder / "lost")
    with pytest.raises(UserError, match=f"{lost} = .*lost' is no .*bash make.sh makes"):
        sources.open_source(config, "train")


def test_of_a_name_with_dots_only_the_suffix_of_an_image_counts_not(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("file,caption\na/photo.v2,two\nphoto.v3.PNG,three\n1.2.jpeg,x\n")
    assert captions.table(path) == {"a/photo.v2": ["two"], "photo.v3": ["three"]} | {
        "1.2": ["x"]
    }


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeffa red heart\n  two\r\nthree\n\n", "utf-8")
    assert captions.lines(path) == ["a red heart", "two", "three"]
    path.write_text("one\n\nthree\n")
    with pytest.raises(UserError, match="its line 2 is empty; remove that"):
        captions.lines(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="it is empty"):
        captions.lines(path)
