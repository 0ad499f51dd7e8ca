"""Our U-Net's parameters as guided-diffusion's, and back."""

import jax
import numpy as np
import pytest

from mt_diffusion.models import adm
from tests.models.test_adm import reference


@pytest.mark.parametrize("name", ["updown", "class"])
def test_what_came_from_guided_diffusion_goes_back_bit_for_bit(name):
    data, state, config = reference(name)
    _, params = adm.load(state, config)
    again, missing = adm.export(params)
    assert missing == [] and again.keys() == state.keys()
    for key, weight in state.items():
        np.testing.assert_array_equal(again[key], weight)
        assert again[key].shape == weight.shape and again[key].dtype == np.float32


@pytest.mark.parametrize("name", ["updown", "class"])
def test_its_output_is_the_references_after_import_export_import(name):
    data, state, config = reference(name)
    module, params = adm.load(adm.export(adm.load(state, config)[1])[0], config)
    y = data["y"].astype(np.int32) if "y" in data else None
    apply = jax.jit(module.apply)
    out, _ = apply({"params": params}, data["x"], data["t"], y)
    np.testing.assert_allclose(out, data["out"], atol=1e-5, rtol=0)
