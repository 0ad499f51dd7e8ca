"""Where the vector of an example comes from: a feature of the data, PCA, an encoder.

On the host, in numpy. `build` finds the way by a text of the config. A generator, from
vectors to images, is found by a text as well.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.data.rows import spread
from mt_diffusion.errors import UserError


@runtime_checkable
class Representer(Protocol):
    """A way to represent examples by vectors."""

    def __call__(
        self, examples: Sequence[dict]
    ) -> Sequence[np.ndarray | None] | np.ndarray:
        """The vector [D] of each example; None where it has none."""

    def represent(self, images: np.ndarray) -> np.ndarray:
        """The vectors [N, D] of images alone, uint8 [N, H, W, C]."""


class Feature:
    """A feature of the data set, by its name."""

    def __init__(self, name: str):
        self._name = name

    def __call__(self, examples: Sequence[dict]) -> list[np.ndarray | None]:
        """Raises UserError for a feature that is no vector of floats."""
        return [self._vector(e) if self._name in e else None for e in examples]

    def _vector(self, example: dict) -> np.ndarray:
        vector = np.asarray(example[self._name])
        if vector.ndim != 1 or vector.dtype.kind != "f":
            raise UserError(
                f"the feature {self._name!r} is {vector.dtype} {list(vector.shape)}; "
                "a representation is a vector of floats [D]."
            )
        return vector

    def represent(self, images: np.ndarray) -> np.ndarray:
        """Raises UserError: how these vectors were made is not known here."""
        raise UserError(
            f"images can't be represented by {self._name!r}, a feature of the data "
            "set; give vectors, as .npy or .npz."
        )


class OfImages:
    """A representer that sees nothing of an example but its image."""

    def __call__(self, examples: Sequence[dict]) -> np.ndarray:
        """The vectors of all."""
        return self.represent(np.stack([e["image"] for e in examples]))

    def represent(self, images: np.ndarray) -> np.ndarray:
        """The vectors [N, D] of images, uint8 [N, H, W, C]."""
        raise NotImplementedError


class Pca(OfImages):
    """The principal components of images in [0, 1], scikit-learn's PCA.transform.

    components [D, H * W * C], mean [H * W * C].
    """

    def __init__(self, components: Sequence[Sequence[float]], mean: Sequence[float]):
        self._components = np.asarray(components, np.float64)
        self._mean = np.asarray(mean, np.float64)

    def represent(self, images: np.ndarray) -> np.ndarray:
        """PCA.transform."""
        pixels = images.reshape(len(images), -1) / 255
        return (pixels - self._mean) @ self._components.T


def fit_pca(images: np.ndarray, num_components: int) -> tuple[np.ndarray, np.ndarray]:
    """(components [D, H * W * C], mean) of images, uint8 [N, H, W, C]."""
    from sklearn.decomposition import PCA

    pixels = images.reshape(len(images), -1)
    if num_components > min(pixels.shape):
        raise UserError(
            f"config.modalities...num_components is {num_components}; {len(pixels)} "
            f"images of {pixels.shape[1]} numbers have 1 to {min(pixels.shape)} "
            "components."
        )
    pca = PCA(num_components, random_state=0).fit(pixels / 255)
    return pca.components_, pca.mean_


class Encoder(OfImages):
    """A frozen encoder: a function from uint8 [N, H, W, C] to float [N, D].

    text: what it is called by. In training it is called for one example after the
    other; what is slow is better precomputed.
    """

    def __init__(self, text: str, function: Callable[[np.ndarray], Any]):
        self._text = text
        self._function = function

    def represent(self, images: np.ndarray) -> np.ndarray:
        """float32; raises UserError for an output that is no finite float [N, D]."""
        found = np.asarray(self._function(images))
        shape = list(found.shape)
        fits = found.ndim == 2 and found.size and len(found) == len(images)
        if not fits or found.dtype.kind != "f":
            raise UserError(
                f"the encoder {self._text!r} made {found.dtype} {shape} of images "
                f"{list(images.shape)}; it must give float [{len(images)}, D]."
            )
        with np.errstate(over="ignore"):
            found = found.astype(np.float32)
        if not np.isfinite(found).all():
            raise UserError(
                f"the encoder {self._text!r} gave numbers not finite as float32."
            )
        return found


PCA, FEATURE = "pca", "feature:"
MAX_FITTED = 2048  # training examples that statistics are taken from, at most
LEAST_FITTED = 32  # of them with a vector, at least
AT_ONCE = 64  # images that an encoder gets at a time


def fit(source: Sequence[dict], text: str, num_components: int) -> dict[str, tuple]:
    """What a representation takes from training examples, by the names of its fields.

    text, num_components: as of `build` and `fit_pca`. Gives vector_mean and vector_std
    [D]; of 'pca' also components and pixel_mean, both empty otherwise.
    """
    examples = [source[i] for i in spread(len(source), MAX_FITTED)]
    found: dict[str, Any] = {"components": (), "pixel_mean": ()}
    if text == PCA:
        images = np.stack([e["image"] for e in examples])
        pca = fit_pca(images, num_components)
        found = dict(zip(found, (tuples(array.tolist()) for array in pca), strict=True))
    vectors = represent_all(examples, build(text, **found))
    std = vectors.std(axis=0)
    # A dimension that never varies tells nothing, and stays at 0.
    std = np.where(std > 1e-6 * np.abs(vectors).max(), std, 1)
    found["vector_mean"] = tuples(vectors.mean(axis=0).tolist())
    return found | {"vector_std": tuples(std.tolist())}


def represent_all(examples: Sequence[dict], representer: Representer) -> np.ndarray:
    """Vectors [M, D], float64, of those examples that have one; UserError for few."""
    found = []
    for start in range(0, len(examples), AT_ONCE):
        some = representer(examples[start : start + AT_ONCE])
        found += [vector for vector in some if vector is not None]
    if len({len(vector) for vector in found}) != 1:
        raise UserError(
            "a representation needs vectors of one length, but of the training "
            f"examples looked at {len(found)} of {len(examples)} have a vector, of "
            f"lengths {sorted({len(vector) for vector in found})}. Attach them with "
            "--config.data.vectors=FILE.npz (--mode=precompute makes such a file), or "
            "choose another config.modalities...vectors."
        )
    if len(found) < LEAST_FITTED:
        raise UserError(
            f"of the {len(examples):,} training examples looked at, {len(found)} have "
            f"a vector, too few for a mean and a deviation; {LEAST_FITTED} are needed. "
            "Attach more, or raise config.data.keep."
        )
    stacked = np.stack(found).astype(np.float64)
    if not np.isfinite(stacked).all():
        raise UserError("the training data has vectors that are not finite numbers.")
    return stacked


def tuples(nested: list | float) -> tuple | float:
    """Lists in lists as tuples in tuples, as configs have them."""
    return tuple(map(tuples, nested)) if isinstance(nested, list) else nested


def build(
    text: str, components: Sequence[Sequence[float]], pixel_mean: Sequence[float]
) -> Representer:
    """The representer of 'pca', 'feature:NAME' or 'package.module:function'.

    components, pixel_mean: of 'pca' alone. Raises UserError for anything else.
    """
    if text == PCA:
        return Pca(components, pixel_mean)
    if text.startswith(FEATURE):
        return Feature(text.removeprefix(FEATURE))
    return Encoder(text, find_function(text))


def module_of(text: str) -> str:
    """The module of the function that `build` would look for; "" where it would not."""
    is_function = text != PCA and not text.startswith(FEATURE)
    return text.partition(":")[0] if is_function else ""


def find_function(text: str) -> Callable[..., Any]:
    """The function that 'package.module:function' names; UserError where there is none.

    Modules are looked for as Python does, first in the current folder.
    """
    path, _, name = text.partition(":")
    remedy = "write package.module:function, with the module where Python finds it."
    if not (all(path.split(".")) and name):
        raise UserError(f"{text!r} names no function: {remedy}")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise UserError(f"{text!r}: there is no module {error.name!r}; {remedy}") from (
            error
        )
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{text!r}: the module {path} has no function {name!r}.")
    return function


def check_generator(
    text: str,
    generate: Callable[[jax.Array], jax.Array],
    size: int,
    shape: tuple[int, int, int],
) -> None:
    """Raises UserError for a function that makes no images [B, *shape] of [B, size].

    text: its name. It is only traced, of two vectors.
    """
    wanted = (2, *shape)
    try:
        made = jax.eval_shape(generate, jax.ShapeDtypeStruct((2, size), jnp.float32))
    except Exception as error:  # whatever a user's function may raise
        raise UserError(
            f"the generator {text!r} can't be traced with vectors [2, {size}]: "
            f"{type(error).__name__}: {error}"
        ) from error
    if getattr(made, "shape", None) != wanted or made.dtype.kind != "f":
        raise UserError(
            f"the generator {text!r} makes {made} of 2 vectors; it must give an array "
            f"of floats {list(wanted)}."
        )
