"""Aggregation: how strongly each modality's code drifts the diffusion at each t.

A design gives the accumulated weight alpha_tilde_t; the weight of one step follows as
w_t = alpha_tilde_t / sqrt(alpha_t) - alpha_tilde_{t-1} (method.md, eq. 2), or the other
way round. Sampling starts from N(0, I), so every design must have forgotten its codes
at T.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError

MAX_NOISE_SHARE = 20.0  # alpha_tilde_t / sigma_t above this can't be predicted
MAX_FINAL_WEIGHT = 0.05  # |alpha_tilde_T| above this, and N(0, I) is no start for T
# Of L0, by one code: ADM's own schedule leaves as much of its images of 128x128x3.
MAX_FINAL_NATS = 1.0

Codes = Mapping[str, Float[Array, "b h w c"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Aggregation:
    """Accumulated weights alpha_tilde per modality: {name: float64 [T + 1]}."""

    alpha_tilde: Mapping[str, np.ndarray]

    def drift(
        self, codes: Codes, t: Int[Array, " b"]
    ) -> Float[Array, "b h w c"] | float:
        """d_t(X) = sum_i alpha_tilde_t^(i) E_i(x_i); 0.0 where there is no code."""
        return combine({n: jnp.asarray(self.alpha_tilde[n])[t] for n in codes}, codes)


def combine(
    weights: Mapping[str, ArrayLike], codes: Codes
) -> Float[Array, "..."] | float:
    """Sum of codes [B, H, W, C], each times its weight, [] or [B]."""
    return sum((over(weights[n], code) * code for n, code in codes.items()), 0.0)


def over(table: ArrayLike, like: Array) -> Array:
    """Brings a number per example, [] or [B], to rank and dtype of `like` [B, ...]."""
    table = jnp.asarray(table)
    ones = (1,) * (like.ndim - table.ndim)
    return table.reshape(table.shape + ones).astype(like.dtype)


def accumulate(w: np.ndarray, schedule: Schedule) -> np.ndarray:
    """alpha_tilde from w, both [T + 1] (method.md, eq. 2)."""
    alpha_tilde = np.zeros(schedule.num_steps + 1)
    for t in range(1, schedule.num_steps + 1):
        alpha_tilde[t] = np.sqrt(schedule.alpha[t]) * (w[t] + alpha_tilde[t - 1])
    return alpha_tilde


def ramp(schedule: Schedule, scale: float) -> np.ndarray:
    """alpha_tilde_t = scale (t / T) sqrt(alpha_bar_t) (method.md, eq. 7)."""
    time = np.arange(schedule.num_steps + 1) / schedule.num_steps
    return scale * time * np.sqrt(schedule.alpha_bar)


def slow_ramp(schedule: Schedule, scale: float) -> np.ndarray:
    """alpha_tilde_t = scale (t / T)^1.5 sqrt(alpha_bar_t): less where noise is low.

    There images leak into a code more than it is strong, so it can't be found, and is
    noise: bits per dimension above plain diffusion's on Fashion-MNIST at 14x14, 17%
    with exponent 1, 1% with 1.5, 1% with 2; FID from nothing 2.24, 2.27, 2.46.
    """
    time = np.arange(schedule.num_steps + 1) / schedule.num_steps
    return scale * time**1.5 * np.sqrt(schedule.alpha_bar)


def vanishing_ramp(schedule: Schedule, scale: float) -> np.ndarray:
    """The ramp of a signal that has gone at T: nothing is left there on any schedule.

    alpha_tilde_t = scale (t / T) sqrt((alpha_bar_t - alpha_bar_T) / (1 - alpha_bar_T));
    a ramp leaves scale sqrt(alpha_bar_T), and Stable Diffusion's alpha_bar_T is 0.0047.
    """
    time = np.arange(schedule.num_steps + 1) / schedule.num_steps
    last = schedule.alpha_bar[-1]
    return scale * time * np.sqrt((schedule.alpha_bar - last) / (1 - last))


def constant(schedule: Schedule, scale: float) -> np.ndarray:
    """w_t = scale / T."""
    return accumulate(
        np.full(schedule.num_steps + 1, scale / schedule.num_steps), schedule
    )


def first(schedule: Schedule, scale: float) -> np.ndarray:
    """w_1 = scale, later 0: the code is simply added to the image."""
    w = np.zeros(schedule.num_steps + 1)
    w[1] = scale
    return accumulate(w, schedule)


def none(schedule: Schedule, scale: float) -> np.ndarray:
    """0: the modality does not drift."""
    return np.zeros(schedule.num_steps + 1)


DESIGNS = {
    "ramp": ramp,
    "slow_ramp": slow_ramp,
    "vanishing_ramp": vanishing_ramp,
    "constant": constant,
    "first": first,
    "none": none,
}


def weights(
    name: str, design: str | Sequence[float], scale: float, schedule: Schedule
) -> np.ndarray:
    """alpha_tilde, float64 [T + 1], of modality `name`.

    design, scale: as of `accumulated`. Raises UserError also for a design that leaves
    |alpha_tilde_T| > 0.05.
    """
    alpha_tilde = accumulated(name, design, scale, schedule)
    if not abs(alpha_tilde[-1]) <= MAX_FINAL_WEIGHT:
        raise UserError(
            f"config.modalities.{name}.drift leaves a weight of {alpha_tilde[-1]:.3g} "
            "on the code at the last step, but sampling starts from pure noise: "
            f"|alpha_tilde_T| must be at most {MAX_FINAL_WEIGHT}. Use the "
            "'vanishing_ramp' design, which leaves nothing, or less energy (or "
            "drift_scale)."
        )
    return alpha_tilde


def accumulated(
    name: str, design: str | Sequence[float], scale: float, schedule: Schedule
) -> np.ndarray:
    """alpha_tilde, float64 [T + 1], of modality `name`, whatever is left at T.

    design: one of DESIGNS, or an explicit table w_1..w_T, times `scale`.
    Raises UserError for an unknown design, or a table of the wrong length.
    """
    field = f"config.modalities.{name}.drift"
    if not isinstance(design, str):
        if len(design) != schedule.num_steps:
            raise UserError(
                f"{field} is a table of {len(design)} weights; it needs one for each "
                f"of the {schedule.num_steps} diffusion steps."
            )
        table = np.concatenate([[0.0], np.asarray(design, np.float64)])
        return accumulate(scale * table, schedule)
    if design not in DESIGNS:
        raise UserError(
            f"{field} is {design!r}; choose one of {list(DESIGNS)} or a table of "
            "weights."
        )
    return DESIGNS[design](schedule, scale)


def check_bounded(name: str, alpha_tilde: np.ndarray, schedule: Schedule) -> None:
    """Raises UserError where d_t / sigma_t, a part of the aggregate noise, explodes."""
    shares = np.abs(alpha_tilde[1:]) / np.sqrt(1 - schedule.alpha_bar[1:])
    if shares.max() > MAX_NOISE_SHARE:
        raise UserError(
            f"config.modalities.{name}.drift makes the code {shares.max():.0f} times "
            f"as strong as the noise at t = {1 + shares.argmax()}, so no network can "
            "predict both as one (config.diffusion.prediction). Use the 'ramp' design, "
            "if this is another, less energy (or drift_scale), or prediction = 'eps', "
            "the paper's form."
        )


def final_nats(weight: float, numbers: int) -> float:
    """What a code of unit RMS, with `numbers` numbers, adds to L0 by its weight at T.

    KL(N(weight e, I) || N(0, I)), method.md, eq. 8; it is more, the larger an image is.
    """
    return weight**2 * numbers / 2


def check_forgotten(name: str, alpha_tilde: np.ndarray, numbers: int) -> None:
    """Raises UserError where too much of a code is left at T, in nats."""
    nats = final_nats(alpha_tilde[-1], numbers)
    if nats > MAX_FINAL_NATS:
        raise UserError(
            f"config.modalities.{name}.drift leaves {nats:.3g} nats of the code at the "
            f"last step, in {numbers:,} numbers, but sampling starts from pure noise: "
            f"at most {MAX_FINAL_NATS:g} may be left. Use the cosine schedule "
            "(config.diffusion.schedule), the 'vanishing_ramp' design, or less energy "
            "(or drift_scale)."
        )
