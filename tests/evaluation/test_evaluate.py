"""`--mode=evaluate` on tiny untrained models, judged by a classifier of digits."""

import functools
import json

import jax
import numpy as np
import PIL.Image
import pytest

from configs import common, image_label, joint
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import draws as drawing
from mt_diffusion.evaluation import evaluate, features, figures, reference
from mt_diffusion.evaluation.draws import Draw
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.files import weights
from mt_diffusion.parallel import sharding
from tests.evaluation import toy_evaluation

NUM = 64
OFTEN = ("fid_toy", "sfid_toy", "kid_toy", "inception_score_toy", "precision_toy")
OFTEN += ("fid_inf_toy", "recall_toy", "nearest_train_distance_toy")
OF_IMAGES = {*OFTEN, "closer_than_1_percent_of_test_toy"}
OF_DRAW = {
    "joint": OF_IMAGES | {"coherence_toy", "label_total_variation"},
    "given_image": {"coherence_toy", "label_top1", "label_top5", "label_ece"},
    "given_label": OF_IMAGES | {"coherence_toy"},
}


@pytest.fixture(scope="module")
def network():
    return toy_evaluation.network()


@pytest.fixture(autouse=True, scope="module")
def built(network):
    """What `features.build`, which gives that network here, was asked for."""
    asked = []

    def build(kind, data, weights, mesh):
        asked.append((kind, data.source, weights))
        return jax.device_put(network, sharding.replicated(mesh))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "build", build)
        yield asked


@pytest.fixture(scope="module")
def config():
    return toy_evaluation.shrink(image_label.get_config("smoke"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, config):
    """A run of image and label with one checkpoint."""
    return toy_evaluation.save(tmp_path_factory.mktemp("run"), config)


SETTINGS = evaluate.Settings(
    num_samples=NUM, draws="", features="convnet", weights="", reference="",
    baseline="", bound_examples=0,
)  # fmt: skip


def run(workdir, out, seed=0, overrides=None, **settings):
    """metrics.json of an evaluation into `out`."""
    settings = SETTINGS._replace(**settings)
    evaluate.evaluate(workdir, out, settings, seed, overrides or {}, True)
    return json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)


def of_draw(found, draw):
    """{name without what is appended: metric}, and what is appended."""
    some = [m for m in found["metrics"] if m["draw"] == draw]
    ends = {m["name"][m["name"].index(f"_{NUM}_cfg") :] for m in some}
    (end,) = ends
    return {m["name"].removesuffix(end): m for m in some}, end


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    """(folder, metrics.json) of an evaluation of all, with bounds on 16 examples."""
    out = tmp_path_factory.mktemp("whole") / "new" / "3"
    return out, run(workdir, out, bound_examples=16)


def test_every_figure_stands_between_its_marks(whole):
    _, found = whole
    for draw, names in OF_DRAW.items():
        metrics, end = of_draw(found, draw)
        assert metrics.keys() == names and end == f"_{NUM}_cfg1.0"
        for m in metrics.values():
            keys = ["draw", "name", "value", "standard_error", "better"]
            assert list(m) == [*keys, "floor", "ceiling", "baseline"]
            assert np.isfinite(m["value"]) and m["baseline"] is None
            assert np.isfinite(m["standard_error"]) and m["standard_error"] >= 0
            marks = [m[k] and m[k]["value"] for k in ("floor", "ceiling")]
            if None not in marks:
                assert toy_evaluation.ORDER[m["better"]](*marks)
            assert all(m[k] is None or m[k]["of"] for k in ("floor", "ceiling"))
        fid = metrics.get("fid_toy")
        assert draw == "given_image" or (fid["floor"] and fid["ceiling"])
    joint, _ = of_draw(found, "joint")
    assert joint["coherence_toy"]["ceiling"]["value"] > 0.8


def test_bounds_stand_beside(whole):
    _, found = whole
    bounds = [m for m in found["metrics"] if m["draw"] == "likelihood"]
    names = [m["name"] for m in bounds]
    assert "joint_nll_bound_nats_of_16" in names and "nll_label_nats_of_16" in names
    assert all(m["better"] == "lower" and m["floor"] is None for m in bounds)
    assert all(m["standard_error"] is not None for m in bounds)
    assert len(found["metrics"]) == len(bounds) + sum(map(len, OF_DRAW.values()))


def open_image(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def test_what_is_written(whole, network, workdir):
    out, found = whole
    manifest = found["manifest"]
    written = json.loads((out / "manifest.json").read_text())
    assert written.items() <= manifest.items()
    assert manifest.keys() - written.keys() == {"draws"}
    given = {"joint": [], "given_image": ["image"], "given_label": ["label"]}
    assert manifest["draws"] == {
        name: {"given": names, "num": NUM} for name, names in given.items()
    }
    assert (manifest["step"], manifest["seed"], manifest["num_samples"]) == (3, 0, NUM)
    assert manifest["sampling"]["num_steps"] == 2
    assert manifest["features"] == {"name": "toy", "digest": network.digest}
    assert manifest["reference"]["num_images"] == 1438
    assert manifest["versions"]["jax"] == jax.__version__
    for name in given:
        folder = out / name
        assert {p.name for p in folder.iterdir()} == {
            "samples.npz",
            "samples",
            "grid.png",
        }
        samples = weights.read_npz(folder / "samples.npz")
        images = [open_image(p) for p in sorted((folder / "samples").iterdir())]
        assert len(images) == NUM
        np.testing.assert_array_equal(np.stack(images), samples["image"][..., 0])
    assert open_image(out / "neighbours.png").shape[1] > 4 * 64
    assert len(list((workdir / "evaluation").glob("reference_toy_*.npz"))) == 1


def test_the_label_is_judged_for_its_own_image(whole):
    """Row by row by hand, from the files alone."""
    out, found = whole
    samples = weights.read_npz(out / "given_image" / "samples.npz")
    images, labels = toy_evaluation.digits("test")
    np.testing.assert_array_equal(samples["image"], images[:NUM])
    right = np.mean(samples["label"] == labels[:NUM])
    assert of_draw(found, "given_image")[0]["label_top1"]["value"] == right
    samples = weights.read_npz(out / "given_label" / "samples.npz")
    np.testing.assert_array_equal(samples["label"], labels[:NUM])


def samples_of(out):
    paths = sorted(out.glob("*/samples.npz"))
    return {p.parent.name: weights.read_npz(p) for p in paths}


def check_same(one, other):
    """Folder and metrics.json of two evaluations, to the last bit."""
    (out, found), (other_out, other_found) = one, other
    assert (out / "metrics.json").read_text() == (
        other_out / "metrics.json"
    ).read_text()
    assert found == other_found
    a, b = samples_of(out), samples_of(other_out)
    assert a.keys() == b.keys()
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_interrupted_evaluation_goes_on_to_the_same_figures(
    whole, workdir, tmp_path, monkeypatch
):
    """Killed in its second draw; in another folder with the same seed."""
    carry_out, drawn = drawing.carry_out, []

    def dying(draw, *args):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(draw)
        return carry_out(draw, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(drawing, "carry_out", dying)
        run(workdir, tmp_path, bound_examples=16)
    assert drawn == [Draw(())] and not (tmp_path / "metrics.json").exists()
    before = (tmp_path / "joint" / "samples.npz").stat()
    found = run(workdir, tmp_path, bound_examples=16)
    assert (tmp_path / "joint" / "samples.npz").stat().st_mtime == before.st_mtime
    check_same(whole, (tmp_path, found))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 1}, r"seed \(0 there, 1 now\)\."),
        ({"num_samples": 65}, r"num_samples \(64 there, 65 now\)\."),
        ({"overrides": {"num_steps": 3}}, r"sampling.num_steps \(2 there, 3 now\)\."),
        ({"bound_examples": 3}, r"bound_examples \(16 there, 3 now\)\."),
    ],
)
def test_other_settings_do_not_mix_in_a_folder(whole, workdir, changes, words):
    out, _ = whole
    before = {p: p.stat().st_mtime for p in out.rglob("*")}
    with pytest.raises(UserError, match=f"with other settings: {words}"):
        run(workdir, out, **{"bound_examples": 16} | changes)
    assert {p: p.stat().st_mtime for p in out.rglob("*")} == before


def test_other_parameters_of_the_same_step_do_not_mix(whole, config, tmp_path):
    out, _ = whole
    other = toy_evaluation.save(tmp_path, config, seed=1)
    with pytest.raises(UserError, match=r"other settings: parameters_digest \("):
        run(other, out, bound_examples=16)


def test_a_baseline_stands_beside_its_likes(whole, workdir, tmp_path):
    """Another checkpoint's file; of one draw here, at another folder of one's own."""
    out, found = whole
    found = json.loads(json.dumps(found))
    del found["metrics"][0]
    found["metrics"][1]["value"] = 42.0
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(found))
    here = run(workdir, tmp_path / "out", draws="joint", baseline=str(path))
    theirs = {(m["draw"], m["name"]): m["value"] for m in found["metrics"]}
    assert {m["draw"] for m in here["metrics"]} == {"joint"}
    for i, m in enumerate(here["metrics"]):
        assert m["baseline"] == theirs.get((m["draw"], m["name"]))
        assert (m["baseline"] is None) == (i == 0)
    assert here["metrics"][2]["baseline"] == 42
    assert not any("nats" in m["name"] for m in here["metrics"])  # no bounds


@pytest.mark.parametrize(
    "content", [None, "no json", "[]", '{"metrics": [{"draw": "joint"}]}', "{}"]
)
def test_a_broken_baseline_is_refused(workdir, tmp_path, content, built):
    path, asked = tmp_path / "b.json", len(built)
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="--baseline=.*b.json is no metrics.json"):
        run(workdir, tmp_path / "out", baseline=str(path))
    assert not (tmp_path / "out").exists() and len(built) == asked


def test_a_reference_of_ones_own(workdir, config, network, tmp_path):
    """FID by hand against it; and what holds too few images."""
    train = sources.open_source(config.data, "train")
    path, mesh = tmp_path / "r.npz", sharding.make_mesh()
    made = reference.compute(train, network, 100, 64, mesh)
    reference.write(path, made)
    out = tmp_path / "out"
    found = run(workdir, out, draws="joint", reference=str(path))
    expected = {"digest": made.digest, "num_images": 100}
    assert found["manifest"]["reference"] == expected
    images = weights.read_npz(out / "joint" / "samples.npz")["image"]
    flat = images.reshape(NUM, -1) / 255 @ network.directions.astype(float)
    fid = of_draw(found, "joint")[0]["fid_toy"]["value"]
    assert fid == pytest.approx(frechet(flat, made.pooled), rel=1e-4)
    reference.write(path, reference.compute(train, network, 3, 64, mesh))
    with pytest.raises(UserError, match="needs 4 images in the reference"):
        run(workdir, tmp_path / "other", reference=str(path))
    with pytest.raises(UserError, match="there is no such file"):
        run(workdir, tmp_path / "other", reference=str(tmp_path / "no.npz"))


def test_a_reference_is_made_once_for_each_data_set(config, tmp_path, monkeypatch):
    """Also by a network that serves all data sets; what they hold counts, no name."""
    config, mesh = config.copy_and_resolve_references(), sharding.make_mesh()
    experiment, times = experiments.build(config), {}
    cls = type(sources.open_source(config.data, "train"))
    getitem = cls.__getitem__

    def other_pixel(source, i):
        image = getitem(source, i)["image"].copy()
        image[0, 0] ^= i == 1
        return getitem(source, i) | {"image": image}

    for name, num, read in [("", 1, getitem), ("a", 1, getitem), ("", 2, other_pixel)]:
        config.data.name = name
        monkeypatch.setattr(cls, "__getitem__", read)
        evaluate.open_real(config, experiment, SETTINGS, tmp_path, mesh)
        now = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
        assert len(now) == num and times.items() <= now.items()
        times = now


def frechet(rows, other):
    """By the eigenvalues of the product of covariances."""
    mu, sigma = rows.mean(axis=0), np.cov(rows.T)
    roots = np.sqrt(np.abs(np.linalg.eigvals(sigma @ other.sigma)))
    traces = np.trace(sigma) + np.trace(other.sigma) - 2 * roots.sum()
    return np.sum((mu - other.mu) ** 2) + traces


def test_guidance_is_in_the_names_of_what_it_guides(config):
    """Whatever is given, if it is read or drifts alone; never towards the image.

    Autoguidance is of all draws.
    """
    sampling = config.copy_and_resolve_references().sampling
    sampling.update(guidance=3.0, head_guidance=0.5, autoguidance=2.0)
    config = config.copy_and_resolve_references()
    neither, both = (1.0, 0.0, 2.0), (3.0, 0.5, 2.0)
    for reads in (False, True):
        config.modalities.label.conditions = reads
        experiment = experiments.build(config)
        expected = {"joint": neither, "given_image": neither, "given_label": both}
        assert expected == {
            draw.name: evaluate.guidance_of(draw, experiment, sampling)
            for draw in drawing.every(experiment)
        }


def test_guidance_that_nothing_follows_is_refused(workdir, tmp_path):
    """The label of this model can guide, where it is given; the image can't."""
    for wish in ({"guidance": 2.0}, {"head_guidance": 1.0}):
        (name,) = wish
        with pytest.raises(UserError, match=f"--{name}=[12].0 would change nothing"):
            run(workdir, tmp_path / "b", overrides=wish, draws="joint,given_image")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"draws": "given_all"}, "--draws names given_all, .* joint, given_image"),
        ({"num_samples": 3}, "needs 4 samples of each draw or more, but there are 3"),
        ({"overrides": {"sampler": "euler"}}, "euler"),
    ],
)
def test_impossible_wishes_are_refused_first(workdir, tmp_path, changes, words, built):
    asked = len(built)
    with pytest.raises(UserError, match=words):
        run(workdir, tmp_path / "out", **changes)
    assert not list(tmp_path.glob("out/*")) and len(built) == asked


def test_draws_that_can_not_be_are_refused_before_any(
    workdir, tmp_path, config, monkeypatch
):
    cls = type(sources.open_source(config.data, "test"))
    getitem = cls.__getitem__
    monkeypatch.setattr(cls, "__getitem__", lambda s, i: getitem(s, i) | {"label": -1})
    with pytest.raises(UserError, match="leave given_label out with --draws"):
        run(workdir, tmp_path)
    assert not (tmp_path / "joint").exists()


def test_a_folder_that_can_not_be_is_refused(workdir, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--out=.*file can't be written to"):
        run(workdir, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_image_alone(tmp_path):
    """Without modalities there is one draw; without --out, its place is the workdir."""
    config = toy_evaluation.shrink(common.get_config("smoke"))
    toy_evaluation.save(tmp_path, config)
    settings = SETTINGS._replace(num_samples=10)
    evaluate.evaluate(tmp_path, None, settings, 0, {}, True)
    found = json.loads((tmp_path / "evaluation" / "3" / "metrics.json").read_text())
    assert list(found["manifest"]["draws"]) == ["joint"]
    assert {m["name"].removesuffix("_10_cfg1.0") for m in found["metrics"]} == OF_IMAGES


def test_three_modalities_in_all_seven_ways(tmp_path, capsys):
    """With guidance, which is in the names of all that something given guides."""
    config = toy_evaluation.shrink(joint.get_config("smoke"))
    config.modalities.label.conditions = False
    config.sampling.guidance = 2.0
    toy_evaluation.save(tmp_path / "run", config)
    found = run(tmp_path / "run", tmp_path / "out", num_samples=16)
    found["metrics"] = [
        m | {"name": m["name"].replace("_16_", f"_{NUM}_")} for m in found["metrics"]
    ]
    names = drawing.every(experiments.build(config))
    assert len(names) == 7
    names = [d.name for d in names if d.name != "given_image_label"]  # asks nothing
    restored = {"seen_pixels_identical"} | {
        f"restoration_{n}"
        for n in ("hidden_psnr", "ssim", "distance_toy", "diversity_toy")
    }
    for name in names:
        some, end = of_draw(found, name)
        guided = name not in ("joint", "given_image")
        assert end == f"_{NUM}_cfg{2.0 if guided else 1.0}", name
        is_made = "_image" not in name.replace("masked_image", "")
        assert OF_IMAGES <= some.keys() or not is_made
        if "masked_image" in name and "given_image" not in name:
            assert restored <= some.keys()
            assert some["seen_pixels_identical"]["value"] == 1
        else:
            assert not restored & some.keys()
        assert ("label_top1" in some) == ("given_image" in name)
    assert not [m for m in found["metrics"] if m["draw"] == "given_image_label"]
    printed = capsys.readouterr().out
    assert all(
        m["name"].replace(f"_{NUM}_", "_16_") in printed for m in found["metrics"]
    )


def test_names_and_numbers_of_a_metric():
    name = functools.partial(figures.full_name, "fid_toy")
    assert name(10_000, 1.0, 0.0) == "fid_toy_10k_cfg1.0"
    assert name(256, 2, 0) == "fid_toy_256_cfg2.0"
    assert name(1500, 1.25, 0.5) == "fid_toy_1500_cfg1.25_head0.5"
    assert name(8, 1.0, 0.0, 2.0) == "fid_toy_8_cfg1.0_auto2.0"
    assert len({name(8, g, 0.0) for g in (1.2, 1.25, 1.15)}) == 3
    mark, nan = figures.Mark(1.0, "x"), figures.Mark(float("nan"), "y")
    metric = figures.Metric("fid", float("inf"), "lower", mark, nan)
    assert metric.as_json("joint") == {
        "draw": "joint",
        "name": "fid",
        "value": None,
        "standard_error": None,
        "better": "lower",
        "floor": {"value": 1.0, "of": "x", "spread": None},
        "ceiling": None,
        "baseline": None,
    }


def test_the_table_that_is_printed(capsys):
    marks = {"floor": {"value": 2.0, "of": "x"}, "ceiling": None, "baseline": None}
    figures.tell([{"draw": "joint", "name": "fid", "value": None} | marks])
    assert (
        capsys.readouterr().out.split()
        == "joint value floor ceiling baseline fid 2".split()
    )
    figures.tell([])
