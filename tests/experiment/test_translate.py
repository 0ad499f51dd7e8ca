"""Configs of the version before predictions and evidence, as checkpoints hold them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import fft

from configs import common, from_run, image_label, joint, text
from mt_diffusion.command import overrides
from mt_diffusion.diffusion import schedule
from mt_diffusion.diffusion.prediction import Eps
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import translate
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.training import objective

HEADS = {  # as a resolved config had them
    "M": {"width": 64},
    "E": {"width": 16, "num_res_blocks": 1, "channel_mult": [1, 2]}
    | {"num_heads": 2, "num_head_channels": 0, "num_groups": 8},
}
LABEL = {
    "kind": "label.Codebook",
    "drift": "ramp",
    "drift_scale": 2.5,
    "loss_weight": 0.1,
    "conditions": False,
    "drop_rate": 0.05,
    "null_rate": 0.6,
    "class_names": list("0123456789"),
    "head_kind": "M",
    "heads": HEADS,
    "token_size": 64,
    "code_side": 0,
}
MASKED = {
    "kind": "masked_image.MaskedImage",
    "drift": "ramp",
    "drift_scale": 1.0,
    "loss_weight": 0.1,
    "conditions": True,
    "drop_rate": 0.1,
    "null_rate": 0.15,
    "max_patches": 10,
    "patches_per_side": 4,
    "num_groups": 8,
    "std": 0.25,
}
VECTOR = {
    "kind": "representation.Projection",
    "drift": "ramp",
    "drift_scale": 1.3,
    "loss_weight": 0.1,
    "conditions": True,
    "drop_rate": 0.05,
    "null_rate": 0.5,
    "vectors": "feature:vector",
    "num_components": 16,
    "components": [],
    "pixel_mean": [],
    "vector_mean": [0.5, 0.0, -1.0],
    "vector_std": [1.0, 2.0, 1.0],
    "head_width": 64,
    "token_size": 64,
    "generator": "",
    "std": 0.5,
}
ALL = {"label": LABEL, "masked_image": MASKED, "representation": VECTOR}


def old(generated_drift=1.0, **modalities):
    """A stored config of that time, which had neither predictions nor presence."""
    config = json.loads(common.digits().to_json())
    del config["diffusion"]["prediction"], config["presence"]
    del config["unet"]["token_places"], config["primary"]
    del config["sampling"]["guess"], config["objective"]["bare_every"]
    del config["objective"]["bare_of"]
    config["sampling"]["generated_drift"] = generated_drift
    return config | {"modalities": modalities}


def built(config):
    return experiments.build(ConfigDict(translate.translated(config)))


def shapes_of(experiment):
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    return params["params"]


def test_an_old_model_predicts_the_noise_of_all_of_z_t():
    experiment = built(old(**ALL))
    assert isinstance(experiment.denoiser.prediction, Eps)
    config = ConfigDict(translate.translated(old(**ALL)))
    loss = objective.build(config, experiment)
    assert (loss.bare_every, loss.bare_of) == (0, "all")
    assert {m.frame for m in experiment.modalities} == {"none"}
    assert experiment.network.evident == {}
    assert not [n for n in shapes_of(experiment) if n.startswith("evidence")]
    assert {m.name: m.conditions for m in experiment.modalities} == {
        "label": False, "masked_image": True, "representation": True,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["label.Codebook", "label.SharedUNet"])
def test_what_drifts_drifts_as_it_did(kind):
    """alpha_tilde_t = c (t / T) sqrt(alpha_bar_t), of the scale c of that time."""
    experiment = built(old(**ALL | {"label": LABEL | {"kind": kind}}))
    ramp = np.arange(1001) / 1000 * np.sqrt(schedule.cosine(1000).alpha_bar)
    found = experiment.process.aggregation.alpha_tilde
    assert found.keys() == ALL.keys()
    for name, fields in ALL.items():
        expected = fields["drift_scale"] * ramp
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-300)


def test_energies_are_those_of_the_scales():
    found = translate.translated(old(**ALL))["modalities"]
    assert found["label"]["energy"] == pytest.approx(2.5**2 * 64)
    assert found["representation"]["energy"] == pytest.approx(1.3**2 * 64 / 3)
    assert found["masked_image"]["drift_scale"] == 1.0
    rgb = old(**ALL)
    rgb["data"] |= {"image_size": 32, "channels": 3}
    found = translate.translated(rgb)["modalities"]
    assert found["label"]["energy"] == pytest.approx(2.5**2 * 3072)


def test_a_scale_of_nothing_is_no_drift():
    nothing = {"label": LABEL | {"drift_scale": 0.0}}
    experiment = built(old(**nothing))
    np.testing.assert_array_equal(
        experiment.process.aggregation.alpha_tilde["label"], 0
    )


@pytest.mark.parametrize("side, family", [(0, "white"), (4, "smooth")])
def test_codes_are_of_the_old_recipe(side, family):
    found = translate.translated(old(label=LABEL | {"code_side": side}))
    expected = {"family": family, "side": side, "seed": 0, "version": 0}
    assert found["modalities"]["label"]["codes"] == expected


def test_presence_is_drawn_as_it_was():
    """Bit for bit: these lines are those of that time's objective."""
    presence = built(old(**ALL)).presence
    num = 200
    there = {name: jnp.arange(num) % 5 > 0 for name in ALL}
    present, known = presence.draw(jax.random.key(7), there)
    for i, (name, fields) in enumerate(ALL.items()):
        key = jax.random.fold_in(jax.random.key(7), i)
        u = jax.random.uniform(key, (num,))
        here = there[name] & (u >= fields["drop_rate"])
        read = here & (u >= fields["drop_rate"] + fields["null_rate"])
        np.testing.assert_array_equal(present[name], here)
        np.testing.assert_array_equal(known[name], read)
    share = presence.share({"label": "unread", "masked_image": "absent"})
    assert share == pytest.approx(0.6 * 0.1)


@pytest.mark.parametrize("drift, guess", [(1.0, "mean"), (0.0, "absent")])
def test_the_drift_of_what_is_generated_is_a_guess(drift, guess):
    experiment = built(old(drift, **ALL))
    assert {m.guess for m in experiment.modalities} == {guess}
    config = translate.translated(old(drift, **ALL))
    assert config["sampling"]["guess"] == ""
    assert "generated_drift" not in config["sampling"]


def test_what_no_new_config_may_have_is_loaded_as_it_was():
    weak, turned = {"drift_scale": 0.01}, {"drift_scale": -1.0}
    both = {"label": LABEL | weak}, {"masked_image": MASKED | turned}
    for modalities, words in zip(both, ("too little", "above 0"), strict=True):
        config = ConfigDict(translate.translated(old(**modalities)))
        (name,) = modalities
        assert experiments.build(config).process.aggregation.alpha_tilde[name].any()
        with pytest.raises(UserError, match=f"{name}.*{words}"):
            experiments.build_new(config)


def test_a_drift_in_between_is_refused():
    with pytest.raises(
        UserError, match="generated_drift is 0.5; .*1 .*mean.*0 .*absent"
    ):
        translate.translated(old(0.5, **ALL))


def test_without_modalities_it_is_a_plain_ddpm():
    experiment = built(old())
    assert experiment.modalities == () and shapes_of(experiment).keys() == {"unet"}
    assert experiment.presence.draw(jax.random.key(0), {}) == ({}, {})


def test_nothing_of_the_argument_changes():
    config = old(**ALL)
    before = json.dumps(config)
    translate.translated(config)
    assert json.dumps(config) == before


def test_a_translated_config_is_one_of_this_version():
    config = translate.translated(old(**ALL))
    assert translate.translated(config) == config
    now = joint.get_config()
    expected = {*overrides.fields(common.digits())} - {"modalities", "presence"}
    assert expected <= {*overrides.fields(ConfigDict(config))}
    for name in ("label", "masked_image"):
        assert set(config["modalities"][name]) == set(now.modalities[name])


# Of the version before tokens had recipes and places


def of_predictions():
    """A stored config of that time: two labels and two vectors, all of them read."""
    config = json.loads(common.digits().to_json())
    del config["unet"]["token_places"]
    codes = {"family": "highpass", "side": 0, "seed": 0, "version": 1}
    now = {"codes": codes, "conditions": True, "frame": "read", "measured": {}}
    gone = ("drift_scale", "drop_rate", "null_rate", "code_side")
    label, vector = (
        {n: x for n, x in fields.items() if n not in gone} | now
        for fields in (LABEL, VECTOR)
    )
    label |= {"energy": 3136.0, "guess": "held", "token_size": 2}
    vector |= {"energy": 400.0, "guess": "coherent", "token_size": 2}
    modalities = {"a": label, "b": label, "u": vector, "v": vector}
    present = {"share": 1.0} | dict.fromkeys(modalities, "read")
    return config | {"modalities": modalities, "presence": {"read": present}}


def test_tokens_without_a_recipe_are_of_the_old_one():
    found = translate.translated(of_predictions())
    assert found["unet"]["token_places"] is False
    pixels = {"kind": "pixels"}
    primary = translate.translated(old())["primary"]
    assert primary == {"name": "image", "space": pixels}
    named = translate.translated(old() | {"primary": {"name": "picture"}})["primary"]
    assert named == {"name": "picture", "space": pixels}
    for name in "abuv":
        expected = {"size": 2, "seed": 0, "version": 0}
        assert found["modalities"][name]["tokens"] == expected
    now = image_label.get_config().modalities.label
    assert set(found["modalities"]["a"]) == set(now)
    assert translate.translated(found) == found
    older = translate.translated(old(**ALL))
    assert older["modalities"]["label"]["tokens"]["version"] == 0
    assert older["unet"]["token_places"] is False


def test_tables_and_parameters_are_those_that_there_were():
    """To the bit, by copies of that version's lines."""
    experiment = built(of_predictions())
    drawn = np.random.default_rng(0).standard_normal((10, 2))
    drawn /= np.sqrt(np.mean(drawn**2, axis=-1, keepdims=True))
    basis, triangle = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 3)))
    isometry = np.sqrt(4 / 3) * (basis * np.sign(np.diag(triangle))).T
    for name, table in dict(a=drawn, b=drawn, u=isometry, v=isometry).items():
        made = experiment.variables[name].as_tokens(jnp.eye(len(table)))
        expected = table.astype(np.float32).reshape(made.shape)
        np.testing.assert_array_equal(made, expected)

    high = np.add.outer(np.arange(8) / 8, np.arange(8) / 8) >= 1
    for name, num in dict(a=10, b=10, u=3, v=3).items():
        rng = np.random.default_rng([0, *name.encode()])
        spectrum = rng.standard_normal((num, 8, 8, 1)) * high[..., None]
        images = fft.idctn(spectrum, axes=(1, 2), norm="ortho")
        basis, triangle = np.linalg.qr(images.reshape(num, -1).T)
        codes = 8 * (basis * np.sign(np.diag(triangle))).T.reshape(num, 8, 8, 1)
        codes = codes / (np.sqrt(3) if num == 3 else 1)
        found = experiment.tables["tables"][name]["images"]
        np.testing.assert_array_equal(found, codes.astype(np.float32))

    kinds = ("null_tokens", "heads")
    expected = {f"{kind}_{name}" for kind in kinds for name in "abuv"} | {"unet"}
    assert shapes_of(experiment).keys() == expected


# In checkpoints


def write(workdir, config):
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(3, {"step": jnp.asarray(3)}, ConfigDict(config))
    checkpoints.close()


def test_a_checkpoint_of_this_version_is_as_it_was_written(tmp_path):
    config = image_label.get_config().copy_and_resolve_references()
    write(tmp_path, config)
    found = Checkpoints(tmp_path).config(3)
    assert json.loads(found.to_json()) == json.loads(config.to_json())


def test_an_old_checkpoint_has_a_config_of_this_version(tmp_path):
    write(tmp_path, old(**ALL))
    found = Checkpoints(tmp_path).config(3)
    expected = translate.translated(old(**ALL))
    assert json.loads(found.to_json()) == json.loads(json.dumps(expected))
    assert found.is_locked
    experiments.build(found)


def test_what_can_not_be_translated_is_said_and_not_broken(tmp_path):
    for name, config, words in (
        ("between", old(0.5, **ALL), "generated_drift is 0.5"),
        ("older", {"a": 1}, "config of checkpoint 3 lacks what.*'diffusion'"),
    ):
        write(tmp_path / name, config)
        with pytest.raises(UserError, match=words):
            Checkpoints(tmp_path / name).newest(lambda config: {})
        assert (tmp_path / name / "checkpoints" / "3").is_dir()


def test_a_run_gives_its_config_to_another(tmp_path):
    write(tmp_path, old(**ALL))
    found = from_run.get_config(str(tmp_path))
    assert not found.is_locked
    assert found.diffusion.prediction == "eps"
    argv = ["main", f"--config=configs/from_run.py:{tmp_path}"]
    by_flag = overrides.base_config(argv)
    assert json.loads(by_flag.to_json()) == json.loads(found.to_json())


@pytest.mark.parametrize("there", ["", "nowhere", "empty"])
def test_no_run_gives_none(tmp_path, there):
    (tmp_path / "empty").mkdir()
    workdir = str(tmp_path / there) if there else ""
    with pytest.raises(UserError, match=f"from_run.py:{workdir} names no run"):
        from_run.get_config(workdir)
    assert not list((tmp_path / "empty").iterdir())


def test_fields_that_came_since_are_what_there_was_without_them():
    config = json.loads(text.get_config("smoke").to_json())
    del config["modalities"]["text"]["own_tokens"], config["unet"]["transformer_depth"]
    config["modalities"]["vector"] = VECTOR | {"energy": 1.0, "codes": {}}
    found = translate.translated(config)
    assert found["modalities"]["text"]["own_tokens"] is False
    assert found["unet"]["transformer_depth"] == 0
    assert found["modalities"]["vector"]["clip"] == ""
