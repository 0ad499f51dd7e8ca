"""How full a chip's matrix units are, which pad channels to multiples of their side."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

from mt_diffusion.experiment.experiment import Experiment, init_params


def filled(experiment: Experiment, side: int) -> float:
    """The share of multiplications that are of the network, and not of padding.

    Of one look of the network at one image. side: of the matrix unit, as 128: what a
    product sums over and the channels that it gives are padded to multiples of it.
    """
    program = jax.make_jaxpr(lambda: init_params(jax.random.key(0), experiment))()
    own = padded = 0.0
    for times, summed, given in products(program.jaxpr):
        own += times * summed * given
        padded += times * up(summed, side) * up(given, side)
    return own / padded


def up(number: int, side: int) -> int:
    """The next multiple."""
    return -(-number // side) * side


def products(jaxpr: Any) -> Iterator[tuple[int, int, int]]:
    """(times, numbers summed over, channels given) of each product in a program."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            yield of_dot(equation)
        elif name == "conv_general_dilated":
            yield of_convolution(equation)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=is_program
        ):
            if is_program(inner):
                yield from products(getattr(inner, "jaxpr", inner))


def is_program(value: Any) -> bool:
    """Whether it is one inside of another."""
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def of_dot(equation: Any) -> tuple[int, int, int]:
    """What the right side has besides what is summed over is given as channels."""
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    a, b = (x.aval.shape for x in equation.invars)
    summed = size(a, left)
    given = math.prod(b) // (summed * size(b, right_batch))
    return math.prod(a) // summed, summed, given


def of_convolution(equation: Any) -> tuple[int, int, int]:
    """Each place of the kernel is a product over the channels that are read."""
    numbers = equation.params["dimension_numbers"]
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    given, summed, *places = (kernel[i] for i in numbers.rhs_spec)
    pixels = math.prod(out) // out[numbers.out_spec[1]]
    return pixels * math.prod(places), summed, given


def size(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Of these axes together."""
    return math.prod(shape[i] for i in axes)
