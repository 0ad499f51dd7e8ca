"""Variables and options that a shell could take for commands, or others for options."""

import subprocess

import pytest

from tests.launch.test_launch import RUN, TPU, spooled
from tests.launch.toy_cluster import Cluster


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.mark.parametrize(
    "name", ["SLURM_GPUS_ON_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS"]
)
def test_numbers_of_slurm_are_not_run(cluster, name):
    script, job = spooled(cluster)
    ran = cluster.fake / "ran"
    attack = {name: f"a[$(touch {ran})]"}
    status, output = cluster.run(script, *RUN, **job | attack)
    assert status == 2 and "must be numbers" in output
    assert not ran.exists() and not cluster.calls()


def test_a_folder_for_temporary_files_may_have_quotes(cluster):
    folder = cluster.fake / "a'; touch ran; 'b"
    folder.mkdir()
    for command in (["git", "init", "--quiet"], ["git", "add", "."]):
        subprocess.run(command, cwd=cluster.project, check=True)
    cluster.play(0)
    flags = ["run", *TPU, "--", *RUN]
    status, output = cluster.run("tpu_vm.sh", *flags, TMPDIR=str(folder))
    assert status == 0, output
    assert not list(folder.iterdir()) and not list(cluster.project.rglob("ran"))


@pytest.mark.parametrize("bucket", ["-o", "--foreground", "a b", ".b", "B"])
def test_a_bucket_is_no_option(cluster, bucket):
    flags = ["tpu-a", "--zone=z1", "--type=v5litepod-16", f"--bucket={bucket}"]
    status, output = cluster.run("tpu_vm.sh", "run", *flags, "--", *RUN)
    assert status == 2 and f"--bucket={bucket} is no bucket" in output
    assert not cluster.calls()
