"""launch/models.sh: a model of the package is made step by step, and goes on."""

import pathlib
import shutil
import subprocess

import pytest

# Stands for `python -m mt_diffusion.main`: notes its flags, writes what --out names.
PYTHON = """#!/usr/bin/env bash
shift 2
echo "$*" >>log
if [[ $* == *--mode=evaluate* && -e broken ]]; then exit 1; fi
for word; do
  if [[ $word == --out=* ]]; then
    mkdir -p "${word#--out=}"
    touch "${word#--out=}/made"
  fi
done
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "launch").mkdir()
    for name in ("models.sh", "resumable.sh"):
        shutil.copy(f"launch/{name}", tmp_path / "launch")
    (tmp_path / "launch" / "setup.sh").write_text('export PATH="$PWD/bin:$PATH"\n')
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    return tmp_path


def make(project, *args):
    """(what it ended with, its calls, their modes)."""
    command = ["bash", str(project / "launch" / "models.sh"), *args]
    done = subprocess.run(command, capture_output=True, text=True)
    log = project / "log"
    calls = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    modes = [call.partition("--mode=")[2].partition(" ")[0] for call in calls]
    return done, calls, [mode or "train" for mode in modes]


def test_it_goes_on_where_it_was_interrupted(project):
    (project / "broken").touch()
    told = "--config.data.data_dir=/data/my tfds"
    done, calls, modes = make(project, "fashion", told, "--config.seed=1")
    assert done.returncode and modes == ["train", "export", "evaluate"]
    assert "--config=configs/joint.py:fashion_small" in calls[0]
    assert told in calls[0] and "--config.seed=1" in calls[0]
    assert told in calls[2] and "--config.seed=1" not in calls[2]
    (project / "broken").unlink()
    done, _, modes = make(project, "fashion")
    assert done.returncode == 0, done.stderr
    assert modes == ["train", "evaluate", "read", "export"]
    assert (project / "mt_diffusion" / "shipped" / "fashion" / "made").exists()
    done, _, modes = make(project, "fashion")
    assert done.returncode == 0 and modes == [] and "remove it" in done.stdout


def test_another_name_is_refused(project):
    done, _, modes = make(project, "cifar")
    assert done.returncode == 2 and "digits or fashion" in done.stderr and modes == []


def test_the_configs_that_it_names_are_there():
    text = pathlib.Path("launch/models.sh").read_text()
    for name in ("image_label.py", "joint.py"):
        assert f"configs/{name}" in text and pathlib.Path("configs", name).exists()
