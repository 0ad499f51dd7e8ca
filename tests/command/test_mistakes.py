"""Mistakes in config files, overrides and numbers of flags: a paragraph each."""

import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from mt_diffusion.command import options, parsing
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import shipped

SMOKE = "    c = common.get_config('smoke')\n"
FILES = {
    "syntax": ("def get_config(:", r"syntax.py, line 1: .*syntax"),
    "without": ("x = 1", "no function get_config"),
    "nothing": ("def get_config(preset=''):\n    pass", "returned nothing"),
    "table": ("def get_config(preset=''):\n    return {}", "returned a dict"),
    "imports": ("import not_there", "line 1 imports 'not_there', which is not there"),
    "raises": ("def get_config():\n    raise KeyError('x')", "line 2: KeyError: 'x'"),
    "typed": (
        "from configs import common\ndef get_config(preset=''):\n"
        f"{SMOKE}    c.train.batch_size = 'x'\n    return c",
        "typed.py, line 4: TypeError: .*'batch_size'",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_config_that_is_none_is_explained(tmp_path, name):
    text, words = FILES[name]
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as said:
        parsing.config_of(str(file))
    assert "\n" not in str(said.value) and "Traceback" not in str(said.value)
    with pytest.raises(UserError, match=words):
        parse(f"--config={file}", "--workdir=x")


@pytest.mark.parametrize(
    "text, words",
    [
        ("image_labell", "no file image_labell.*nearest is image_label"),
        ("configs/jiont.py", "no file configs/jiont.py.*nearest is joint"),
        ("configs", "no file configs"),
        ("README.md", "ends in .py"),
        ("", "no file"),
        ("image_label:smok", "no preset 'smok'; choose one of"),
        ("image_label:smok", "of which the nearest is smoke."),
    ],
)
def test_the_nearest_config_is_named(text, words):
    with pytest.raises(UserError, match=words):
        parsing.config_of(text)


def parse(*texts):
    """What the command line says of these arguments."""
    argv = ["main", *texts]
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.setattr(sys, "argv", argv)
        flags.FLAGS.unparse_flags()
        parsing.parse(argv, "")


OF_LABEL = ("--config=image_label:smoke", "--workdir=x")


@pytest.mark.parametrize(
    "text, words",
    [
        ("--config.trian.batch_size=3", "no config.trian.batch_size; .*train.batch_si"),
        ("--config.trian=3", "no config.trian; .*config.train"),
        ("--config.seed.a=3", "no config.seed.a; "),
        ("--config.train.num_steps=abc", "'abc'; the field takes .*int, such as 60"),
        ("--config.modalities.label=3", "is a section: set its fields, as --config.m"),
        ("--config.modalities.label.codes=", "is a section: set its fields"),
    ],
)
def test_overrides_that_can_not_be_are_explained(text, words):
    with pytest.raises(UserError, match=words) as said:
        parse(*OF_LABEL, text)
    assert len(str(said.value)) < 300


@pytest.mark.parametrize(
    "text, words",
    [
        ("--steps=abc", "^--steps=abc: a whole number is wanted"),
        ("--steps=2.5", "^--steps=2.5: a whole number is wanted"),
        ("--ema=maybe", "^--ema=maybe: true or false is wanted"),
        ("--guidance=x", "^--guidance=x: a number is wanted"),
        ("--guidance=nan", "--guidance=nan is no number from"),
        ("--guidance=inf", "--guidance=inf is no number from"),
        ("--autoguidance=1e300", "--autoguidance=1e.300 is no number from"),
        ("--guidance=-1", "^--guidance=-1: .*non-negative"),
        ("--num_samples=99999999999999", "is no number from"),
        ("--steps=-99999999999999", "is no number from"),
        ("--seed=-1", "^--seed=-1: .*range"),
        ("--features=incepton", "none of convnet, inception; the nearest is inception"),
        ("--trust=not-a-module", "--trust='not-a-module' is no module"),
    ],
)
def test_values_of_flags_that_can_not_be_are_explained(text, words):
    mode = "evaluate" if "features" in text else "sample"
    with pytest.raises(UserError, match=words):
        parse(f"--mode={mode}", "--workdir=x", text)


def test_the_nearest_mode_is_named():
    with pytest.raises(UserError, match="--mode=smaple is none of .*nearest is sample"):
        parse("--mode=smaple")


def test_lists_of_numbers_are_finite():
    with flagsaver.flagsaver():
        flags.FLAGS(["main", "--guidance_interval=0.1,nan"])
        with pytest.raises(UserError, match="--guidance_interval=nan is no number"):
            parsing.numbers(options.GUIDANCE_INTERVAL)
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize("has_common", [False, True])
def test_somebody_elses_package_called_configs(tmp_path, monkeypatch, has_common):
    """Shipped configs get our common.py, and theirs is as it was."""
    theirs = tmp_path / "configs"
    theirs.mkdir()
    (theirs / "__init__.py").write_text("")
    (theirs / "mine.py").write_text("x = 3")
    if has_common:
        (theirs / "common.py").write_text("x = 4")
    for name in [n for n in sys.modules if n.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    own = tmp_path / "own.py"
    own.write_text(
        "from configs import common, mine\ndef get_config(preset=''):\n"
        "    c = common.get_config('smoke')\n    c.seed = mine.x\n    return c"
    )
    import configs

    assert configs.__file__ == str(theirs / "__init__.py")
    assert parsing.config_of("image_label:smoke").modalities.label
    assert parsing.config_of(str(own)).seed == 3
    assert sys.modules["configs"] is configs
    assert "configs.common" not in sys.modules
    with shipped.importable():
        assert sys.modules["configs"] is not configs
