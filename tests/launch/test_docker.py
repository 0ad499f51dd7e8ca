"""The image and the lists of requirements, as far as they can be checked unbuilt."""

import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCKERFILE = ROOT / "launch/docker/Dockerfile"


@pytest.mark.parametrize("extra", ["tpu", "gpu"])
def test_variants_install_the_same_jax_and_all_else(extra):
    lines = (ROOT / f"requirements-{extra}.txt").read_text().splitlines()
    included, jax = [line for line in lines if not line.startswith("#")]
    assert included == "-r requirements.txt"
    version = re.sub(r"\[\w+\]", "", jax)
    assert version in (ROOT / "requirements.txt").read_text().splitlines()


def instructions():
    """(instruction, argument) of each line of the Dockerfile."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def ignored(path):
    """Whether .dockerignore keeps a path of the project from Docker."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    verdict = False
    for pattern in (p for p in patterns if p and p[0] != "#"):
        parents = [str(path), *map(str, path.parents[:-1])]
        if any(fnmatch.fnmatch(p, pattern.lstrip("!")) for p in parents):
            verdict = not pattern.startswith("!")
    return verdict


@pytest.fixture
def image(tmp_path):
    """The folder that the Dockerfile's COPY lines make."""
    for instruction, argument in instructions():
        if instruction == "COPY":
            *sources, target = [w for w in argument.split() if w[:2] != "--"]
            for found in [path for s in sources for path in ROOT.glob(s)]:
                assert not ignored(found.relative_to(ROOT))
                if found.is_dir():
                    shutil.copytree(found, tmp_path / target)
                else:
                    (tmp_path / target).mkdir(exist_ok=True)
                    shutil.copy(found, tmp_path / target)
    return tmp_path


def test_the_dockerfile_copies_what_there_is_on_a_pinned_base():
    [(_, base)] = [i for i in instructions() if i[0] == "FROM"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    for instruction, argument in instructions():
        if instruction == "COPY":
            sources = [w for w in argument.split()[:-1] if w[:2] != "--"]
            assert sources and all(list(ROOT.glob(source)) for source in sources)
    user = [i for i, (name, _) in enumerate(instructions()) if name == "USER"]
    assert user and user[0] < [name for name, _ in instructions()].index("ENTRYPOINT")


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint: Linux x86-64 only")
def test_hadolint_has_nothing_to_say():
    subprocess.run(["hadolint", DOCKERFILE], check=True)


def test_the_command_of_the_image_runs_on_what_it_copies(image):
    installed = [(image / "requirements.txt").read_bytes()] * 2
    (image / ".venv").mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        if (pathlib.Path(sys.prefix) / part).exists():
            (image / ".venv" / part).symlink_to(pathlib.Path(sys.prefix) / part)
    (image / ".venv/requirements.installed").write_bytes(b"".join(installed))
    lines = dict(instructions())
    command = json.loads(lines["ENTRYPOINT"]) + json.loads(lines["CMD"])
    output = subprocess.check_output(command, cwd=image, text=True)
    assert "--workdir" in output and "installing" not in output
