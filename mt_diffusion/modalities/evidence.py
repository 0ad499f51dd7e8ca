"""Evidence: what z_t says of a modality by the code in it alone, in closed form.

A linear encoder with orthogonal codes e_k adds alpha_tilde_t sum_k x_k e_k to
sqrt(alpha_bar_t) z_0 + sigma_t eps (and the drift of others). Along e_k all of that is
noise of variance V_t = sigma_t^2 + the *leak* of what else is in z_t, so the posterior
of x given these K numbers is Bayes' rule. It is a function of z_t and t alone.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mt_diffusion.diffusion.schedule import Schedule
from mt_diffusion.errors import UserError
from mt_diffusion.protocol import Level

LEAST_PRIOR = 1e-6  # of absence, where a model was never trained in it
AT_ONCE = 256  # images, for large ones in double precision take much memory
LEGIBLE = 16.0  # energy over variance at which 2% of ten classes are misread


def leaked(
    measured: Mapping, level: Level
) -> tuple[Float[Array, "b k"], Float[Array, " b"]]:
    """Mean [B, K], variance V_t [B] of all but the code along each (method.md, eq. 13).

    measured: of the training data, along codes of unit length: sources, means
    [S, K], and covariance [S, S], the mean over codes.
    """
    parts = [
        level.signal if name == measured["sources"][0] else level.drifts[name]
        for name in measured["sources"]
    ]
    weights = jnp.stack(parts, axis=-1)
    dtype = weights.dtype
    mean = weights @ jnp.asarray(np.asarray(measured["means"]), dtype)
    covariance = jnp.asarray(np.asarray(measured["covariance"]), dtype)
    leak = jnp.einsum("bs,st,bt->b", weights, covariance, weights)
    return mean, level.noise**2 + leak


def along(
    y_t: Float[Array, "b h w c"], codes: Float[Array, "k h w c"]
) -> Float[Array, "b k"]:
    """Components of z_t along each code, of unit length."""
    flat = codes.reshape(len(codes), -1)
    return y_t.reshape(len(y_t), -1) @ flat.T / np.sqrt(flat.shape[-1])


def of_class(
    seen: Float[Array, "b k"],
    strength: Float[Array, " b"],
    variance: Float[Array, " b"],
    shares: Float[np.ndarray, " k"],
    absent: float,
) -> Float[Array, "b k+1"]:
    """Posterior of each class and of none, given components along the classes' codes.

    method.md, eq. 14.

    strength: of the code in z_t, alpha_tilde_t sqrt(D). shares: p(k) where present.
    """
    odds = (strength[:, None] * seen - strength[:, None] ** 2 / 2) / variance[:, None]
    odds += jnp.asarray(np.log((1 - absent) * shares), odds.dtype)[None]
    none = jnp.full((len(seen), 1), np.log(absent), odds.dtype)
    return jax.nn.softmax(jnp.concatenate([odds, none], axis=-1), axis=-1)


def of_vector(
    seen: Float[Array, "b k"],
    strength: Float[Array, " b"],
    variance: Float[Array, " b"],
    absent: float,
) -> tuple[Float[Array, "b k"], Float[Array, " b"], Float[Array, " b"]]:
    """Posterior of x ~ N(0, I), absent with that probability: mean and certainty.

    method.md, eq. 16.

    Returns E[x | seen, present], the share kappa of x's variance that is gone there,
    and the probability that x is absent. strength: of a unit of x in z_t.
    """
    ratio = strength**2 / variance
    kappa = ratio / (1 + ratio)
    # kappa seen / strength, whose limit at strength 0 is 0.
    gain = strength / (variance + strength**2)
    mean = gain[:, None] * seen
    # The log of p(seen | present) / p(seen | absent).
    square = jnp.sum(seen**2, axis=-1) / variance
    present = 0.5 * (square * kappa - seen.shape[-1] * jnp.log1p(ratio))
    log_odds = jnp.log(absent) - jnp.log1p(-absent) - present
    return mean, kappa, jax.nn.sigmoid(log_odds)


def measure(images: np.ndarray, sources: Mapping[str, np.ndarray]) -> dict:
    """The leak: what `leaked` reads, of examples of each source, [N, H, W, C].

    images: the codes, [K, H, W, C].
    """
    codes = images.reshape(len(images), -1).astype(np.float64)
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    found = np.stack([project(x, codes) for x in sources.values()])  # [S, N, K]
    means = found.mean(axis=1)
    centred = found - means[:, None]
    covariance = np.einsum("snk,tnk->st", centred, centred) / found[0].size
    rounded = lambda x: tuple(float(f"{v:.6g}") for v in x)  # noqa: E731
    return {
        "sources": tuple(sources),
        "means": tuple(map(rounded, means)),
        "covariance": tuple(map(rounded, covariance)),
    }


def project(images: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Components [N, K] of images [N, H, W, C], in double precision, some at a time."""
    flat = images.reshape(len(images), -1)
    parts = (flat[i : i + AT_ONCE] for i in range(0, len(flat), AT_ONCE))
    return np.concatenate([part.astype(np.float64) @ codes.T for part in parts])


def check_legible(
    name: str, energy: float, num: int, alpha_tilde: np.ndarray, schedule: Schedule
) -> None:
    """Raises UserError where a code can't be read at any t.

    energy: of each of the code's `num` parts, c^2 D of all. alpha_tilde: [T + 1], for
    c = 1. The leak is left out; it makes codes harder to read.
    """
    signal = num * energy * alpha_tilde[1:] ** 2 / (1 - schedule.alpha_bar[1:])
    most = signal.max()
    if most < LEGIBLE:
        enough = f"{np.ceil(energy * LEGIBLE / most):g} or more, or " if most else ""
        raise UserError(
            f"config.modalities.{name}.energy = {energy:g} is too little: its code has "
            f"at most {most:.3g} times the variance of the noise, so nothing can read "
            f"it at any t; use {enough}config.modalities.{name}.drift = 'none'."
        )
