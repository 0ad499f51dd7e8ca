"""A new run that starts from Stable Diffusion's U-Net."""

import json

import numpy as np
import pytest
import safetensors.numpy

from configs import common
from mt_diffusion.errors import UserError
from mt_diffusion.models.sd import saved
from mt_diffusion.report import export
from mt_diffusion.training import init_from
from tests.models.sd.test_unet import state_of, write
from tests.training.test_init_from import resolved, shapes_of, tiny


def config_of(folder, **unet):
    """Of the reference's widths, over one channel, with labels as tokens."""
    config = tiny()
    fields = saved.fields_of(saved.find(folder)) | unet
    config.unet.update(**fields)
    config.diffusion.schedule = "scaled_linear"
    config.modalities.label.update(conditions=True, tokens=common.tokens(6))
    config.modalities.label.drift = "vanishing_ramp"
    config.init_from = f"sd:{folder}"
    return config


def of_one_channel(folder):
    """The same weights, for images of one channel."""
    state = state_of("sd1")
    state["conv_in.weight"] = state["conv_in.weight"][:, :1]
    for name in ("conv_out.weight", "conv_out.bias"):
        state[name] = state[name][:1]
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    safetensors.numpy.save_file(state, file)
    return state


SCHEDULER = dict(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
)


def test_every_weight_is_loaded_and_said(tmp_path, capsys):
    folder = write(tmp_path, scheduler=SCHEDULER)
    state = of_one_channel(folder)
    config = resolved(config_of(folder))
    shapes = shapes_of(config)
    found = init_from.load(config, shapes)
    assert len(found) == len(state)
    np.testing.assert_array_equal(
        found["params", "unet", "input_blocks_1_1", "proj_in", "kernel"],
        state["down_blocks.0.attentions.0.proj_in.weight"][..., 0, 0].T,
    )
    told = capsys.readouterr().out
    total = sum(x.size for x in state.values())
    assert f"loaded: unet: {total:,} in {len(state)} arrays" in told
    assert "unused: none" in told and "new, as initialised: evidence_label" in told
    assert "config.diffusion.prediction: 'aggregate' here, v_prediction there" in told
    assert "diffusion.schedule" not in told and "diffusion.num_steps" not in told


def test_what_a_network_does_not_read_is_said(tmp_path, capsys):
    """Without tokens there is no attention to them; nothing is dropped silently."""
    folder = write(tmp_path)
    of_one_channel(folder)
    config = config_of(folder)
    config.modalities.label.conditions = False
    config = resolved(config)
    found = init_from.load(config, shapes_of(config))
    crossing = [name for name in state_of("sd1") if "attn2" in name or "norm2" in name]
    crossing = [name for name in crossing if "transformer_blocks" in name]
    assert len(found) == len(state_of("sd1")) - len(crossing)
    assert f" in {len(crossing)} arrays (unet.down_blocks.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "unet, words",
    [
        (dict(channel_mult=(1, 2)), r"channel_mult = \(1, 2, 2\) and not \(1, 2\)"),
        (dict(transformer_depth=0), "transformer_depth = 1 and not 0"),
        (dict(use_scale_shift_norm=True), "use_scale_shift_norm = False"),
        (dict(num_heads=4), "num_heads = 2 and not 4"),
    ],
)
def test_another_unet_is_refused_before_weights_are_read(tmp_path, unet, words):
    folder = write(tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_text("none")
    config = config_of(folder, **unet)
    with pytest.raises(UserError, match=words) as told:
        saved.check_fields(saved.find(folder), config.unet.to_dict())
    assert "\n" not in str(told.value)


def refused(config, shapes=None):
    config = resolved(config)
    with pytest.raises(UserError) as told:
        init_from.load(config, shapes or shapes_of(config))
    assert "\n" not in str(told.value)
    return str(told.value)


def test_other_shapes_and_files_are_refused_in_a_paragraph(tmp_path):
    folder = write(tmp_path / "a")
    config = config_of(folder)
    shapes = shapes_of(resolved(config))
    said = refused(config_of(folder), shapes)
    assert "input_blocks_0_0" in said and "the channels of latents" in said
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    said = refused(config_of(folder), shapes)
    assert "['diffusion_pytorch_model.bin'], which are not read" in said
    of_one_channel(folder)
    config = config_of(folder)
    config.modalities.label.tokens = common.tokens(8)
    said = refused(config)
    assert "attn2.to_k.kernel has shape (6, 4) there and (8, 4) here" in said
    assert "768 for Stable Diffusion 1.x" in said
    config = config_of(folder)
    config.init_from = f"sd:{tmp_path / 'v1-5.ckpt'}"
    assert ".ckpt, which is a pickle and not read" in refused(config, shapes)
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "Flux"}))
    config = tiny()
    config.init_from = f"sd:{folder}"
    assert "'Flux'" in refused(config, shapes)


def test_its_blocks_are_not_exported_as_guided_diffusions(tmp_path):
    config = tiny(transformer_depth=1, use_scale_shift_norm=False)
    model = export.Trained(tmp_path, 0, config, None, None, None)
    with pytest.raises(UserError, match="has not the transformer blocks"):
        export.export(model, tmp_path / "unet.npz", "adm")
