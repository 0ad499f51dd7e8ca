"""What holds one modality to the promises of protocol.py, and says which it breaks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.errors import UserError
from mt_diffusion.protocol import Code, Modality

TOLERANCE = 1e-4  # of float32 sums in another order, relative to the largest number
LEAST = 0.01  # which is taken to be this, at least

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Promises:
    """One modality, held to its promises; every method raises UserError."""

    modality: Modality

    def require(self, held: Any, broken: str) -> None:
        """Raises UserError that says what is broken, where the promise is not held."""
        if not held:
            cls = type(self.modality)
            raise UserError(
                f"the modality {self.modality.name!r} ({cls.__module__}.{cls.__name__})"
                f" breaks the contract of mt_diffusion/modalities/build.py: {broken}."
            )

    def call(self, method: str, *args: Any) -> Any:
        """The result of a method; to raise anything is to break a promise."""
        try:
            return getattr(self.modality, method)(*args)
        except UserError:
            raise
        except Exception as error:  # of a user's code: whatever it is
            given = ", ".join(map(describe, args))
            broken = f"{method}({given}) raises {type(error).__name__}: {error}"
            raise UserError(f"{self.modality.name}: {broken}") from error

    def check_rows(self, method: str, together: Any, *batches: Any) -> None:
        """An example's result is its own, whoever is beside it in a batch."""
        for i in range(len(jax.tree.leaves(together)[0])):
            row_of = functools.partial(jax.tree.map, lambda x, i=i: x[i : i + 1])
            alone, row = self.call(method, *map(row_of, batches)), row_of(together)
            self.require(
                same(alone, row),
                f"{method} of an example depends on the others of its batch",
            )

    def check_likelihood(self, prediction: jax.Array, values: jax.Array) -> None:
        """A finite number for each example."""
        for method in ("nll", "log_likelihood", "log_density"):
            found = self.call(method, prediction, values)
            self.require(
                has(found, (len(values),)),
                f"{method} of {len(values)} examples is {describe(found)}",
            )
            self.require(finite(found), f"{method} is {found}, which is not finite")
            self.check_rows(method, found, prediction, values)

    def check_value(
        self, method: str, prediction: jax.Array, values: jax.Array, code: Code
    ) -> None:
        """What `mean` makes, `encode` and `known` take as they take values of data."""
        made = self.call(method, prediction)
        self.check_alike(method, made, values, code)
        self.check_rows(method, made, prediction)

    def check_alike(
        self, method: str, made: jax.Array, values: jax.Array, code: Code
    ) -> None:
        """Values that `encode` and `known` take as they take those of data."""
        self.require(
            has(made, values.shape),
            f"{method} gives {describe(made)}, but values are {describe(values)}",
        )
        again = self.call("encode", made)
        shapes = [jax.tree.map(jnp.shape, c) for c in (again, code)]
        self.require(
            shapes[0] == shapes[1] and finite(again),
            f"a {method}'s code is not finite, or its shapes {shapes[0]} not "
            f"{shapes[1]}",
        )
        for known in (self.call("known", values), self.call("known", made)):
            pixels = (len(values), *self.modality.shape)
            self.require(
                known is None
                or (has(known.pixels, pixels) and has(known.mask, (*pixels[:-1], 1))),
                f"known must give float32{list(pixels)} and a mask of one channel",
            )


def describe(x: Any) -> str:
    """Type and shape of an argument or a result."""
    if isinstance(x, dict):
        return f"an example with {sorted(x)}"
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else type(x).__name__


def has(x: Any, shape: Shape, dtype: Any = np.float32) -> bool:
    """Whether x is an array of this shape and type."""
    return getattr(x, "shape", None) == tuple(shape) and x.dtype == dtype


def finite(tree: Any) -> bool:
    """Whether all numbers of a tree are finite."""
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def same(a: Any, b: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether trees agree, to `tolerance` times the largest number of a leaf."""

    def close(x, y):
        at_most = tolerance * np.max(np.abs(y), initial=LEAST) if tolerance else 0
        return np.array_equal(x, y) or (at_most and np.allclose(x, y, 0, at_most))

    shapes = [jax.tree.map(np.shape, tree) for tree in (a, b)]
    return shapes[0] == shapes[1] and jax.tree.all(jax.tree.map(close, a, b))


def keys(seed: int, values: jax.Array) -> jax.Array:
    """A key for each example."""
    return jax.random.split(jax.random.key(seed), len(values))
