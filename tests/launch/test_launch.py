"""The launchers, with commands of clusters that record how they were called."""

import pathlib
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.launch.toy_cluster import FAKES, ROOT, SHORTLY, Cluster, await_that

SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
LAUNCHERS = ["gpu.sh", "slurm.sh", "tpu_vm.sh"]
SHELL_TRAPS = [
    "--a=it's $HOME  `id`",
    '--b="q" \\; rm *',
    "--c=1\n2",
    "--d=",
    "é&|>(x)",
]
RUN = ["--config=configs/x.py:y", "--workdir=runs/z"]
TPU = ["tpu-a", "--zone=z1", "--type=v5litepod-16", "--bucket=b", "--spot"]


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.fixture
def tpu(cluster):
    def git(*arguments):
        subprocess.run(["git", *arguments], cwd=cluster.project, check=True)

    git("init", "--quiet")
    git("add", ".")
    return cluster


def test_shellcheck_has_nothing_to_say():
    scripts = [*SCRIPTS, *FAKES.iterdir()]
    subprocess.run(["shellcheck", "--external-sources", *scripts], cwd=ROOT, check=True)


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help_is_the_comment_at_the_top_and_runs_nothing(cluster, script):
    status, output = cluster.run(script, "--help")
    assert status == 0 and f"launch/{script}" in output and "--dry-run" in output
    assert not any(word in output for word in ("set -euo", "SBATCH"))
    assert not cluster.calls()


@pytest.mark.parametrize("script", ["gpu.sh", "slurm.sh", "study.sh", "speed.sh"])
def test_help_is_help_wherever_it_stands(cluster, script):
    first = "data" if script == "study.sh" else "--dry-run"
    found = [cluster.run(script, *args) for args in ([first, "--help"], ["--help"])]
    assert found[0] == found[1] and found[0][0] == 0


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("gpu.sh", ["--dry-run", *RUN]),
        ("gpu.sh", [*RUN, "--dry-run"]),
        ("slurm.sh", ["--dry-run", *RUN]),
        ("slurm.sh", [*RUN, "--dry-run"]),
        ("tpu_vm.sh", ["run", *TPU, "--dry-run", "--", *RUN]),
        *(
            ("tpu_vm.sh", [verb, "tpu-a", "--zone=z1", "--dry-run"])
            for verb in ("logs", "status", "stop", "delete")
        ),
    ],
)
def test_a_dry_run_prints_its_commands_and_calls_none(cluster, script, arguments):
    status, output = cluster.run(script, *arguments)
    assert status == 0 and not cluster.calls() and not cluster.runs()
    lines = [shlex.split(line) for line in output.splitlines()]
    tools = {"python", "srun", "gcloud"}
    assert any(line[0] in tools for line in lines if line)


@pytest.mark.parametrize("script", ["gpu.sh", "slurm.sh"])
def test_flags_of_the_run_arrive_as_they_were(cluster, script):
    cluster.play(0)
    flags = [*RUN, "--config.platform=gpu", *SHELL_TRAPS]
    status, output = cluster.run(script, *flags, SLURM_JOB_ID="7")
    assert status == 0, output
    assert cluster.runs() == [flags]


def test_a_platform_of_the_user_is_kept_and_none_is_added_without_a_config(cluster):
    cluster.play(0, 0)
    mine = [*RUN, "--config.platform=cpu"]
    for flags in (mine, ["--mode=sample", "--workdir=runs/z"]):
        assert cluster.run("gpu.sh", *flags)[0] == 0
        assert cluster.runs()[-1] == flags


def test_a_tpu_is_asked_for_and_runs_on_all_workers(tpu):
    (tpu.project / "untracked.txt").write_text("secret")
    (tpu.project / "launch/test.sh").write_text("edited")
    tpu.play(0)
    labels, flags = "--create=--labels=a=b c", [*RUN, *SHELL_TRAPS]
    status, output = tpu.run("tpu_vm.sh", "run", *TPU, labels, "--", *flags)
    assert status == 0, output
    [create] = tpu.calls("queued-resources", "create")
    assert create[6:] == [
        "--node-id=tpu-a",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--async",
        "--spot",
        "--labels=a=b c",
        "--zone=z1",
    ]
    for worker in ("w0", "w1"):
        code = tpu.fake / worker / "mt_diffusion"
        assert (code / "launch/test.sh").read_text() == "edited"
        assert not (code / "untracked.txt").exists()
        assert (code / "runs").resolve() == tpu.fake / worker / "runs"
        assert tpu.runs(worker) == [["--distributed", *flags, "--config.platform=tpu"]]
    assert "untracked.txt" in output and "log of w0" in output
    assert len(tpu.calls("pip", "requirements-tpu.txt")) == 2
    mounts = tpu.calls("gcsfuse", "b", "--metadata-cache-ttl-secs=0")
    assert [pathlib.Path(mount[-1]).name for mount in mounts] == ["runs"] * 2


def test_a_workdir_in_a_bucket_needs_no_mount_but_its_client(tpu):
    tpu.play(0)
    place = [option for option in TPU if not option.startswith("--bucket")]
    flags = [RUN[0], "--workdir=gs://b/runs/z"]
    status, output = tpu.run("tpu_vm.sh", "run", *place, "--", *flags)
    assert status == 0, output
    assert len(tpu.calls("pip", "gcsfs")) == 2 and not tpu.calls("gcsfuse")
    for worker in ("w0", "w1"):
        assert tpu.runs(worker) == [["--distributed", *flags, "--config.platform=tpu"]]


@pytest.mark.parametrize(
    "scenario, status, creations, runs",
    [
        ((75, 0), 0, 1, 2),
        (("preempted", 0), 0, 2, 2),
        ((2, 0), 2, 1, 1),
        ((1, 0), 1, 1, 1),
    ],
)
def test_a_tpu_run_resumes_what_can_be_resumed(tpu, scenario, status, creations, runs):
    tpu.play(*scenario)
    found, output = tpu.run("tpu_vm.sh", "run", *TPU, "--", *RUN)
    assert found == status, output
    assert len(tpu.calls("queued-resources", "create")) == creations
    assert len(tpu.calls("queued-resources", "delete", "--force")) == creations - 1
    assert tpu.runs("w0") == [tpu.runs("w0")[0]] * runs
    if status == 0:
        assert tpu.runs("w1") == tpu.runs("w0")


def test_a_tpu_run_outlives_its_launcher_is_found_again_and_stops_on_all_workers(tpu):
    tpu.play("wait")
    first = tpu.start("tpu_vm.sh", "run", *TPU, "--", *RUN)
    await_that(lambda: tpu.runs("w1"))
    first.kill()
    first.stdout.close()
    first.wait()
    second = tpu.start("tpu_vm.sh", "run", *TPU, "--", *RUN)
    place = ["tpu-a", "--zone=z1"]
    status, states = tpu.run("tpu_vm.sh", "status", *place)
    assert status == 0 and states.split("\n")[1:3] == ["w0 running", "w1 running"]
    assert tpu.run("tpu_vm.sh", "stop", *place)[0] == 0
    output, _ = second.communicate(timeout=SHORTLY)
    assert second.returncode == 75 and "following the run" in output
    assert len(tpu.runs("w0")) == len(tpu.runs("w1")) == 1
    assert "w1 stopped" in tpu.run("tpu_vm.sh", "status", *place)[1]
    assert "log of w1" in tpu.run("tpu_vm.sh", "logs", *place, "--worker=1")[1]
    assert tpu.run("tpu_vm.sh", "delete", *place)[0] == 0 and not tpu.runs("none")
    assert not (tpu.fake / "request").exists()


def test_a_tpu_whose_request_fails_is_not_asked_for_again(tpu):
    (tpu.fake / "request").write_text("FAILED\n")
    status, output = tpu.run("tpu_vm.sh", "run", *TPU, "--", *RUN)
    assert status == 1 and "no quota" in output
    assert not tpu.calls("create") and not tpu.calls("delete")


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["fly", *TPU], "fly"),
        (["run", "Tpu/a", "--zone=z1"], "Tpu/a"),
        (["run", "--zone=z1"], "NAME"),
        (["run", "tpu-a", "--zone", "z1"], "--zone=VALUE"),
        (["run", "tpu-a", "--zone=z1", "--type=v5e-16", "--", *RUN], "v5litepod-16"),
        (["run", *TPU, "--", "--config=configs/none.py:y"], "configs/none.py:y"),
        (["run", "tpu-a", "--", *RUN], "--zone"),
        (["run", *TPU, "--sopt"], "--sopt"),
        (["run", *TPU], "no flags"),
        (["run", *TPU, "--", "--workdir=s3://b/x"], "no folder of a bucket"),
        (["run", *TPU, "--", "--workdir", "gs://b"], "gs://b"),
        (["run", *TPU, "--", "--workdir=elsewhere"], "elsewhere"),
        (["run", "tpu-a", "--zone=z1", "--", *RUN], "runs/z"),
        (["run", "tpu-a", "--zone=z1", "--", RUN[0], "--workdir=/nfs/z"], "--type"),
        (["run", *TPU, "--", RUN[0]], "--workdir is missing"),
        (["run", *TPU, "--", "--workdir=runs/z"], "--config is missing"),
        (["run", *TPU, "--", *RUN, "--dry-run"], "before --"),
        (["logs", "tpu-a", "--zone=z1", "--worker=x"], "--worker=x"),
    ],
)
def test_a_mistake_ends_with_2_before_anything_is_asked_for(tpu, arguments, word):
    status, output = tpu.run("tpu_vm.sh", *arguments)
    assert (
        status == 2 and output.splitlines()[-1].startswith("error:") and word in output
    )
    assert not tpu.calls("create") and not tpu.calls("ssh")


@pytest.mark.parametrize(
    "scenario, status, runs", [((75, 75, 0), 0, 3), ((2, 0), 2, 1), ((1, 0), 1, 1)]
)
def test_a_gpu_run_resumes_after_75_alone(cluster, scenario, status, runs):
    cluster.play(*scenario)
    assert cluster.run("gpu.sh", *RUN)[0] == status
    assert cluster.runs() == [[*RUN, "--config.platform=gpu"]] * runs
    assert len(cluster.calls("pip", "requirements-gpu.txt")) == 1


def test_sigterm_reaches_a_gpu_run_and_is_final(cluster):
    cluster.play("wait", 0)
    process = cluster.start("gpu.sh", *RUN)
    await_that(cluster.runs)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SHORTLY)
    assert process.returncode == 75 and len(cluster.runs()) == 1


def spooled(cluster):
    """The script where SLURM copies it to, and what it knows of a job of 2 x 4."""
    spool = cluster.fake / "job7"
    spool.mkdir()
    shutil.copy(cluster.project / "launch/slurm.sh", spool / "slurm_script")
    (cluster.fake / "job").write_text("RUNNING\n")
    return spool / "slurm_script", {
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(cluster.project),
        "SLURM_NTASKS": "8",
        "SLURM_TASKS_PER_NODE": "4(x2)",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "6",
    }


@pytest.mark.parametrize(
    "act, state, status, requeued",
    [
        (0, "RUNNING", 0, False),
        (75, "RUNNING", 75, True),
        (75, "COMPLETING", 75, False),  # somebody cancelled it
        (2, "RUNNING", 2, False),
    ],
)
def test_a_slurm_job_returns_to_the_queue_after_75(
    cluster, act, state, status, requeued
):
    script, job = spooled(cluster)
    cluster.play(act)
    (cluster.fake / "job").write_text(f"{state}\n")
    found, output = cluster.run(script, *RUN, **job)
    assert found == status, output
    assert bool(cluster.calls("scontrol", "requeue", "7")) == requeued
    assert cluster.runs() == [[*RUN, "--config.platform=gpu", "--distributed"]]
    [step] = cluster.calls("srun")
    assert {"--gpu-bind=none", "--cpus-per-task=6"} < set(step)


def test_the_warning_of_slurm_reaches_the_processes_and_not_srun(cluster):
    script, job = spooled(cluster)
    cluster.play("wait")
    process = cluster.start(script, *RUN, **job)
    await_that(cluster.runs)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SHORTLY)
    assert process.returncode == 75 and cluster.calls("scontrol", "requeue")
    assert cluster.calls("scancel") == [["scancel", "--signal=TERM", "7"]]


@pytest.mark.parametrize(
    "change, word",
    [
        ({"SLURM_TASKS_PER_NODE": "1(x2)"}, "--ntasks-per-node=4"),
        ({"SLURM_SUBMIT_DIR": "/"}, "project's folder"),
    ],
)
def test_a_slurm_job_that_cannot_work_ends_with_2(cluster, change, word):
    script, job = spooled(cluster)
    status, output = cluster.run(script, *RUN, **(job | change))
    assert status == 2 and word in output and not cluster.calls()


@pytest.mark.parametrize("arguments", [["--setup", "--dry-run"], ["--setup"]])
def test_a_set_up_for_slurm_that_fails_is_told(cluster, tmp_path, arguments):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n[ $1 = -c ]\n")  # new enough, and makes no .venv
    python.chmod(0o755)
    status, output = cluster.run("slurm.sh", *arguments, PYTHON=str(python))
    assert (status == 0) == ("--dry-run" in arguments)
    assert (". launch/setup.sh" in output) == ("--dry-run" in arguments)
    assert not (cluster.project / ".venv").exists() and "pip" not in output


def test_slurm_directives_stand_before_the_first_command():
    head = (ROOT / "launch/slurm.sh").read_text().split("set -euo")[0]
    assert "#SBATCH --signal=B:TERM@120" in head and "#SBATCH --requeue" in head
