"""Flags: which mode reads which, and what is said of those that make no sense."""

import re

import pytest
from absl import flags
from absl.testing import flagsaver

from mt_diffusion.command import modes, options, parsing
from mt_diffusion.command.overrides import explain, unknown_fields
from mt_diffusion.errors import UserError


@pytest.fixture
def given():
    """Parses flags as a command line has them, for the time of a test."""
    with flagsaver.flagsaver():
        yield lambda *texts: flags.FLAGS(["main", *texts])
    flags.FLAGS.unparse_flags()


def ours():
    """{name: flag}, but for those that every mode knows."""
    found = flags.FLAGS.get_flags_for_module(options.__name__)
    return {f.name: f for f in found if f.name not in ("mode", "config")}


def test_every_flag_is_read_by_some_mode_and_every_mode_is_run():
    assert set().union(*options.FLAGS_OF.values()) == ours().keys()
    assert options.FLAGS_OF.keys() == modes.RUN.keys()
    assert flags.FLAGS["mode"].parser.enum_values == list(options.FLAGS_OF)


@pytest.mark.parametrize("name", sorted(ours().keys() - {"workdir"}))
def test_the_help_of_a_flag_names_the_modes_that_read_it(name):
    said = set(re.findall(r"(?<![=\w])(\w+)(?=[,:] )", ours()[name].help))
    reading = {mode for mode, names in options.FLAGS_OF.items() if name in names}
    assert said & options.FLAGS_OF.keys() == reading


def test_flags_of_other_modes_are_refused(given):
    given("--steps=3", "--draws=joint")
    parsing.check_flags("evaluate")
    with pytest.raises(UserError, match="--draws means nothing to --mode=sample"):
        parsing.check_flags("sample")
    words = r"^--draws means nothing to --mode=train; .*--mode=evaluate\)\.$"
    with pytest.raises(UserError, match=words):
        parsing.check_flags("train")


def test_a_refusal_names_all_modes_of_a_flag(given):
    given("--num_examples=3")
    with pytest.raises(UserError, match="is for --mode=bound and evaluate and ref"):
        parsing.check_flags("report")


def test_flags_that_are_left_out_or_given_their_default(given):
    """The one is no flag of another mode; the other one is."""
    given()
    for mode in options.FLAGS_OF:
        parsing.check_flags(mode)
    given("--seed=0")
    with pytest.raises(UserError, match="--seed means nothing"):
        parsing.check_flags("report")


def test_what_a_mode_needs(given):
    given("--mode=compare")
    with pytest.raises(UserError, match="needs --runs as well"):
        parsing.need(options.RUNS)
    given("--runs=a,b")
    parsing.need(options.RUNS)
    with pytest.raises(UserError, match="^--mode=compare needs --out as well"):
        parsing.need(options.RUNS, options.OUT)
    with pytest.raises(UserError, match="needs --encoder and --out as well"):
        parsing.need(options.ENCODER, options.RUNS, options.OUT)


def test_lists_of_numbers(given):
    given("--guidance_interval=0.1, 1")
    assert parsing.numbers(options.GUIDANCE_INTERVAL) == (0.1, 1.0)
    given("--guidance_interval=0.1,all")
    with pytest.raises(UserError, match="--guidance_interval=0.1,all: .*'all'"):
        parsing.numbers(options.GUIDANCE_INTERVAL)


# Fields and flags of earlier versions


@pytest.mark.parametrize(
    "overrides, words",
    [
        # c^2 D, of 8 x 8 images by default
        (
            ["label.drift_scale=2.5"],
            "modalities.label.drift_scale = 2.5.* energy = 400",
        ),
        (["label.drift_scale=0"], "drift_scale = 0 .*same now is drift = 'none'"),
        (
            ["label.drift_scale=2.0", "config.data.image_size=28"],
            "label.drift_scale = 2.* energy = 3136",
        ),
        (["label.drop_rate=0.1"], "label.drop_rate = 0.1 .*shares of config.presence"),
        (["label.null_rate=0.3"], "label.null_rate = 0.3 .*shares of config.presence"),
        (["label.code_side=4"], "codes.family = 'smooth', codes.side = 4"),
        (["label.code_side=0"], "same now is codes.family = 'white'"),
        (["label.energi=1"], "no config.modalities.label.energi; .*label.energy"),
        (["lable.energy=1"], "no config.modalities.lable.energy; .*label.energy"),
    ],
)
def test_fields_of_earlier_versions_name_what_replaces_them(overrides, words):
    texts = [f"--config.modalities.{overrides[0]}", *(f"--{o}" for o in overrides[1:])]
    argv = ["main", "--config=configs/image_label.py", *texts]
    assert re.search(words, unknown_fields(argv))


def test_what_was_the_drift_of_generated_modalities_is_a_guess():
    argv = ["main", "--config=configs/joint.py", "--config.sampling.generated_drift=0"]
    assert re.search("guess: NAME=absent for 0.*config.sampling", unknown_fields(argv))
    message = "Unknown command line flag 'generated_drift'. Did you mean: guidance ?"
    assert re.search("NAME=absent for 0, NAME=mean.*--guess", explain(message, []))
