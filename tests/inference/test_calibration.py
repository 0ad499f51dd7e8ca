"""What is measured of a model, by a loop of its own; and what is kept of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import joint
from mt_diffusion.data import pipeline, sources
from mt_diffusion.diffusion import variance
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference import calibration
from mt_diffusion.inference.believer import CONDITIONAL, JOINT, Believer
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding
from tests.arbitrary import parameters

NUM = 6


@pytest.fixture(scope="module")
def model():
    """(config, experiment, params, source) of an untrained joint model."""
    config = joint.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 5
    config.modalities.label.update(guess="mean", energy=400.0)
    config.modalities.masked_image.guess = "absent"
    config.sampling.update(num_steps=2, batch_size=4)
    config.sampling.update(variance="measured", correction="measured")
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config, source)
    experiment = experiments.build(config)
    params = parameters(experiment)
    return config, experiment, params | experiment.tables, source


def by_hand(model, joint_state):
    """Moments at each t, from the denoiser alone."""
    config, experiment, params, source = model
    some = calibration.Some(source, np.linspace(0, len(source) - 1, NUM).astype(int))
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    batch = pipeline.batches_in_order(some, preprocess, NUM, 0)[0]
    batch = jax.tree.map(jnp.asarray, batch)
    denoiser, process = experiment.denoiser, experiment.process
    modalities = {m.name: m for m in experiment.modalities}
    label = modalities["label"]
    reads = [] if joint_state else [n for n, m in modalities.items() if m.conditions]
    known = {n: jnp.ones(NUM, bool) for n in reads}
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(NUM)]

    @jax.jit
    def at(t):
        codes = denoiser.encode(params, batch.values)
        latents = {n: c.latent for n, c in codes.items()}
        if joint_state:
            del latents["masked_image"]  # absent while it is generated
        noise = jnp.stack(
            [jax.random.normal(jax.random.fold_in(k, t), (8, 8, 1)) for k in keys]
        )
        every = jnp.full(NUM, t)
        z_t = process.diffuse(batch.z0, latents, every, noise)
        view = denoiser(params, z_t, every, codes, known, batch.values)
        # Of aggregate noise, whatever is guessed.
        z0 = denoiser.z0(view, process.adjacent(every), z_t)
        wrong = [jnp.clip(z0, -1, 1) - batch.z0]
        guess = label.encode(label.mean(view.heads["label"])).latent
        for n in process.aggregation.alpha_tilde:
            is_guess = n == "label" and joint_state
            wrong.append(guess - latents["label"] if is_guess else 0 * z0)
        return jnp.stack(wrong).reshape(3, -1)

    found = [np.asarray(at(t), np.float64) for t in range(1, 6)]
    return np.stack([x @ x.T / 64 / NUM for x in found])


def test_the_moments_are_those_of_a_loop(model):
    config, experiment, params, source = model
    mesh = sharding.make_mesh()
    settings = config.copy_and_resolve_references().sampling
    settings.correction = "none"
    found = calibration.measure(
        experiment, settings, params, source, mesh, num_examples=NUM
    )
    for which in (JOINT, CONDITIONAL):
        np.testing.assert_array_equal(found[which].times, np.arange(1, 6))
        expected = by_hand(model, which == JOINT)
        np.testing.assert_allclose(found[which].moments, expected, rtol=2e-3, atol=1e-5)


def any_errors():
    return calibration.Errors(
        names=("",),
        times=np.array([1, 5]),
        moments=np.ones((2, 1, 1)),
        slopes=np.ones(2),
        means=np.zeros((2, 8, 8, 1)),
        mean=np.zeros((8, 8, 1)),
    )


def test_it_is_measured_once(model, tmp_path, monkeypatch, capsys):
    config, experiment, params, _ = model
    mesh, calls, errors = sharding.make_mesh(), [], any_errors()

    def measure(*args):
        calls.append(args)
        return {JOINT: errors, CONDITIONAL: errors}

    monkeypatch.setattr(calibration, "measure", measure)

    def find(step=7, **changes):
        changed = config.copy_and_resolve_references()
        changed.sampling.update(changes)
        return calibration.find(tmp_path, step, True, changed, experiment, params, mesh)

    first, again = find(), find()
    assert len(calls) == 1
    np.testing.assert_array_equal(first[JOINT].moments, again[JOINT].moments)
    find(step=8), find(clip="none"), find()
    assert len(calls) == 4  # of another checkpoint, of another clip, and back
    path = tmp_path / "measured" / "7_averaged.npz"
    path.write_bytes(path.read_bytes()[:100])
    find()
    assert len(calls) == 5  # a broken file is made anew
    assert calibration.load(path, {}) is None and path.stat().st_size > 100
    assert find(variance="beta", correction="none") == {} and len(calls) == 5
    find(variance="beta")
    assert len(calls) == 5  # the same measurements serve both


@pytest.mark.parametrize("word, of_steps", [("", "beta_tilde"), ("beta", "beta")])
def test_steps_and_bounds_have_each_their_own_variance(
    model, monkeypatch, word, of_steps
):
    """Unless the config names one for both."""
    config, experiment, params, _ = model
    settings, asked = config.sampling.copy_and_resolve_references(), []
    settings.variance = word
    monkeypatch.setattr(
        variance, "places", lambda word, *_: asked.append(word) or np.zeros(6)
    )
    Believer(experiment, settings)
    assert set(asked) == {word or "measured"}
    asked.clear()
    generator = Generator(experiment, settings, sharding.make_mesh())
    jax.eval_shape(lambda: generator.draw(params, 0, jnp.arange(2), {}))
    assert set(asked) == {of_steps}


def test_it_is_kept_for_these_parameters_alone(model, tmp_path, monkeypatch, capsys):
    """Not for those of a run that was begun anew in the same folder."""
    config, experiment, params, _ = model
    mesh, calls, errors = sharding.make_mesh(), [], any_errors()

    def measure(*args):
        calls.append(args)
        return {JOINT: errors, CONDITIONAL: errors}

    monkeypatch.setattr(calibration, "measure", measure)

    def find(params, folder=tmp_path):
        calibration.find(folder, 7, True, config, experiment, params, mesh)
        return len(calls)

    others = jax.tree.map(lambda x: x + 1, params)
    assert [find(p) for p in (params, params, others, others)] == [1, 1, 2, 2]
    # A file of before parameters were named in it is of those that are there.
    path = tmp_path / "measured" / "7_averaged.npz"
    stored = dict(np.load(path))
    facts = json.loads(str(stored["facts"]))
    del facts["parameters"]
    np.savez(path, **stored | {"facts": np.array(json.dumps(facts))})
    assert find(others) == 2
    # A workdir that can't be written to is of use all the same.
    (tmp_path / "file").touch()
    assert find(params, tmp_path / "file") == 3
    assert "is not kept for other calls" in capsys.readouterr().out


def test_without_training_data_it_is_said(model, tmp_path, capsys):
    config, experiment, params, _ = model
    away = config.copy_and_resolve_references()
    away.data.update(source="folder", path=str(tmp_path / "nowhere"))
    mesh = sharding.make_mesh()
    found = calibration.find(tmp_path, 1, True, away, experiment, params, mesh)
    assert found == {} and not (tmp_path / "measured").exists()
    assert "beta_tilde" in capsys.readouterr().out
