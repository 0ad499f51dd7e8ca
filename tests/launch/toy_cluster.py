"""A project to launch from, and clusters played by tests/launch/fake_bin."""

import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[2]
FAKES = ROOT / "tests/launch/fake_bin"
SHORTLY = 20  # seconds within which anything here happens


class Cluster:
    """A project to launch from, and the fakes' folder."""

    def __init__(self, folder):
        self.project, self.fake = folder / "project", folder / "fake"
        self.fake.mkdir()
        shutil.copytree(ROOT / "launch", self.project / "launch")
        (self.project / "configs").mkdir()
        (self.project / "configs/x.py").touch()
        for file in ROOT.glob("requirements*.txt"):
            shutil.copy(file, self.project)
        ours = {n: v for n, v in os.environ.items() if not n.startswith("SLURM")}
        self.env = ours | {
            "REQUIREMENTS": "",
            "PATH": f"{FAKES}{os.pathsep}{os.environ['PATH']}",
            "FAKE": str(self.fake),
            "HOME": str(self.fake),
            "HOSTNAME": "here",
            "PYTHON": "python3.12",
            "POLL": "0.02",
            "PAUSE": "0.02",
            "PATIENCE": "10",
        }

    def play(self, *scenario):
        """What the runs on each machine do, one after another."""
        (self.fake / "scenario").write_text("".join(f"{act}\n" for act in scenario))

    def start(self, script, *arguments, **env):
        return subprocess.Popen(
            ["bash", self.project / "launch" / script, *arguments],
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script, *arguments, **env):
        """The exit status and all output."""
        process = self.start(script, *arguments, **env)
        output, _ = process.communicate(timeout=SHORTLY)
        return process.returncode, output

    def calls(self, *words, file="calls"):
        """All calls of fakes with these words among their arguments."""
        path = self.fake / file
        records = path.read_text().split("\x1e")[:-1] if path.exists() else []
        calls = [record.split("\0")[:-1] for record in records]
        return [call for call in calls if set(words) <= set(call)]

    def runs(self, host="here"):
        """The flags of each run on a machine."""
        return self.calls(file=f"runs.{host}")


def await_that(condition):
    end = time.monotonic() + SHORTLY
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
