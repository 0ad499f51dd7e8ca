"""UniPC against the exact flow of a Gaussian: its order, and its frame."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.diffusion import solvers
from mt_diffusion.diffusion.process import Transition

VARIANCE = np.array([0.05, 0.2, 0.5, 0.9]).reshape(1, 2, 2, 1)
CODE = np.array([1.0, -1.0, 2.0, 0.0]).reshape(1, 2, 2, 1)


def flow_error(name, half, drift):
    """Greatest relative error at the end of the flow, by times of these log-SNR.

    Exactly, the flow scales the distance from the mean by the ratio of deviations, in
    the frame that moves with the code. drift: [S + 1], its weight at these times.
    """
    step = solvers.build_step(name, 0.0)
    signal, noise = (np.sqrt(1 / (1 + np.exp(sign * 2 * half))) for sign in (-1, 1))
    deviation = [
        np.sqrt(a**2 * VARIANCE + b**2) for a, b in zip(signal, noise, strict=True)
    ]
    fields = dict.fromkeys(f.name for f in dataclasses.fields(Transition))
    z, before = jnp.asarray(deviation[0] + drift[0] * CODE), None
    mend = solvers.corrector(step) or (lambda here, *_: here)
    for i in range(len(half) - 1):
        ends = {"signal_t": signal[i], "noise_t": noise[i], "drift_t": {"x": drift[i]}}
        ends |= {"signal_s": signal[i + 1], "noise_s": noise[i + 1]}
        ends |= {"drift_s": {"x": drift[i + 1]}}
        transition = Transition(**(fields | ends))
        gain = signal[i] * VARIANCE / deviation[i] ** 2
        z0 = gain * (z - drift[i] * CODE)
        here = solvers.Point(transition, z, z0, {"x": jnp.asarray(CODE)})
        here = mend(here, before or here, i, {"x"})
        here = here._replace(before=before and before._replace(before=None))
        z = step(here, before or here, i, jnp.zeros_like(z), jnp.zeros_like(z), {"x"})
        before = here
    found = z - drift[-1] * CODE
    return float(np.abs(found / deviation[-1] - 1).max())


def times(num, uneven):
    """Log-SNR from -4 to 4, evenly or in steps that grow and shrink smoothly."""
    place = np.linspace(0, 1, num + 1)
    return -4 + 8 * (place + uneven * np.sin(2 * np.pi * place) / (2 * np.pi))


def test_its_error_falls_by_order_three(x64):
    """In steps that grow and shrink, under a drift; that of 2M is far greater."""

    def error(name, num):
        return flow_error(name, times(num, 0.4), np.linspace(3.0, 0.1, num + 1))

    coarse, fine = (error("unipc", num) for num in (24, 48))
    assert fine < 0.17 * coarse and fine < 0.25 * error("dpmpp_2m", 48)


def test_a_drift_changes_nothing_in_its_frame(x64):
    half = times(8, 0.3)
    still = flow_error("unipc", half, np.zeros(9))
    assert flow_error("unipc", half, np.linspace(5.0, 0.2, 9)) == pytest.approx(still)


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_the_weights_of_places_are_those_of_the_flow(length, x64):
    """As e to the log-SNR, by the closed forms."""
    whole = -np.expm1(-length)
    first = 1 / whole - 1 / length
    found = solvers.means_of_step(jnp.asarray(length))
    assert found[0] == pytest.approx(first, rel=1e-6)
    assert found[1] == pytest.approx(1 / whole - 2 * first / length, rel=1e-6)


def test_short_steps_lose_no_digits():
    """In single precision, where those closed forms would."""
    first, second = solvers.means_of_step(jnp.float32(1e-4))
    assert first == pytest.approx(1 / 2, abs=1e-4)
    assert second == pytest.approx(1 / 3, abs=1e-4)
