"""AutoencoderKL against diffusers' arrays (make_autoencoder.py), and bad folders."""

import json
import pickle

import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.models.autoencoder import folder, kl, layout, tiles
from tests.models import autoencoders

EQUAL = dict(atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=["sd", "wide"])
def both(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    autoencoders.save(place, request.param)
    return folder.Autoencoder(place), autoencoders.arrays(request.param)


def test_it_encodes_and_decodes_as_diffusers(both):
    model, wanted = both
    found = model.encode(wanted["images"])
    np.testing.assert_allclose(found.mean, wanted["mean"], **EQUAL)
    np.testing.assert_allclose(found.std, wanted["std"], **EQUAL)
    np.testing.assert_allclose(
        model.decode(wanted["latents"]), wanted["decoded"], **EQUAL
    )
    told = json.loads(str(wanted["config"]))
    assert model.scaling == told["scaling_factor"]
    assert model.shift == (told["shift_factor"] or 0)


def test_large_images_are_encoded_whole_and_decoded_in_tiles_as_in_diffusers(both):
    model, wanted = both
    if "large" not in wanted:
        pytest.skip("of one of them alone")
    found = model.encode(wanted["large"]).mean
    np.testing.assert_allclose(found, wanted["large_mean"], **EQUAL)
    large = model.decode(wanted["large_mean"])
    np.testing.assert_allclose(large, wanted["large_decoded"], **EQUAL)


def test_batches_change_nothing(both, monkeypatch):
    model, wanted = both
    five = np.repeat(wanted["latents"], 3, axis=0)[:5]
    apart = np.concatenate([model.decode(one[None]) for one in five])
    monkeypatch.setattr(folder, "AT_ONCE", 2)
    np.testing.assert_allclose(model.decode(five), apart, **EQUAL)


def test_of_large_images_fewer_go_through_together():
    """So that attention's logits, which grow with the square of the area, don't."""
    assert [folder.batch_of(side) for side in (32, 512, 768, 1024)] == [8, 8, 3, 2]
    assert folder.batch_of(4096) == 1


def test_means_that_are_large_cost_no_digits():
    x = np.random.default_rng(0).normal(300, 1, (1, 8, 8, 4)).astype(np.float32)
    found = kl.Norm(2).apply({"params": {"scale": np.ones(4), "bias": np.zeros(4)}}, x)
    groups = x.astype(np.float64).reshape(1, 64, 2, 2)
    mean, variance = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    wanted = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_tiles_of_what_is_local_have_no_seam():
    x = np.random.default_rng(0).normal(size=(2, 40, 56, 3)).astype(np.float32)
    double = lambda x: x.repeat(2, axis=1).repeat(2, axis=2)  # noqa: E731
    np.testing.assert_allclose(tiles.through(double, x, 16, 32), double(x), rtol=1e-6)


def test_what_is_written_is_read_again(both, tmp_path):
    model, wanted = both
    place = tmp_path / "again"
    place.mkdir()
    folder.write(place, model.form, model.params["params"], 32, 0.5)
    again = folder.find(str(place))
    assert again.scaling == 0.5 and again.form == model.form
    kind = "sd" if model.form.latent_channels == 4 else "wide"
    for name, x in layout.to_state(again.params["params"]).items():
        np.testing.assert_array_equal(x, autoencoders.state(kind)[name])


def test_earlier_names_and_kernels_of_attention_are_known(tmp_path):
    modern, earlier = autoencoders.state("sd"), {}
    for name, x in modern.items():
        for old, new in layout.EARLIER.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        is_kernel = ".attentions." in name and x.ndim == 2
        earlier[name] = x[:, :, None, None] if is_kernel else x
    assert modern.keys() != earlier.keys()
    place = autoencoders.save(tmp_path / "pipeline" / "vae", weights=earlier)
    found = layout.to_state(folder.find(str(place.parent)).params["params"])
    assert found.keys() == modern.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(x, modern[name])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(latent_channels=16), r"other weights.*misshapen"),
        (dict(layers_per_block=2), r"other weights.*missing"),
        (dict(use_quant_conv=False), r"other weights.*unused.*quant_conv"),
    ],
)
def test_every_key_is_accounted_for(tmp_path, changes, words):
    autoencoders.save(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        _ = folder.find(str(tmp_path)).params


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(_class_name="UNet2DConditionModel"), "UNet2DConditionModel"),
        (dict(_class_name=None, model_type="clip"), "clip"),
        (dict(_class_name="AutoencoderDC"), "AutoencoderDC"),
        (dict(act_fn="relu"), "act_fn = 'relu'"),
        (dict(down_block_types=["AttnDownEncoderBlock2D"]), "down_block_types"),
        (dict(latents_mean=[0.1] * 4), "latents_mean"),
        (dict(block_out_channels="4"), "no whole config"),
        (dict(block_out_channels=[]), "no whole config"),
        (dict(norm_num_groups=None), "norm_num_groups"),
        (dict(scaling_factor=0), "scaling_factor = 0"),
        (dict(scaling_factor="0.18"), "scaling_factor = '0.18'"),
        (dict(shift_factor=[0.1]), r"shift_factor = \[0.1\]"),
        (dict(shift_factor=True), "shift_factor = True"),
        (dict(sample_size=0), "sample_size = 0"),
        (dict(sample_size="512"), "sample_size = '512'"),
        (dict(sample_size=[]), r"sample_size = \[\]"),
    ],
)
def test_another_architecture_is_a_paragraph(tmp_path, changes, words):
    autoencoders.save(tmp_path, **changes)
    with pytest.raises(UserError, match=words) as error:
        folder.find(str(tmp_path))
    assert "\n" not in str(error.value)


class Bad:
    def __reduce__(self):
        return exit, ()


def test_pickles_are_not_read(tmp_path):
    ckpt = tmp_path / "model.ckpt"
    ckpt.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(UserError, match="a pickle, which may run code"):
        folder.find(str(ckpt))
    place = autoencoders.save(tmp_path / "vae")
    (place / autoencoders.WEIGHTS).rename(place / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="pickle, which is not read"):
        folder.find(str(place))


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/nothing", "nobody/nothing/vae", str(tmp_path / "gone")):
        with pytest.raises(UserError, match="there is no folder"):
            folder.find(name)
