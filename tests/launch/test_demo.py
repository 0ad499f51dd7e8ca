"""launch/demo.sh installs its extra once, and hands its flags on; the Space's files."""

import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

SPACE = pathlib.Path("launch/space")
# Stands for python: gradio is there once pip was called; notes what else it is to run.
PYTHON = f"""#!/usr/bin/env bash
case "$*" in
  *"import gradio"*) [[ -e installed ]] ;;
  *tomllib*) exec {sys.executable} "$@" ;;
  *) printf '%s\\n' "$@" >>log ;;
esac
"""
PIP = '#!/usr/bin/env bash\necho "pip $*" >>log; touch installed\n'


@pytest.fixture
def project(tmp_path):
    (tmp_path / "launch").mkdir()
    shutil.copy("launch/demo.sh", tmp_path / "launch")
    shutil.copy("pyproject.toml", tmp_path)
    (tmp_path / "launch" / "setup.sh").write_text('export PATH="$PWD/bin:$PATH"\n')
    (tmp_path / "bin").mkdir()
    for name, text in (("python", PYTHON), ("pip", PIP)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def wanted():
    """What the package needs, and what the extra adds."""
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    return project["dependencies"], project["optional-dependencies"]["demo"]


def test_the_extra_is_installed_once(project):
    command = ["bash", str(project / "launch" / "demo.sh"), "--workdir=my runs/a"]
    for _ in range(2):
        subprocess.run(command, check=True)
    pip, *calls = (project / "log").read_text().splitlines()
    assert pip.startswith("pip install ") and pip.endswith(" ".join(wanted()[1]))
    assert calls == ["-m", "mt_diffusion.demo", "--workdir=my runs/a"] * 2


def test_the_space_has_what_a_space_needs():
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])
    assert header["sdk"] == "gradio" and (SPACE / header["app_file"]).is_file()
    version = header["sdk_version"]
    needed, extra = wanted()
    assert extra == [f"gradio~={version.rpartition('.')[0]}"]
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == needed + extra
    compile((SPACE / header["app_file"]).read_text(), "app.py", "exec")
