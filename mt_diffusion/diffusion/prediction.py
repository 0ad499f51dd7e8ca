"""What the network predicts: how its output and z_0 follow from each other.

The network reads y_t = z_t - f_t, where the frame f_t is what can be taken out of z_t
before it looks. With f_t = 0 and no modality all three are those of a plain DDPM.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from mt_diffusion.diffusion.aggregation import over
from mt_diffusion.diffusion.process import Image, Transition
from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError


@runtime_checkable
class Prediction(Protocol):
    """How an output [B, H, W, C] of the network is read.

    y_t: what the network reads. u_t: z_t in the co-moving frame of the modalities, as
    they are known or guessed. step: of the same t.
    uses_frame: whether the output is of y_t, and not of u_t.
    """

    uses_frame: bool

    def z0(self, step: Transition, y_t: Image, u_t: Image, out: Image) -> Image:
        """The z_0 that an output implies."""
        ...

    def target(self, step: Transition, y_t: Image, z0: Image, eps: Image) -> Image:
        """The output that is right; eps: the noise of u_t."""
        ...

    def weights(self, noise_weights: np.ndarray, schedule: Schedule) -> np.ndarray:
        """Weights of the output's square error, [T + 1], from those of a noise's."""
        ...


class Aggregate:
    """The aggregate noise n_t = (y_t - sqrt(alpha_bar_t) z_0) / sigma_t.

    It is eps + (d_t - f_t) / sigma_t, so z_0 does not depend on a guess of modalities
    (method.md, eq. 10 and 11).
    """

    uses_frame = True

    def z0(self, step, y_t, u_t, out):
        return step.z0_from_eps(y_t, out)

    def target(self, step, y_t, z0, eps):
        return step.eps_from_z0(y_t, z0)

    def weights(self, noise_weights, schedule):
        return noise_weights


class Eps:
    """The paper's: the noise of u_t; z_0 has every guess's error (method.md, eq. 9)."""

    uses_frame = False

    def z0(self, step, y_t, u_t, out):
        return step.z0_from_eps(u_t, out)

    def target(self, step, y_t, z0, eps):
        return eps

    def weights(self, noise_weights, schedule):
        return noise_weights


class Velocity:
    """v_t = sqrt(alpha_bar_t) n_t - sigma_t z_0, n_t aggregate (method.md, eq. 12).

    Salimans & Ho 2022.
    """

    uses_frame = True

    def z0(self, step, y_t, u_t, out):
        return over(step.signal_t, y_t) * y_t - over(step.noise_t, y_t) * out

    def target(self, step, y_t, z0, eps):
        noise = step.eps_from_z0(y_t, z0)
        return over(step.signal_t, z0) * noise - over(step.noise_t, z0) * z0

    def weights(self, noise_weights, schedule):
        # The error of n_t is sqrt(alpha_bar_t) times that of v_t.
        return noise_weights * schedule.alpha_bar


PREDICTIONS: dict[str, type[Prediction]] = {
    "aggregate": Aggregate,
    "eps": Eps,
    "v": Velocity,
}


def build(name: str) -> Prediction:
    """The prediction of that name. Raises UserError for one that does not exist."""
    if name not in PREDICTIONS:
        raise UserError(
            f"config.diffusion.prediction is {name!r}; choose one of "
            f"{list(PREDICTIONS)}."
        )
    return PREDICTIONS[name]()
