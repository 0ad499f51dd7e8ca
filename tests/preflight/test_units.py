"""How full matrix units are, by products that are counted by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from configs import ddpm
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.preflight import units


def of(function, *shapes):
    """Its products."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return list(units.products(jax.make_jaxpr(function)(*args).jaxpr))


def test_a_matrix_product_sums_over_one_side_and_gives_the_other():
    attended = lambda a, b: jnp.einsum("bqhc,bkhc->bhqk", a, b)  # noqa: E731
    ((times, summed, given),) = of(attended, (2, 5, 3, 8), (2, 7, 3, 8))
    assert summed == 8 and times * given == 2 * 3 * 5 * 7 and given in (5, 7)
    assert of(jnp.matmul, (10, 20), (20, 30)) == [(10, 20, 30)]


def test_a_convolution_is_a_product_at_each_place_of_its_kernel():
    def conv(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=names
        )

    assert of(conv, (2, 8, 8, 3), (3, 3, 3, 16)) == [(2 * 4 * 4 * 9, 3, 16)]


def test_programs_inside_of_programs_are_looked_into():
    inner = jax.jit(lambda a, b: jax.checkpoint(jnp.matmul)(a, b))
    assert of(inner, (4, 5), (5, 6)) == [(4, 5, 6)]


@pytest.mark.parametrize("side", [1, 128])
def test_a_network_of_narrow_layers_fills_little(side):
    config = ddpm.get_config("smoke")
    share = units.filled(experiments.build(config), side)
    assert share == 1 if side == 1 else 0 < share < 0.1
    assert math.isfinite(share)
