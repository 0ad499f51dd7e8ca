"""Layers that guided-diffusion's U-Net does not have, against plain arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from mt_diffusion.models.layers import AttentionPool, ResBlock


def test_attention_pool_is_attention_of_the_mean_written_out():
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 8))
    pool = AttentionPool(5, num_heads=2)
    params = jax.jit(pool.init)(jax.random.key(0), jnp.asarray(x, jnp.float32))
    found = jax.jit(pool.apply)(params, jnp.asarray(x, jnp.float32))

    p = jax.tree.map(lambda w: np.asarray(w, np.float64), params["params"])
    for i in range(2):
        tokens = [x[i].mean((0, 1)), *x[i].reshape(6, 8)] + p["positional_embedding"]
        qkv = tokens @ p["qkv_proj"]["kernel"] + p["qkv_proj"]["bias"]
        heads = []
        for part in (slice(0, 4), slice(4, 8)):  # of the two heads, in each of q, k, v
            q, k, v = (qkv[:, n : n + 8][:, part] for n in (0, 8, 16))
            weight = scipy.special.softmax([q[0] @ key / 2 for key in k])  # 2 = sqrt(4)
            heads.append(sum(w * value for w, value in zip(weight, v, strict=True)))
        pooled = np.concatenate(heads)
        expected = pooled @ p["c_proj"]["kernel"] + p["c_proj"]["bias"]
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_a_block_without_time_is_one_whose_time_layer_is_zero():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    block = ResBlock(16, 4, 0.0, scale_shift_norm=False, dtype=jnp.float32)
    emb = jax.random.normal(jax.random.key(1), (2, 6))
    init = jax.jit(block.init, static_argnums=3)
    params = init(jax.random.key(2), x, emb, True)["params"]
    params["out_layers_3"]["kernel"] += 0.1  # begins at zero, which would hide all
    without = {n: w for n, w in params.items() if n != "emb_layers_1"}
    zero = jax.tree.map(jnp.zeros_like, params["emb_layers_1"])
    apply = jax.jit(block.apply, static_argnums=3)
    alone = apply({"params": without}, x, None, True)
    zeroed = apply({"params": without | {"emb_layers_1": zero}}, x, emb, True)
    np.testing.assert_allclose(alone, zeroed, atol=1e-6)
    moved = apply({"params": params}, x, emb, True)
    assert jnp.max(jnp.abs(alone - moved)) > 0.01
