"""Attention: both of its ways are the same, and each device gets the one it has."""

import contextlib
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.models import attention, splash
from mt_diffusion.parallel import sharding

SHAPES = {"self": (64, 64), "tokens": (64, 7), "pooled": (1, 65)}


def drawn(shape, dtype, heads=2, channels=16):
    """Queries, keys and values."""
    q, k = SHAPES[shape]
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((3, n, heads, channels) for n in (q, k, k))
    return [jax.random.normal(a, s, dtype) for a, s in zip(keys, sizes, strict=True)]


def device(platform="gpu", version="cuda 12090", capability="9.0"):
    """What is asked of a device."""
    client = types.SimpleNamespace(platform_version=version)
    return types.SimpleNamespace(
        platform=platform, client=client, compute_capability=capability
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_the_textbooks_sums(shape):
    query, key, value = (np.asarray(x, np.float64) for x in drawn(shape, jnp.float32))
    found = attention.attention(*drawn(shape, jnp.float32))
    for b, q, h in ((0, 0, 0), (2, -1, 1)):
        weights = np.exp(key[b, :, h] @ query[b, q, h] / np.sqrt(16))
        expected = weights / weights.sum() @ value[b, :, h]
        np.testing.assert_allclose(found[b, q, h], expected, atol=1e-6)


def test_the_kernel_is_called_with_what_gives_the_same(monkeypatch):
    """In bfloat16, by JAX's own products in the place of cuDNN's."""
    args, plain, called = (
        drawn("tokens", jnp.bfloat16),
        jax.nn.dot_product_attention,
        [],
    )

    def kernel(*args, implementation):
        called.append(implementation)
        return plain(*args, implementation="xla")

    def loss(way, *args):
        return jnp.square(way(*args).astype(jnp.float32)).sum()

    wanted = (
        attention.by_products(*args),
        jax.grad(loss, 1)(attention.by_products, *args),
    )
    monkeypatch.setattr(attention, "takes_cudnn", lambda *_: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    found = attention.attention(*args), jax.grad(loss, 1)(attention.attention, *args)
    assert called == ["cudnn", "cudnn"]
    for a, b in zip(found, wanted, strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        # Half of bfloat16's last digit is 2e-3 of a number.
        assert np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) < 3e-3


def test_the_kernel_is_for_what_it_takes():
    half = jnp.zeros((1, 64, 2, 64), jnp.bfloat16)
    assert attention.takes_cudnn(half, device())
    assert not attention.takes_cudnn(half.astype(jnp.float32), device())
    assert not attention.takes_cudnn(jnp.tile(half, 3), device())
    assert not attention.takes_cudnn(half[..., :12], device())
    assert not attention.takes_cudnn(half, device(capability="7.5"))
    assert not attention.takes_cudnn(half, device(version="rocm 6"))
    assert not attention.takes_cudnn(half, device("tpu"))
    assert not attention.takes_cudnn(half, jax.local_devices()[0])


@pytest.mark.parametrize(
    ("here", "target", "called"),
    [
        (device(), None, True),
        (device(), device("tpu"), False),
        (device("cpu"), device(), True),
        (device("cpu"), None, False),
    ],
)
def test_the_devices_that_a_program_is_for_are_asked(monkeypatch, here, target, called):
    """And not those that are here, where it is compiled for others."""
    monkeypatch.setattr(jax, "local_devices", lambda: [here])
    calls = []
    monkeypatch.setattr(attention, "by_products", lambda *args: calls.append(args))
    mesh = types.SimpleNamespace(devices=np.array([target]))
    inside = attention.compiled_for(mesh) if target else contextlib.nullcontext()
    query, key, value = drawn("self", jnp.bfloat16)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *args, implementation: args
    )
    with inside:
        found = attention.attention(query, key, value)
    assert (found is not None) == called and len(calls) == (not called)


def splashed(monkeypatch):
    """Lets the kernel run here, by interpretation; the list of its calls."""
    called, kernel = [], splash.attention

    def interpreted(*args):
        called.append(args[0].shape)
        return kernel(*args, interpret=True)

    monkeypatch.setattr(splash, "attention", interpreted)
    return called


def long(examples, keys=256, channels=64):
    """Queries, keys and values of so many places that the kernel takes them."""
    drawn = jax.random.split(jax.random.key(0), 3)
    sizes = ((examples, n, 2, channels) for n in (128, keys, keys))
    return [
        jax.random.normal(key, size, jnp.bfloat16)
        for key, size in zip(drawn, sizes, strict=True)
    ]


@pytest.mark.parametrize("channels", [64, 40])
def test_splash_attention_and_its_gradient_are_those_of_the_products(channels):
    """Each as near to the values in float32 as bfloat16 lets the products be.

    But for the queries' scale, which 40 channels make them round once more.
    """
    args = long(1, channels=channels)
    kernel = functools.partial(splash.attention, interpret=True)

    def both(way, args):
        def loss(*args):
            return jnp.square(way(*args).astype(jnp.float32)).sum()

        return way(*args), *jax.grad(loss, (0, 1, 2))(*args)

    exact = both(attention.by_products, [x.astype(jnp.float32) for x in args])
    for a, b, c in zip(
        both(kernel, args), both(attention.by_products, args), exact, strict=True
    ):
        a, b, c = (np.asarray(x, np.float32) for x in (a, b, c))
        mine, theirs = (np.sqrt(np.mean((x - c) ** 2)) for x in (a, b))
        assert mine < 1.1 * theirs + 2e-3 * np.sqrt(np.mean(c**2))


def test_splash_takes_whole_registers_of_places():
    query, key, _ = long(1)
    assert splash.fits(query, key)
    assert not splash.fits(query, key[:, :77])
    assert not splash.fits(query[:, :64], key)
    assert not splash.fits(query[..., :31], key[..., :31])


@pytest.mark.parametrize(("examples", "device_has"), [(8, (1, 128, 2, 64)), (3, None)])
def test_examples_are_shared_out_over_the_devices_of_a_mesh(
    monkeypatch, examples, device_has
):
    """Where each gets whole ones; inside of shard_map the kernel has what is there."""
    called, mesh = splashed(monkeypatch), sharding.make_mesh()
    args = long(examples, keys=128)
    wanted = np.asarray(attention.by_products(*args), np.float32)

    def by_splash(*args):
        return attention.by_splash(*args, mesh)

    found = np.asarray(jax.jit(by_splash)(*args), np.float32)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    assert called == ([device_has] if device_has else [])
    if device_has:
        own = jax.shard_map(
            functools.partial(attention.by_splash, mesh=None),
            mesh=mesh,
            in_specs=sharding.over_batch(mesh).spec,
            out_specs=sharding.over_batch(mesh).spec,
            check_vma=False,
        )
        np.testing.assert_array_equal(np.asarray(own(*args), np.float32), found)
        assert called == 2 * [device_has]


def test_a_lone_device_has_all_examples_and_many_without_a_mesh_none(monkeypatch):
    called, args = splashed(monkeypatch), long(1, keys=128)
    attention.by_splash(*args, sharding.make_mesh(devices=jax.devices()[:1]))
    assert len(called) == 1
    attention.by_splash(*args, None)
    assert jax.device_count() > 1 and len(called) == 1
