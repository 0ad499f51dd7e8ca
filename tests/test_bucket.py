"""A workdir in a bucket: what is kept there, found again, refused, and said."""

import json
import os
import sys
import types

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict
from tensorboard.backend.event_processing import event_accumulator

import mt_diffusion
from configs import common, from_run, image_label
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import begun
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.checkpoint import BROKEN, Checkpoints
from mt_diffusion.files import buckets, digests, growing, locks, paths, weights, writing
from mt_diffusion.inference import bounding, parts, reading, sampling
from mt_diffusion.report import record, report
from mt_diffusion.training import loop, watch
from tests.files import toy_bucket

# By gRPC it would ask what kind of bucket it is, which the stand-in does not speak.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
CONFIG = common.get_config("smoke").lock()
STATE = {"params": {"w": jnp.arange(6.0)}}
TRAIN = ConfigDict({"train": {"num_steps": 9, "batch_size": 1}})


@pytest.fixture(scope="module")
def store():
    """The stand-in, that every client of this process then speaks to."""
    with pytest.MonkeyPatch.context() as patch, toy_bucket.serving() as (url, store):
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "none")
        patch.setenv("NO_GCE_CHECK", "true")  # which waits for a machine of Google's
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        patch.setattr(locks, "BEAT", 0.05)
        patch.setattr(locks, "SILENT", 0.4)
        patch.setattr(locks, "SETTLED", 0.01)
        yield store


@pytest.fixture
def run(store):
    """A workdir that nothing was written to yet, in a bucket of its own."""
    bucket = f"bucket{len(store.buckets)}"
    store.buckets[bucket] = {}
    return paths.of(f"gs://{bucket}/runs/a b%20é")


def here(store, run):
    """{name: content} of all objects below the workdir."""
    bucket, _, folder = os.fspath(run).removeprefix("gs://").partition("/")
    names = store.names(bucket, f"{folder}/")
    found = store.buckets[bucket]
    return {n.removeprefix(f"{folder}/"): found[n].content for n in names}


def save(run, steps, keep=2):
    checkpoints = Checkpoints(run, keep)
    for step in steps:
        checkpoints.save(step, STATE, CONFIG)
    checkpoints.close()


def newest(run):
    return Checkpoints(run).newest(lambda _: jax.eval_shape(lambda: STATE))


def test_checkpoints_are_kept_verified_and_passed_over(store, run, capsys):
    for folder in ("", "checkpoints/", "checkpoints/3/", "checkpoints/3/params/"):
        bucket = os.fspath(run).split("/")[2]  # as Google's page makes folders
        store.put(bucket, f"runs/a b%20é/{folder}", b"")
    save(run, [1, 2, 3])
    names = {n: x for n, x in here(store, run).items() if n[-1:] not in ("", "/")}
    assert {n.split("/")[1] for n in names} == {"2", "3"}
    for step in ("2", "3"):
        listed = set(json.loads(names[f"checkpoints/{step}/{digests.FILE}"])["files"])
        there = {n.removeprefix(f"checkpoints/{step}/") for n in names}
        assert listed == {n for n in there if "/" in n and not n.startswith("checkp")}
    step, _, found = newest(run)
    assert step == 3 and (found["params"]["w"] == STATE["params"]["w"]).all()
    assert Checkpoints(run).shapes(3, "params")["w"].shape == (6,)
    data = max(n for n in names if "checkpoints/3/params/d/" in n)
    bucket, name = os.fspath(run / data).removeprefix("gs://").split("/", 1)
    content = store.buckets[bucket][name].content
    store.put(bucket, name, bytes([content[0] ^ 1]) + content[1:])
    assert newest(run)[0] == 2
    assert "checkpoint 3 is broken and passed over" in capsys.readouterr().out
    checkpoints = Checkpoints(run, keep=2)
    aside = checkpoints.set_aside(3)
    assert checkpoints.steps == [2] and aside == run / BROKEN / "3"
    checkpoints.close()
    moved = {n for n in here(store, aside) if n[-1:] not in ("", "/")}
    assert moved == {
        n.removeprefix("checkpoints/3/") for n in names if n.startswith("checkpoints/3")
    }


def test_a_save_that_was_cut_off_does_not_count_and_is_cleared_away(store, run):
    save(run, [1, 2])
    (run / "checkpoints/2/commit_success.txt").unlink()
    assert newest(run)[0] == 1
    assert Checkpoints(run).steps == [1]
    save(run, [2])
    assert newest(run)[0] == 2


def test_a_run_goes_on_with_its_log_whole_on_a_machine_that_has_none_of_it(store, run):
    with watch.Watch(run, 0, TRAIN) as view:
        view.write(1, {"loss": 1.0})
        view.send()  # as before each checkpoint
        kept = here(store, run)
        view.write(2, {"loss": 2.0})
        view.picture(2, "joint", PIL.Image.new("L", (8, 8)))
    kept = {n: x for n, x in kept.items() if n == watch.METRICS or "events" in n}
    assert len(kept) == 2
    bucket = os.fspath(run).split("/")[2]
    for name, content in kept.items():  # as if the machine had been taken away then
        store.put(bucket, f"runs/a b%20é/{name}", content)
    with watch.Watch(run, 1, TRAIN) as view:
        view.write(2, {"loss": 3.0})
    lines = watch.read_lines(run / watch.METRICS)
    assert [(row["step"], row["loss"]) for row in lines] == [(1, 1.0), (2, 3.0)]
    names = here(store, run)
    assert len([n for n in names if "tfevents" in n]) == 2
    assert "samples/0000002_joint.png" in names
    assert record.find_pictures(run / watch.SAMPLES) == {
        "joint": {2: run / "samples/0000002_joint.png"}
    }


def test_who_has_lost_the_workdir_sends_no_log_there(store, run):
    def lost():
        raise UserError("is being written to by another one")

    with watch.Watch(run, 0, TRAIN) as winner:
        winner.write(1, {"loss": 1.0})
    with pytest.raises(UserError, match="another one"):
        with watch.Watch(run, 1, TRAIN, check_lock=lost) as loser:
            loser.write(2, {"loss": 2.0})
            loser.send()
    assert [row["step"] for row in watch.read_lines(run / watch.METRICS)] == [1]


def test_logs_are_sent_at_times_and_large_ones_less_often(store, run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(growing.time, "monotonic", lambda: now[0])
    files = growing.Growing(run)
    (files.here / "log").write_bytes(b"1")
    for seconds, seen in ((29, False), (2, True)):
        now[0] += seconds
        if files.is_due:
            files.send()
        assert ("log" in here(store, run)) == seen
    monkeypatch.setattr(growing, "PER_SECOND", 1)
    (files.here / "log").write_bytes(50 * b"1")
    sizes = []
    for _ in range(12):
        now[0] += 10
        with open(files.here / "log", "ab") as file:
            file.write(b"1")
        if files.is_due:
            files.send()
        sizes.append(len(here(store, run)["log"]))
    assert len(set(sizes)) == 3 and sizes[-1] < 62  # at 31, 71 and 131 seconds
    files.close()
    assert here(store, run)["log"] == 62 * b"1" and not files.here.exists()


def test_tensorboard_reads_a_run_as_it_grows(store, run, monkeypatch):
    without = types.ModuleType("notf")  # as where TensorFlow is not installed
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", without)
    with watch.Watch(run, 0, TRAIN) as view:
        view.write(1, {"loss": 1.0})
        view.send()
        found = event_accumulator.EventAccumulator(os.fspath(run)).Reload()
        view.write(2, {"loss": 2.0})
        view.send()
        losses = [point.value for point in found.Reload().Scalars("loss")]
    assert losses == [1.0, 2.0]


def test_who_writes_there_is_known_as_long_as_it_does(store, run, capsys):
    with locks.held(run, "--workdir=x") as check:
        check()
        with pytest.raises(UserError, match=f"process {os.getpid()} on .*, since"):
            with locks.held(run, "--workdir=x"):
                pass
    assert here(store, run) == {}
    with locks.held(run, "--workdir=x") as check:
        left = here(store, run)[locks.FILE]
    (run / locks.FILE).write_bytes(left)  # as of a machine that was taken away
    with locks.held(run, "--workdir=x") as check:
        assert "has not ended by itself" in capsys.readouterr().out
        (run / locks.FILE).write_bytes(left)  # another one has come nevertheless
        for _ in range(100):
            try:
                check()
            except UserError as error:
                assert "being written to by" in str(error)
                break
            locks.time.sleep(0.05)
        else:
            raise AssertionError("it never learns of it")
    assert here(store, run) == {locks.FILE: left}


def test_parts_of_a_sampling_are_kept_found_and_removed(store, run):
    made = []

    def make(rows):
        made.append(rows.start)
        return {"image": np.arange(rows.start, rows.stop)}

    for _ in range(2):
        found = parts.carry_out(run / "parts/x", 5, 2, make, "samples")
        assert found["image"].tolist() == [0, 1, 2, 3, 4] and made == [0, 2, 4]
    paths.remove(run / "parts")
    assert here(store, run) == {}
    paths.remove(run / "parts")


def test_what_is_not_whole_is_not_there(store, run):
    with pytest.raises(ZeroDivisionError), writing.draft_of(run / "x") as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert here(store, run) == {}


def test_an_evaluation_claims_its_folder(store, run):
    begun.claim(run, {"seed": 0}, [])
    with pytest.raises(UserError, match="seed"):
        begun.claim(run, {"seed": 1}, [])
    assert weights.kept(run / "none.npz") is None


@pytest.mark.parametrize(
    "address, words",
    [
        ("gs://nosuch1/run", "there is no bucket nosuch1.*buckets create gs://nosuch1"),
        ("gs://closed/run", "can't be reached .*Anonymous.*application-default login"),
        ("gs:///run", "there is no bucket"),
        ("gs://bucket0/a[1]", "can't have any of"),
        ("gs://bucket0/a*", "can't have any of"),
        ("s3://bucket/run", "is no path of a file system"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(store, address, words):
    store.refused.add("closed")
    before = len(store.log)
    with pytest.raises(UserError, match=f"--workdir={address.split('[')[0][:5]}"):
        paths.of(address, f"--workdir={address}")
    with pytest.raises(UserError, match=words):
        exported.find(address)
    assert len(store.log) == before and "nosuch1" not in store.buckets


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    buckets.reach.cache_clear()
    with pytest.raises(UserError, match=r"gs://b/x, a bucket, needs .*\[gcs\]"):
        paths.of("gs://b/x")


def test_a_bucket_that_takes_nothing_more_is_an_error_of_the_user(store, run):
    bucket = os.fspath(run).split("/")[2]
    store.refused.add(bucket)
    with pytest.raises(UserError, match="could not be written"):
        writing.text(run / "x", "")
    with pytest.raises(UserError, match="--workdir=y can't be written to"):
        writing.make_folder(run, "--workdir=y")


@pytest.mark.wide
def test_every_mode_on_a_workdir_in_a_bucket(store, run):
    settings = image_label.get_config("smoke")
    settings.unet.update(model_channels=8, channel_mult=(1,), attention_resolutions=())
    settings.train.update(num_steps=1, batch_size=8)
    settings.watch.update(checkpoint_every=1, sample_every=2, log_every=1)
    settings.sampling.update(num_steps=2, batch_size=8)
    for steps in (1, 2):  # and goes on
        settings.train.num_steps = steps
        loop.train(settings, run)
    rows = watch.read_lines(run / watch.METRICS)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    out = run.parent / "out"
    model = mt_diffusion.load(os.fspath(run))
    guided = {"guide": f"{run}:1", "autoguidance": 2.0}
    for folder, wishes in ((None, {}), (out, guided)):
        sampling.sample(run, folder, 2, 0, ["label=3"], wishes, True)
    reading.read(run, None, [], 0, {}, True)
    bounding.bound(run, None, 8, 2, 0, {}, True)
    figures = model.evaluate(8, "joint", bound_examples=8)
    assert {m["draw"] for m in figures} == {"joint", "likelihood"}
    pages = report.write(run), report.compare([run], run.parent / "runs.html")
    assert all(b"</html>" in page.read_bytes() for page in pages)
    model.export(os.fspath(run.parent / "exported"))
    again = mt_diffusion.load(os.fspath(run.parent / "exported"))
    assert (again.sample(1)["image"] == model.sample(1)["image"]).all()
    assert from_run.get_config(os.fspath(run)).seed == settings.seed
    names = set(here(store, run))
    assert {"generated/000/samples.npz", "reading.json", "bounds/2.json"} <= names
    assert not [n for n in names if "parts/" in n or ".draft" in n or ".lock" in n]
    settings.update(init_from=os.fspath(run))
    settings.train.num_steps = 1
    loop.train(settings, run.parent / "new")
    assert Checkpoints(run.parent / "new").steps == [1]
