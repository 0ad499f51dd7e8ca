"""Sampling: z_T walked back to z_0 in one scan, with any modalities given.

What a step does is the solver's (solvers.py); here are the walk, its noise, and what is
known of z_0 on the way.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from mt_diffusion.diffusion.aggregation import Codes, over
from mt_diffusion.diffusion.process import Image, Process, Transition
from mt_diffusion.diffusion.solvers import Point, Step, corrector
from mt_diffusion.errors import UserError


def unclipped(z0: Image, limit: int | float = 1) -> Image:
    """As it is."""
    return z0


def static(z0: Image, limit: int | float = 1) -> Image:
    """Into the range of the space, as [-1, 1] of pixels."""
    return jnp.clip(z0, -limit, limit)


def dynamic(z0: Image, limit: int | float = 1) -> Image:
    """Down to the 99.5th percentile of |z_0| where that is above the range (Imagen)."""
    most = jnp.quantile(jnp.abs(z0), 0.995, axis=(1, 2, 3), keepdims=True)
    most = jnp.maximum(most, limit)
    return jnp.clip(z0, -most, most) / (most / limit)


CLIPS = {"none": unclipped, "static": static, "dynamic": dynamic}


def build_clip(name: str, limit: int | float = 1) -> functools.partial[Image]:
    """How a predicted z_0 is clipped; limit: how far from 0 values of its space go.

    Raises UserError for a way that there is not.
    """
    if name not in CLIPS:
        raise UserError(
            f"config.sampling.clip is {name!r}; choose one of {list(CLIPS)}."
        )
    return functools.partial(CLIPS[name], limit=limit)


class Denoised(NamedTuple):
    """What is known at z_t: z_0, v, all modalities, and the codes that drift it.

    guesses: what each modality that is generated is taken to be, kept for the next
    step. values: x_i as it is reported, where the walk ends here. means: E[x_i | z_t],
    for who keeps the walk.
    """

    z0: Image
    v: Image
    values: dict[str, Array]
    guesses: dict[str, Array]
    codes: Codes
    means: Mapping[str, Array] | None = None


class Result(NamedTuple):
    """z_0 [B, H, W, C] and the modalities, given or as of the last step.

    kept: z_0 and the means as each step saw them, [S, B, ...]; None unless asked for.
    """

    z0: Image
    values: dict[str, Array]
    kept: tuple[Array, Mapping[str, Array] | None] | None = None


Denoise = Callable[[Image, Transition, Any, dict[str, Array]], Denoised]


class Visit(NamedTuple):
    """A step of a walk; all [steps], or one of them.

    i: number of the step, from 0. repeat: how often it was taken before. again:
    whether the walk then goes back to t, and takes it once more.
    """

    i: Any
    repeat: Any
    again: Any


def visits(times: np.ndarray, repeats: int) -> tuple[np.ndarray, Visit]:
    """Which of the transitions `times` [S + 1] has are taken, in turn.

    repeats: how often each but the last is (RePaint's resampling, jumps of one step).
    """
    counts = np.where(times[1:] > 0, repeats, 1)
    steps = np.repeat(np.arange(len(counts)), counts)
    repeat = np.concatenate([np.arange(count) for count in counts])
    number = np.arange(len(steps))
    return steps, Visit(number, repeat, repeat + 1 < counts[steps])


def sample(
    keys: Key[Array, " b"],
    shape: tuple[int, int, int],
    denoise: Denoise,
    process: Process,
    times: np.ndarray,
    step: Step,
    restrict: Callable[[Image], Image],
    guesses: Mapping[str, Array] | None = None,
    soft: Collection[str] = (),
    repeats: int = 1,
    read_from: int = 1,
    keep: bool = False,
    towards: tuple[Key[Array, " b"], Float[Array, " b"]] | None = None,
) -> Result:
    """Walks from noise at T back to z_0, one key per example [B].

    denoise: (z_t, the transition ahead, is it the first, guesses of the step before) ->
    Denoised. times: decreasing, from T to 0. restrict: brings a predicted z_0 back to
    what is possible, or known of it. guesses: arrays of the guesses' shapes, for the
    first step, which does not read them. soft: as of `Step`. repeats: as of `visits`;
    1 for a step that reads where the walk was before. read_from: values are the mean of
    those at this time and below, at least those of the last step. keep: whether the
    walk is kept, with all S steps in memory at once. towards: other keys, and by which
    angle all noise is turned to theirs, from 0 to pi / 2. An example depends on its own
    key and values alone, not on its batch.
    """
    steps, visit = visits(times, repeats)
    counts = np.maximum(np.cumsum(times[:-1][steps] <= read_from), 1)
    transitions = process.transition(times[:-1][steps], times[1:][steps])
    transitions = jax.tree.map(jnp.asarray, transitions)

    mend = corrector(step)

    def noise(*numbers: Array | int) -> Float[Array, "b h w c"]:
        def draw(key):
            for number in numbers:
                key = jax.random.fold_in(key, number)
            return jax.random.normal(key, shape)

        own = jax.vmap(draw)(keys)
        if towards is None:
            return own
        # Of two independent normals, so that it is normal at every angle.
        others, angle = towards
        far = jax.vmap(draw)(others)
        return over(jnp.cos(angle), own) * own + over(jnp.sin(angle), far) * far

    def back(here: Point, z_s: Image, number: Array) -> Image:
        """Up from s to t, by the process itself (method.md, eq. 40)."""
        transition = here.transition
        u_s = transition.at_end(z_s, here.codes)
        kept = transition.signal_t / transition.signal_s
        lost = jnp.sqrt(1 - kept**2)
        fresh = noise(transition.t, repeats + number)
        u_t = over(kept, u_s) * u_s + over(lost, u_s) * fresh
        return transition.at_start(u_t, here.codes)

    def body(carry: tuple, this: tuple[Visit, Transition, Array]):
        z_t, before, told, guesses = carry
        (i, repeat, again), transition, count = this
        z0, v, values, guesses, codes, means = denoise(z_t, transition, i == 0, guesses)
        here = Point(transition, z_t, restrict(z0), codes)
        if mend is not None:
            here = mend(here, before, i, soft)
            here = here._replace(before=before._replace(before=None))
        if read_from > 1:
            mean = lambda x, so_far: so_far + (x - so_far) / count  # noqa: E731
            values = jax.tree.map(mean, values, told)
        if repeats == 1:
            z_s = step(here, before, i, v, noise(transition.t), soft)
        else:
            z_s = step(here, before, i, v, noise(transition.t, repeat), soft)
            z_s = jnp.where(again, back(here, z_s, repeat), z_s)
        return (z_s, here, values, guesses), (here.z0, means) if keep else None

    z_T, start = noise(0), dict(guesses or {})
    first = jax.tree.map(lambda x: x[0], transitions)
    shapes = jax.eval_shape(lambda: denoise(z_T, first, jnp.array(True), start))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    nowhere = Point(first, z_T, z_T, zeros.codes)
    if mend is not None:
        nowhere = nowhere._replace(before=nowhere)
    carry = (z_T, nowhere, zeros.values, start)
    (z0, _, values, _), kept = jax.lax.scan(
        body, carry, (visit, transitions, jnp.asarray(counts))
    )
    # Of a step that is taken several times, what it saw the last time.
    last = np.flatnonzero(~visit.again)
    return Result(restrict(z0), values, jax.tree.map(lambda x: x[last], kept))
