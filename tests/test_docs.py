"""What the documents say exists: commands, links, files, equations; and code runs."""

import functools
import importlib
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from configs import common
from mt_diffusion.command import options
from mt_diffusion.command.overrides import fields
from mt_diffusion.data import sources
from mt_diffusion.diffusion import aggregation, sampler, schedule, solvers, spacing
from mt_diffusion.diffusion.process import Process
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
CONFIGS = sorted(ROOT.glob("configs/[a-z]*.py"))
LINKED = [*PAGES, *sorted(ROOT.glob("results/**/*.md"))]
# What stands before the flags of `python -m mt_diffusion.main`.
COMMANDS = ("launch/local.sh", "launch/gpu.sh", "launch/slurm.sh", "mt_diffusion.main")
AFTER = {"launch/tpu_vm.sh": "--", "docker": "mt_diffusion"}
OF_LAUNCHERS = {"setup", "dry-run", "bucket", "build-arg", "modality", "help"} | {
    "host",
    "port",
    "label",
}
OF_BENCHMARKS = {"lpips_side"}
# A generator for 8x8 pixels, in the place of a reader's own.
OWN, OURS = "package.module:function", "tests.modalities.test_contract:generate"
VECTORS = 512  # numbers of a frozen encoder's, as of CLIP


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, *languages):
    """The fenced code blocks of a page in these languages."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S)
    return [text for language, text in fences if language in languages]


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def python_files():
    """{path: text} of the files that a page writes, as `PATH` ...: and a block."""
    found = {}
    pattern = r"`([\w./]+\.py)`(?:(?!\n\n)[^#])*?:\n\n```python\n(.*?)^```"
    for page in PAGES:
        for path, text in re.findall(pattern, page.read_text(), re.M | re.S):
            found[path] = text
    return found


# Commands


def commands(page):
    """The flags of mt_diffusion.main in each command of a page's blocks for a shell.

    A config's docstring has them two columns to the right.
    """
    found = blocks(page, "sh")
    if page.suffix == ".py":
        docstring = page.read_text().split('"""')[1]
        found = ["\n".join(re.findall(r"^ {2,}(.*)$", docstring, re.M))]
    for block in found:
        variables = {}
        for line in block.replace("\\\n", " ").splitlines():
            for word, value in variables.items():
                line = line.replace(f"${word} ", f"{value} ")
            words = shlex.split(line, comments=True)
            if len(words) == 1 and re.match(r"[A-Z]=", words[0]):
                variables[words[0][0]] = words[0][2:]
            elif (argv := of_main(words)) is not None:
                yield argv


def of_main(words):
    """What a command gives to `python -m mt_diffusion.main`; None for others."""
    start = next((words.index(c) for c in COMMANDS if c in words), None)
    for launcher, mark in AFTER.items():
        if launcher in words and mark in words[words.index(launcher) + 1 :]:
            start = words.index(mark, words.index(launcher) + 1)
    if words[:2] == ["docker", "build"]:
        return None
    argv = None if start is None else words[start + 1 :]
    return None if argv == ["--setup"] else argv


def flag(text):
    """(name, value) of --name=value."""
    found = re.fullmatch(r"--?([\w.-]+)(?:=(.*))?", text, re.S)
    assert found, f"{text} is no flag"
    return found[1], found[2]


@functools.cache
def config(path, *overrides):
    """The config of --config=path with these overrides; an error for wrong ones."""
    argv = ["main", f"--config={path}", *overrides]
    values = flags.FlagValues()
    found = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=argv
    )
    values(argv)
    return found.value


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the files that the documents write."""
    root = tmp_path_factory.mktemp("written")
    for path, text in python_files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def check_config(path, overrides, written):
    file, _, preset = path.partition(":")
    if path == "..." or file == "configs/from_run.py":
        return
    if not (ROOT / file).is_file():
        assert (written / file).is_file(), f"there is no {file}"
        file = written / file
    else:
        file = ROOT / file
    made = config(f"{file}:{preset}" if preset else str(file), *overrides)
    if ROOT in file.parents and made.data.source == "digits":
        check_model(made, written)


@functools.cache
def digits():
    return sources.open_source(common.digits().data, "train")


def check_model(made, written):
    """Raises UserError where a config on digits is of no model that can be."""
    made, source = made.copy_and_resolve_references().unlock(), digits()
    if made.data.vectors:
        for split, num in (("train", 1438), ("test", 359)):
            vectors = np.random.default_rng(0).normal(size=(num, VECTORS))
            np.save(written / f"of_{split}.npy", vectors.astype(np.float32))
        made.data.vectors = str(written / "of_{split}.npy")
    if made.data.vectors or made.data.pair or made.data.captions:
        source = sources.open_source(made.data, "train")
    experiment.build(experiment.resolve(made, source))


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name)
def test_commands_name_flags_and_fields_that_exist(page, written):
    for argv in commands(page):
        check_command(argv, written)


def check_command(argv, written):
    given = [flag(text) for text in argv]
    mode = dict(given).get("mode", "train")
    overrides = [f"--{w}={value}" for w, value in given if w.startswith("config.")]
    for word, value in given:
        if word in options.FLAGS_OF[mode] | {"mode"}:
            assert value is not None or flags.FLAGS[word].boolean, argv
            if value is not None:
                flags.FLAGS[word].parser.parse(value)
        else:
            assert word.startswith("config") or argv == ["--help"], (word, argv)
    path = dict(given).get("config")
    assert path or not overrides, argv
    if path:
        assert mode in options.WITH_CONFIG, argv
        check_config(path, overrides, written)


def variants():
    """(config, flags) of each variant in the table of the settings."""
    page = (ROOT / "docs/any-to-any.md").read_text()
    for path, cells in re.findall(r"^\| `(\w+\.py)` \|(.*)\|$", page, re.M):
        for span in re.findall(r"`(--config\.[^`]+)`", cells):
            yield path, tuple(span.replace(OWN, OURS).split())


@pytest.mark.parametrize("path, overrides", list(variants()))
def test_variants_are_models_that_can_be(path, overrides, written):
    check_config(f"configs/{path}", overrides, written)


def test_all_commands_are_found():
    """None is missed for the way that it is written."""
    assert all(list(commands(path)) for path in CONFIGS if path.stem != "common")
    for page in PAGES:
        shell = "".join(blocks(page, "sh"))
        mentions = len(re.findall(r"^[^#\n]*?(?:local\.sh|n\.main)", shell, re.M))
        mentions += len(re.findall(r"^\$D ", shell, re.M)) - ('D="' in shell)
        assert len(list(commands(page))) >= mentions, page


@functools.cache
def all_fields():
    """Names of the fields of all configs that there are."""
    found = set()
    for path in sorted(ROOT.glob("configs/*.py")):
        if path.stem not in ("__init__", "common", "from_run"):
            made = importlib.import_module(f"configs.{path.stem}").get_config()
            found |= fields(made).keys()
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_that_are_mentioned_exist(page):
    spans = re.findall(r"`(--?[^`]+)`", prose(page))
    known = {word for words in options.FLAGS_OF.values() for word in words}
    known |= {"mode", "config"} | OF_LAUNCHERS | OF_BENCHMARKS
    for span in spans:
        for word, _ in map(flag, span.split()):
            if word.startswith("config."):
                field = word.removeprefix("config.")
                ends = field.replace("NAME", "label")
                assert field in ("FIELD",) or ends in all_fields(), word
            else:
                assert word in known, f"--{word}"


# Links, files and equations


def slugs(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {word.strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not link.startswith(("https://", "http://")):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in slugs(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    places = [ROOT, ROOT / "mt_diffusion"]
    for path in re.findall(r"`([\w./]+/[\w./]+\.(?:py|sh|json|ipynb))`", prose(page)):
        there = any((place / path).exists() for place in places)
        assert there or path in python_files(), path


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [x for x in lines if len(x) > 100 and x[0] != "|"] == []


METHOD = ROOT / "docs/method.md"


def equations():
    return [int(n) for n in re.findall(r"\\tag\{(\d+)\}", METHOD.read_text())]


def test_equations_are_numbered_and_each_has_an_owner_and_a_test():
    assert equations() == list(range(1, len(equations()) + 1))
    tags = 0
    for section in METHOD.read_text().split("\n## "):
        # In italics, after an equation or several.
        *parts, rest = re.split(r"\*((?:The )?\w[^*]+Held\s+by[^*]+)\*\n", section)
        assert "\\tag" not in rest
        tags += sum("\\tag" in part for part in parts[::2])
        for note in parts[1::2]:
            assert re.search(r"[Oo]urs|\w's", note), note
            assert "`tests/" in note, note
    assert tags > 20


def cited(text):
    """The numbers in "method.md, eq. 1", "eq. 1 and 3", "eq. 1 to 3"."""
    pattern = r"method\.md,\s+eq\.\s+(\d+)(?:\s+(?:and|to)\s+(\d+))?"
    return {int(n) for pair in re.findall(pattern, text) for n in pair if n}


def test_equations_that_are_cited_exist():
    texts = [p.read_text() for p in ROOT.glob("mt_diffusion/**/*.py")]
    found = set().union(*map(cited, texts))
    assert found <= set(equations())
    assert len(found) > 20


def test_the_method_cites_its_own_equations():
    for numbers in re.findall(r"eqs?\. ((?:\d+(?:, | and | to |))+)", prose(METHOD)):
        assert {int(n) for n in re.findall(r"\d+", numbers)} <= set(equations())


# The source and the sampler of docs/extending.md; the modality: test_contract.py


@pytest.fixture
def extended(monkeypatch):
    """Runs what the documents add to a module there, for the time of a test."""

    def run(module, *tables):
        for table in tables:
            monkeypatch.setattr(module, table, dict(getattr(module, table)))
        path = pathlib.Path(module.__file__).relative_to(ROOT)
        space = dict(vars(module))
        exec(python_files()[str(path)], space)
        return space

    return run


def test_a_source_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "my_arrays.py").write_text(python_files()["my_arrays.py"])
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_images": rng.integers(256, size=(num, 8, 8, 1)).astype(np.uint8)
        for split, num in (("train", 12), ("test", 5))
    }
    arrays |= {"train_labels": np.arange(12) % 3, "test_labels": np.arange(5) % 2}
    np.savez(tmp_path / "found.npz", **arrays)
    data = common.digits().data
    data.update(source="my_arrays.Arrays", path=str(tmp_path / "found.npz"))
    data.pair = "half"
    data.keep.label = 0.5
    train, test = (sources.open_source(data, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (12, 5)
    assert train.class_names == test.class_names == ["0", "1", "2"]
    np.testing.assert_array_equal(test[3]["image"], arrays["test_images"][3])
    assert [test[i]["label"] for i in range(5)] == [0, 1, 0, 1, 0]
    assert test[0]["pair"].shape == (8, 8, 1)
    assert sum("label" in train[i] for i in range(12)) == 6
    data.path = str(tmp_path / "none.npz")
    with pytest.raises(UserError, match="none.npz.*my_arrays.py, line 1"):
        sources.open_source(data, "train")


NUM, VARIANCE = 4000, 0.25


def walk(step, num_steps):
    """z_0 [NUM] of walks by the exact denoiser of N(0, VARIANCE), with beta_tilde."""
    process = Process(schedule.cosine(1000), aggregation.Aggregation({}))

    def denoise(z_t, now, is_first, guesses):
        total = now.signal_t**2 * VARIANCE + now.noise_t**2
        z0 = now.signal_t * VARIANCE / total * z_t
        return sampler.Denoised(z0, -jnp.ones_like(z_t), {}, guesses, {})

    found = sampler.sample(
        keys=jax.random.split(jax.random.key(0), NUM),
        shape=(1, 1, 1),
        denoise=denoise,
        process=process,
        times=spacing.respaced(process.schedule, num_steps, "log_snr"),
        step=step,
        restrict=lambda z0: z0,
    )
    return np.asarray(found.z0, np.float64).ravel()


def test_a_sampler_of_your_own(extended):
    """Of second order: the law in few steps, where ancestral ones leave too little."""
    extended(solvers, "STEPS", "SPACING")
    assert solvers.SPACING.keys() == solvers.STEPS.keys()
    own = walk(solvers.build_step("ancestral_2m", 0.0), 20)
    plain = walk(solvers.build_step("ancestral", 0.0), 20)
    spread = np.sqrt(2 / NUM)
    assert abs(own.mean()) < 4 * np.sqrt(VARIANCE / NUM)
    assert abs(own.var() / VARIANCE - 1) < 4 * spread
    assert plain.var() / VARIANCE < 1 - 4 * spread
