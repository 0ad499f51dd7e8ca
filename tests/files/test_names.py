"""Names of strangers: no terminal acts on them; 2 comes before 10."""

import pathlib

import pytest

from mt_diffusion.files import names


@pytest.mark.parametrize(
    "name", ["a b", "\u732b", "caf\u00e9", "[x]*?", "-rf", "'\"", "\U0001f408"]
)
def test_names_that_can_be_seen_are_shown_as_they_are(name):
    assert names.shown(name) == names.shown(pathlib.Path(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "a\nb",
        "a\rb",
        "\x9b31m",
        "\u202egnp.exe",
        "\udcff",
    ]
    + ["\u200b", "\u2028", "\ufeff", "\x00", "\x7f"],
)
def test_what_a_terminal_would_act_on_is_escaped(name):
    found = names.shown(name)
    assert found.isprintable() and found != name
    found.encode("utf8")
    assert ascii(found).strip("'").replace("\\\\", "\\") == ascii(name).strip("'")


def test_order_is_that_of_numbers_and_total():
    wanted = [
        "1",
        "2",
        "10",
        "a1",
        "a01x",
        "a2",
        "a2/b2",
        "a2/b10",
        "a10",
        "b",
        "\u00b2",
    ]
    assert sorted(reversed(wanted), key=names.natural) == [
        "1", "2", "10", "a1", "a01x", "a2", "a2/b2", "a2/b10", "a10", "b", "\u00b2"
    ]  # fmt: skip
    assert names.natural("01") != names.natural("1")


def test_few_are_listed():
    assert names.some(["a", "b\x1b", "c", "d"]) == "a, b\\x1b, c, ..."
