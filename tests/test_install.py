"""As it is installed: a wheel with the configs inside, used from another folder."""

import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from configs import image_label
from mt_diffusion.data import sources
from mt_diffusion.data.kinds import tfds
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import shipped

PIXELS = "mt_diffusion.evaluation.judges.pixels"  # which evaluations import
WORKFLOW = ".github/workflows/test.yml"
PROJECT = tomllib.loads(pathlib.Path("pyproject.toml").read_text())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the project alone, its dependencies being here already."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    for name in ("mt_diffusion", "configs"):  # for pip leaves its build there
        shutil.copytree(name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    pip += ["--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--target", target, source], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return target


def python(installed, cwd, *args):
    command = [sys.executable, "-P", *args]
    env = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    env |= {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def test_a_config_is_found_by_its_name_in_any_folder(installed, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs import image_label\n\n"
        "def get_config(preset='smoke'):\n"
        "    return image_label.get_config(preset)\n"
    )
    code = (
        "from mt_diffusion.command import parsing\n"
        "for name in ('image_label:smoke', 'configs/joint.py', 'mine.py'):\n"
        "    print(parsing.config_of(name).train.num_steps)\n"
        "import mt_diffusion; print(mt_diffusion.__file__)\n"
    )
    done = python(installed, tmp_path, "-c", code)
    *steps, place = done.stdout.split()
    assert steps == ["60", "4000", "60"], done.stderr
    assert place.startswith(str(installed))


def test_the_command_is_there_and_says_what_it_can(installed, tmp_path):
    done = python(installed, tmp_path, "-m", "mt_diffusion.main", "--help")
    assert "--config" in done.stdout and not done.returncode
    assert (installed / "bin" / "mt-diffusion").exists()
    mistake = "--config=image_lable"
    done = python(installed, tmp_path, "-m", "mt_diffusion.main", mistake)
    assert done.returncode and "Traceback" not in done.stderr


def test_every_package_and_every_page_is_in_it(installed):
    here = {p.relative_to(".") for p in pathlib.Path("mt_diffusion").rglob("*.*")}
    here = {p for p in here if "__pycache__" not in p.parts}
    there = {p.relative_to(installed) for p in installed.rglob("*.*")}
    assert here <= there
    configs = {p.name for p in pathlib.Path("configs").glob("*.py")}
    assert configs <= {p.name for p in (installed / "mt_diffusion/configs").glob("*")}


def test_it_says_the_versions_of_requirements():
    lines = pathlib.Path("requirements.txt").read_text().splitlines()
    wanted = {line.strip() for line in lines if line.strip() and line[0] != "#"}
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    parts = (extras[name] for name in ("data", "hf", "text", "gcs", "eval", "dev"))
    assert set(project["dependencies"]).union(*parts) == wanted
    assert not [x for x in wanted if "tensorflow" in x and "-datasets" not in x]
    for extra, file in (("tpu", "tpu"), ("cuda12", "gpu")):
        (name,) = extras[extra]
        text = pathlib.Path(f"requirements-{file}.txt").read_text()
        assert re.search(rf"^{re.escape(name)}", text, re.MULTILINE)


def test_every_requirement_has_an_upper_bound():
    extras = PROJECT["project"]["optional-dependencies"]
    own = [x for name in extras.keys() - {"tpu", "cuda12"} for x in extras[name]]
    for requirement in [*PROJECT["project"]["dependencies"], *own]:
        bound = "~=" in requirement or "<" in requirement
        assert bound or requirement == "mt-diffusion[data]", requirement


def test_the_lock_has_a_version_and_hashes_of_all_that_is_wanted():
    """Made anew by the command in its first lines, when requirements.txt changes."""
    text = pathlib.Path("requirements.lock").read_text()
    found = re.findall(r"^([\w.-]+)==(\S+)((?:.*\\\n)+.*)", text, re.M)
    assert len(found) == len(re.findall(r"^[\w.-]+==", text, re.M)) > 100
    assert all("--hash=sha256:" in hashes for *_, hashes in found)
    for line in pathlib.Path("requirements.txt").read_text().splitlines():
        if line and line[0] != "#":
            wanted = Requirement(line)
            versions = [v for n, v, _ in found if names_equal(n, wanted.name)]
            assert versions and all(v in wanted.specifier for v in versions), line


def names_equal(a, b):
    return canonicalize_name(a) == canonicalize_name(b)


def test_the_workflow_runs_what_the_readme_says_on_every_python():
    (job,) = yaml.safe_load(pathlib.Path(WORKFLOW).read_text())["jobs"].values()
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    assert f"\n{command} " in pathlib.Path("README.md").read_text()
    pythons = job["strategy"]["matrix"]["python"]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert pythons == [oldest, "3.12", "3.13"]


def test_what_is_checked_before_a_commit_is_what_the_tests_check():
    text = pathlib.Path(".pre-commit-config.yaml").read_text()
    (repo,) = yaml.safe_load(text)["repos"]
    command = pathlib.Path("launch/test.sh").read_text()
    for hook in repo["hooks"]:
        tool, *arguments = hook["entry"].split()
        assert pathlib.Path(tool).exists() and hook["language"] == "system"
        name = pathlib.Path(tool).name
        if name != "shellcheck":  # which pytest runs
            assert " ".join([name, *arguments[:1]]).removesuffix("--fix") in command


@pytest.mark.parametrize(
    "missing, extra, use",
    [
        ("tensorflow_datasets", "data", lambda c: sources.open_source(c, "train")),
        ("tensorflow", "prepare", lambda c: tfds.prepare(None, c)),
        ("skimage.metrics", "eval", lambda c: importlib.import_module(PIXELS)),
    ],
)
def test_what_an_extra_brings_is_asked_for_by_its_name(
    missing, extra, use, monkeypatch
):
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, PIXELS, False)
    data = image_label.get_config("fashion_mnist").data
    data.download = True
    with pytest.raises(UserError, match=rf"pip install 'mt-diffusion\[{extra}\]'"):
        use(data)


@pytest.mark.parametrize(
    "text, name",
    [
        ("image_label", "image_label.py"),
        ("image_label:smoke", "image_label.py:smoke"),
        ("image_label.py", "image_label.py"),
        ("configs/nowhere.py", None),
        ("my/own.py:a", None),
    ],
)
def test_what_a_name_stands_for(text, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"{shipped.folder()}/{name}" if name else text
    assert shipped.path_of(text) == expected
    (tmp_path / "image_label.py").write_text("")
    assert shipped.path_of("image_label.py") == "image_label.py"  # one's own is first
    flags = shipped.with_paths(["main", "--config", "joint", "--workdir=joint"])
    assert flags == [
        "main",
        "--config",
        f"{shipped.folder()}/joint.py",
        "--workdir=joint",
    ]
