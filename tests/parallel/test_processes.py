"""Two real processes on one machine, as two hosts of a pod are, by the command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

NUM_STEPS = 60
FLAGS = [
    "--config=configs/ddpm.py:smoke",
    "--config.unet.channel_mult=(1,)",
    "--config.unet.attention_resolutions=()",
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.batch_size=16",
    "--config.watch.log_every=1",
    "--config.watch.checkpoint_every=1000",
    "--config.watch.sample_every=0",
    "--config.sampling.num_steps=2",
]


def start(*flags, num_devices=1):
    """A process of the command, with simulated devices of its own."""
    devices = f" --xla_force_host_platform_device_count={num_devices}"
    environment = os.environ | {
        "XLA_FLAGS": " ".join(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if "device_count" not in flag
        )
        + devices
    }
    return subprocess.Popen(
        [sys.executable, "-m", "mt_diffusion.main", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start_both(*flags):
    """Two processes with two devices each."""
    job = (f"--coordinator={free_address()}", "--num_processes=2")
    return [start(*flags, *job, f"--process_id={i}", num_devices=2) for i in range(2)]


def end(*processes):
    """[(exit status, what it printed, its errors)] of each."""
    try:
        texts = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *t) for p, t in zip(processes, texts, strict=True)]


def metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {line["step"]: line["loss"] for line in found if "loss" in line}, found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """{step: loss} and folder of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    ((status, _, errors),) = end(start(*FLAGS, f"--workdir={workdir}"))
    assert status == 0, errors
    return metrics(workdir)[0], workdir


@pytest.mark.parametrize(
    "gather", ["step", pytest.param("block", marks=pytest.mark.wide)]
)
def test_two_processes_train_stop_together_and_go_on_as_one_would(
    alone, tmp_path, gather
):
    """With the state split over all four devices; then in one process again."""
    expected, _ = alone
    flags = [*FLAGS, f"--workdir={tmp_path}"]
    mesh = ["fsdp=4", "num_devices=4", f"gather={gather}"]
    both = start_both(*flags, *(f"--config.mesh.{wish}" for wish in mesh))
    deadline = time.monotonic() + 300
    log = tmp_path / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 5):
        assert both[0].poll() is None, end(*both)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    both[1].send_signal(signal.SIGTERM)
    (first, out, errors), (second, silence, _) = end(*both)
    assert (first, second) == (75, 75), errors
    assert "mesh {'data': 1, 'fsdp': 4}, 2 process(es)" in out
    assert "told to stop after step" in errors and "step" not in silence
    stopped = max(metrics(tmp_path)[0])
    assert 5 < stopped < NUM_STEPS
    assert (tmp_path / "checkpoints" / str(stopped)).is_dir()
    ((status, out, errors),) = end(start(*flags))
    assert status == 0, errors
    assert f"resuming from the checkpoint of step {stopped}" in out
    losses, lines = metrics(tmp_path)
    assert [x["step"] for x in lines if "loss" in x] == list(range(1, NUM_STEPS + 1))
    compared = [losses[step] for step in expected]
    np.testing.assert_allclose(compared, list(expected.values()), rtol=1e-4)
    np.testing.assert_allclose(compared[:20], list(expected.values())[:20], rtol=1e-5)


ALONE = """
import sys
from mt_diffusion.command import exits
from mt_diffusion.parallel import devices

devices.SOON, devices.PATIENCE = 0, int(sys.argv[3])
exits.answer_sigterm()
with exits.decided(), exits.explained():
    devices.join(sys.argv[1], 2, int(sys.argv[2]))
"""


def alone_of_two(process_id, patience, coordinator=None):
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, coordinator or free_address(), process_id]
        + [str(patience)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("process_id", "01")
def test_a_process_whose_others_do_not_come_says_so(process_id):
    ((status, _, errors),) = end(alone_of_two(process_id, 1))
    assert status == 75
    assert "waiting for all" in errors and "not all processes of this job" in errors


def test_a_process_that_waits_for_others_can_be_told_to_stop():
    waiting = alone_of_two("1", 300)
    assert "waiting for all" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGTERM)
    ((status, _, errors),) = end(waiting)
    assert status == 75 and "told to stop" in errors


def test_a_coordinator_needs_a_port():
    ((status, _, errors),) = end(alone_of_two("0", 1, "localhost"))
    assert status == 2 and "HOST:PORT" in errors


def test_two_processes_sample_what_one_does(alone, tmp_path):
    _, workdir = alone
    flags = ["--mode=sample", f"--workdir={workdir}", "--num_samples=6"]
    outs = [tmp_path / "one", tmp_path / "two"]
    one = start(*flags, f"--out={outs[0]}")
    ended = end(one, *start_both(*flags, f"--out={outs[1]}"))
    assert [status for status, _, _ in ended] == [0, 0, 0], ended
    found = [np.load(out / "samples.npz")["image"].astype(int) for out in outs]
    assert found[0].shape == (6, 8, 8, 1)
    assert np.abs(found[0] - found[1]).max() <= 1  # of 255: rounding
