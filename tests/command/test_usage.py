"""What --help says, and a mistake to somebody who gives arguments and no flags."""

import pytest

from mt_diffusion.command import options, usage
from mt_diffusion.errors import as_arguments


@pytest.mark.parametrize("mode", options.FLAGS_OF)
def test_help_of_a_mode_has_its_flags_alone(mode):
    said = usage.text(["main", f"--mode={mode}", "--help"], "Examples.")
    shown = {line.split(":")[0] for line in said.splitlines() if line[:2] == "--"}
    names = {name.removeprefix("--").removeprefix("[no]") for name in shown}
    config = {"config"} if mode in options.WITH_CONFIG else set()
    assert names == options.FLAGS_OF[mode] | config
    assert max(map(len, said.splitlines())) <= 92


def test_help_alone_is_a_page_that_names_the_modes():
    said = usage.text(["main", "--help"], "Examples.")
    assert said.startswith("Examples.") and len(said.splitlines()) < 10
    assert all(mode in said for mode in options.FLAGS_OF)
    assert "--autoguidance" not in said


@pytest.mark.parametrize(
    "text, expected",
    [
        ("--workdir=a is no folder", "workdir=a is no folder"),
        (
            "lower --config.unet.remat=x; see --steps.",
            "lower config.unet.remat=x; see steps.",
        ),
        ("a -- b, x--y, -v", "a -- b, x--y, -v"),
        ("run --mode=read first", "run --mode=read first"),
        (
            "python -m mt_diffusion.main --config=... --workdir=... or --seed=1",
            "python -m mt_diffusion.main --config=... --workdir=... or seed=1",
        ),
    ],
)
def test_a_message_on_flags_is_one_on_arguments(text, expected):
    assert as_arguments(text) == expected
