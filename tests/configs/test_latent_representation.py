"""The setting of Stable Diffusion's latents and CLIP's vectors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import latent_representation
from mt_diffusion.data import sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.models.autoencoder import folder, kl
from mt_diffusion.models.sd import saved
from tests.models.sd.test_unet import ORIGINAL
from tests.spaces.test_latents import made, place  # noqa: F401


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A folder of one with Stable Diffusion's factor and channels, and no weight."""
    form = kl.Form(3, 3, (2,) * 4, 1, 4, 1, True, True, False)
    image = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(kl.AutoencoderKL(form).init, jax.random.key(0), image)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])
    out = tmp_path_factory.mktemp("autoencoder")
    folder.write(out, form, params, 512, 0.18215)
    return out


@pytest.mark.parametrize("preset, side", [("sd64", 64), ("sd32", 32)])
def test_presets_are_of_stable_diffusions_unet(preset, side, tmp_path, autoencoder):
    config = latent_representation.get_config(preset)
    config.primary.space.autoencoder = str(autoencoder)
    experiments.check(config)
    (tmp_path / "config.json").write_text(str(ORIGINAL["sd1/told"]))
    saved.check_fields(tmp_path, config.unet.to_dict())
    size = json.loads(str(ORIGINAL["sd1/told"]))["cross_attention_dim"]
    vector = config.modalities.representation
    vector.update(vector_mean=(0.0,) * size, vector_std=(1.0,) * size)
    experiment = experiments.build(config)
    assert experiment.shape == (side, side, 4)
    (modality,) = experiment.modalities
    assert modality.token_shape == (1, size)
    tilde = experiment.process.aggregation.alpha_tilde["representation"]
    assert tilde[-1] == 0 < tilde.max()


def test_the_smoke_preset_is_of_own_latents(place, made):  # noqa: F811
    config = latent_representation.get_config("smoke")
    config.primary.space.autoencoder = str(place)
    config.data.latents = str(made)
    config.data.random_flip = True
    source = sources.open_source(config.data, "train")
    experiment = experiments.build(experiments.resolve(config.lock(), source))
    assert experiment.shape == (4, 4, 2)
    (modality,) = experiment.modalities
    value = modality.preprocess(source[0], np.random.default_rng(0))
    assert value.shape == (latent_representation.OWN,)
    assert experiment.primary.preprocess(source[0], np.random.default_rng(0)).shape == (
        4, 4, 2,
    )  # fmt: skip
