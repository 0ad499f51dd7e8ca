"""`--mode=bound` on an untrained network: who reads what, and what is written."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import joint
from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.inference import bounding
from tests.arbitrary import parameters

B = 8


def get_config():
    """Both settings at once: a label that drifts alone, a masked image read as well."""
    config = joint.get_config("smoke")
    config.modalities.label.update(conditions=False, energy=400.0)
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 6
    config.sampling.update(num_steps=2, batch_size=16)
    return experiments.resolve(config, sources.open_source(config.data, "train"))


@pytest.fixture(scope="module")
def parts():
    """(experiment, measure of rows and batch, one batch of test examples)."""
    return build(get_config())


def build(config):
    """What `parts` is, of any config."""
    experiment = experiments.build(config)
    source = sources.open_source(config.data, "test")
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    batch = pipeline.batches_in_order(source, preprocess, B, 0)[0]
    measure = bounding.build_measure(experiment, config.sampling, 5)
    call = functools.partial(measure, parameters(experiment), 0)
    return experiment, call, jax.tree.map(jnp.asarray, batch)


def flat(terms):
    return {name: x for named in terms.values() for name, x in named.items()}


def test_an_example_depends_on_its_row_and_values_alone(parts):
    _, measure, batch = parts
    order = np.array([5, 2, 7, 0, 1, 3, 6, 4])
    first = flat(measure(jnp.arange(B), batch))
    other = flat(measure(jnp.asarray(order), jax.tree.map(lambda x: x[order], batch)))
    for name, values in first.items():
        np.testing.assert_allclose(other[name], values[order], rtol=2e-4, atol=1e-4)


def test_what_an_example_lacks_adds_nothing(parts):
    """Values that are not there never matter, and have no nats."""
    _, measure, batch = parts
    lacks = jnp.arange(B) % 2 == 0
    names = list(batch.values)
    without = batch.replace(available={n: ~lacks for n in names})
    broken = without.replace(
        values={
            n: jnp.where(lacks.reshape(-1, *(1,) * (v.ndim - 1)), 1e6, v)
            for n, v in batch.values.items()
        }
    )
    whole, first, second = (
        flat(measure(jnp.arange(B), b)) for b in (batch, without, broken)
    )
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-5)
        np.testing.assert_allclose(first[name][1::2], whole[name][1::2], rtol=1e-5)
    for name in names:
        assert not np.any(first[f"nll_{name}_nats"][::2])
        assert not np.any(first[f"L2_{name}_nats"][::2])
        assert np.all(first[f"L2_{name}_nats"][1::2] > 0)


def test_only_the_conditional_model_reads_the_modalities(parts):
    """The mask is read but drifts nothing: where it is 0 and the pixels are too."""
    _, measure, batch = parts
    value = batch.values["masked_image"]
    seen = jnp.concatenate([0 * value[..., :-1], jnp.ones_like(value[..., -1:])], -1)
    one, other = (
        measure(jnp.arange(B), batch.replace(values=batch.values | {"masked_image": v}))
        for v in (seen, 0 * seen)
    )
    for name, values in one[""].items():
        reads = "conditional" in name and not name.startswith("L0")
        same = not reads and not name.endswith("nats")
        assert same == np.allclose(values, other[""][name], rtol=1e-5), name


def by_other_heads(parts):
    """Terms of all variables together, by some heads and by others."""
    _, measure, batch = parts
    params, seed = measure.args
    heads = {n: x for n, x in params["params"].items() if n.startswith("heads_")}
    other = {"params": params["params"] | jax.tree.map(lambda x: 2 * x, heads)}
    first, second = (
        measure.func(p, seed, jnp.arange(B), batch)[""] for p in (params, other)
    )
    for name in ("L1_conditional", "L3_conditional", "conditional_bound"):
        known = f"{name}_bits_per_dim"
        np.testing.assert_allclose(first[known], second[known], rtol=1e-6)
    return first, second


DRAWN = "label=fresh,masked_image=coherent"


@pytest.mark.parametrize(
    "predicts, guess, moved",
    [
        ("eps", "label=mean,masked_image=mean", ("L1", "L3")),
        ("aggregate", "label=mean,masked_image=mean", ("L1",)),
        ("aggregate", DRAWN, ("L1",)),
    ],
)
def test_the_joint_model_drifts_by_what_its_heads_believe(predicts, guess, moved):
    """Other heads: another L1, and the same one where the values are known.

    The z_0 at the end is of the guess only where the noise of u_t is predicted.
    """
    config = get_config()
    config.diffusion.prediction, config.sampling.guess = predicts, guess
    first, second = by_other_heads(build(config))
    for name in ("L1", "L3"):
        believed = f"{name}_bits_per_dim"
        same = np.isclose(first[believed], second[believed], rtol=1e-4)
        assert not np.any(same) if name in moved else np.all(same)


def test_what_is_held_or_absent_drifts_by_no_belief(parts):
    """Of these the heads say what they cost, at T or at t = 1, and no more."""
    first, second = by_other_heads(parts)
    for name in ("L0", "L1", "L3"):
        believed = f"{name}_bits_per_dim"
        np.testing.assert_allclose(first[believed], second[believed], rtol=1e-6)
    total = "joint_nll_bound_nats"
    assert not np.any(np.isclose(first[total], second[total], rtol=1e-4))


def test_where_all_is_held_and_nothing_read_both_bounds_have_one_image():
    """And the label costs what the head says of it at T, and not at t = 1."""
    config = get_config()
    config.modalities.masked_image.conditions = False
    config.sampling.guess = "label=held,masked_image=held"
    _, measure, batch = build(config)
    found = measure(jnp.arange(B), batch)
    pairs = [(name, f"{name}_conditional") for name in ("L1", "L3")]
    for pair in (*pairs, ("image", "conditional_bound")):
        joint, conditional = (found[""][f"{name}_bits_per_dim"] for name in pair)
        np.testing.assert_allclose(joint, conditional, rtol=1e-5)
    config.sampling.guess = "label=mean,masked_image=held"
    _, measure, batch = build(config)
    guessed = measure(jnp.arange(B), batch)
    name = "nll_label_nats"
    assert not np.any(np.isclose(found["label"][name], guessed["label"][name]))
    name = "L2_label_nats"
    np.testing.assert_allclose(found["label"][name], guessed["label"][name], rtol=1e-5)


def test_totals_are_the_sums_of_their_terms(parts):
    experiment, measure, batch = parts
    found = flat(measure(jnp.arange(B), batch))
    to_nats = np.prod(experiment.shape) * np.log(2)
    bits = {n: found[f"{n}_bits_per_dim"] for n in ("L0", "L1", "L3", "image")}
    summed = bits["L0"] + bits["L1"] + bits["L3"]
    np.testing.assert_allclose(summed, bits["image"], rtol=1e-6)
    image = bits["image"] * to_nats
    for total, term in (("joint_nll_bound_nats", "nll"), ("paper_elbo_nats", "L2")):
        nats = sum(found[f"{term}_{n}_nats"] for n in batch.values)
        np.testing.assert_allclose(found[total], image + nats, rtol=1e-5)


def test_the_table_is_over_those_that_have_a_value():
    terms = {"": {"a": np.array([1.0, 2.0, 3.0])}, "x": {"b": np.array([5.0, 0, 7.0])}}
    terms["y"] = {"c": np.zeros(3)}
    there = {"x": np.array([True, False, True]), "y": np.zeros(3, bool)}
    table = bounding.tabulate(terms, there)
    assert table.keys() == {"a", "b"}
    assert table["a"]["mean"] == 2 and table["b"]["mean"] == 6
    assert table["a"]["standard_error"] == pytest.approx(1 / np.sqrt(3))
    assert (table["a"]["num_examples"], table["b"]["num_examples"]) == (3, 2)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with one checkpoint."""
    folder, config = tmp_path_factory.mktemp("run"), get_config()
    checkpoints = Checkpoints(folder, keep=1)
    params = parameters(experiments.build(config))
    checkpoints.save(3, {"ema_params": params}, config)
    checkpoints.close()
    return folder


def bound(workdir, **changes):
    wishes = dict(out=None, num_examples=20, num_times=2, overrides={})
    wishes |= dict(seed=0, use_ema=True) | changes
    bounding.bound(workdir, **wishes)


def test_the_command_writes_what_it_prints(workdir, capsys):
    bound(workdir)
    printed = capsys.readouterr().out
    written = json.loads((workdir / "bounds" / "3.json").read_text())
    assert (written["step"], written["num_examples"], written["num_times"]) == (
        3,
        20,
        2,
    )
    for name, row in written["terms"].items():
        line = next(x for x in printed.splitlines() if x.startswith(name + " "))
        assert float(line.split()[1]) == pytest.approx(row["mean"], rel=1e-4)
        assert row["num_examples"] == 20 and row["standard_error"] >= 0
    bound(workdir, out=workdir / "other.json", overrides={"batch_size": 8})
    other = json.loads((workdir / "other.json").read_text())["terms"]
    for name, row in written["terms"].items():
        assert other[name]["mean"] == pytest.approx(row["mean"], rel=1e-4)


@pytest.mark.parametrize(
    "wish, words",
    [
        ({"num_examples": 360}, "--num_examples=360, but there are 359 test"),
        ({"num_times": 6}, "--num_times=6, but there are 5"),
        ({"num_times": 0}, "give 1 to 5"),
    ],
)
def test_impossible_wishes_are_refused(workdir, wish, words):
    with pytest.raises(UserError, match=words):
        bound(workdir, **wish)


def test_nothing_is_written_over(workdir, tmp_path):
    out = tmp_path / "bounds.json"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        bound(workdir, out=out)
    assert out.read_text() == "mine"
    with pytest.raises(UserError, match="can't be written to"):
        bound(workdir, out=out / "inside.json")
    with pytest.raises(UserError, match="not a folder"):
        bound(tmp_path / "nowhere")
    out = tmp_path / "new" / "bounds.json"
    with pytest.raises(UserError, match="'soft'"):
        bound(workdir, out=out, overrides={"clip": "soft"})
    assert not out.parent.exists()
