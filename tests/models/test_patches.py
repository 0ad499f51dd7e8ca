"""A network of patches is that of the pictures of which each place is a patch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import image_transition
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import translate
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.models import patches
from mt_diffusion.models.unet import UNet

SIZE, CHANNELS, SIDE = 8, 3, 2
FIELDS = dict(
    model_channels=8,
    num_res_blocks=1,
    channel_mult=(1, 2),
    attention_resolutions=(2,),
    num_heads=2,
    num_head_channels=0,
    dropout=0.0,
    use_scale_shift_norm=True,
    resblock_updown=False,
    use_new_attention_order=False,
    num_classes=0,
    num_groups=4,
    transformer_depth=0,
    use_tokens=False,
    remat="none",
    dtype=jnp.float32,
)


def test_a_place_has_the_pixels_of_its_square():
    x = np.random.default_rng(0).standard_normal((2, 4, 6, CHANNELS))
    folded = patches.fold(jnp.asarray(x), SIDE)
    assert folded.shape == (2, 2, 3, 4 * CHANNELS)
    square = x[1, 2:4, 4:6]  # of place (1, 2)
    np.testing.assert_allclose(folded[1, 1, 2], square.reshape(-1), rtol=1e-6)
    np.testing.assert_array_equal(patches.unfold(folded, SIDE), jnp.asarray(x))


def test_it_is_the_network_of_folded_pictures():
    ours = UNet(**FIELDS, out_channels=CHANNELS, patch=SIDE)
    plain = UNet(**FIELDS, out_channels=CHANNELS * SIDE**2, patch=1)
    x = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE, CHANNELS))
    t = jnp.array([3.0, 500.0])
    shapes = jax.eval_shape(ours.init, jax.random.key(1), x, t)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape), p.dtype), shapes
    )
    quick = dict(compiler_options={"xla_backend_optimization_level": 0})
    out, features = jax.jit(ours.apply, **quick)(params, x, t)
    folded = patches.fold(x, SIDE)
    expected, others = jax.jit(plain.apply, **quick)(params, folded, t)
    assert out.shape == x.shape and np.ptp(out) > 0.1
    np.testing.assert_allclose(out, patches.unfold(expected, SIDE), atol=1e-4)
    for name, found in features.items():
        np.testing.assert_allclose(found, others[name], atol=1e-4)


def settings(**unet):
    config = image_transition.get_config("smoke")
    config.unet.update(unet)
    return config


def test_heads_of_pictures_have_all_their_pixels():
    config = settings(patch=2)
    experiment = experiments.build(config)
    shape = (1, config.data.image_size, config.data.image_size, 1)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))
    z, t, here = jnp.zeros(shape), jnp.ones(1, jnp.int32), jnp.ones(1, bool)

    def apply(params, z):
        codes = experiment.network.apply(params, {"image_b": z}, method="encode")
        return experiment.network.apply(params, z, t, codes, {"image_b": here})

    found = jax.eval_shape(apply, params, z)
    assert found.out.shape == found.heads["image_b"].shape == shape


def test_patches_and_levels_divide_the_picture():
    experiments.check(settings(patch=4))
    with pytest.raises(UserError, match="8 is not divisible by 16.*in patches of 8"):
        experiments.check(settings(patch=8))


def test_a_network_of_before_has_pixels():
    config = settings(patch=2).to_dict()
    assert translate.translated(config)["unet"]["patch"] == 2
    del config["unet"]["patch"]
    assert translate.translated(config)["unet"]["patch"] == 1
