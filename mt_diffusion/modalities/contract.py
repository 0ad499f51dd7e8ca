"""What `base.py` asks of a modality, as a check of one: `check`.

For a modality of your own it runs, together with the network of your config, as
`python -m pytest tests/test_contract.py --modality=configs/YOURS.py[:PRESET]`.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mt_diffusion.errors import UserError
from mt_diffusion.modalities.base import Code, Modality, Variable

METHODS = ("preprocess", "placeholder", "postprocess", "show")
METHODS += ("encode", "head", "nll", "log_likelihood", "mean")
STEPS, RATE = 300, 0.05  # of Adam, from a prediction by chance to one of the value
NEAR = 0.25  # at most, of the square distance at first, is left of it then
TOLERANCE = 1e-4  # of float32 sums in another order, relative to the largest number

Shape = tuple[int, ...]


def check(
    modality: Modality, examples: Sequence[dict], features: Mapping[str, Shape]
) -> None:
    """Raises UserError for the first promise of `base.py` that a modality breaks.

    examples: of a source, at least one with a value. features: the shapes
    {'mid': (h, w, c), 'out': (H, W, c)} of the blocks that a head reads, without B.
    """
    contract = Contract(modality)
    contract.check_methods()
    real = np.stack(contract.check_examples(examples))
    # A placeholder is part of a batch, times 0: so all that is made of it is finite.
    values = jnp.asarray(np.concatenate([real, modality.placeholder()[None]]))
    code = contract.check_code(values)
    prediction = contract.check_head(values, features)
    contract.check_likelihood(prediction, values)
    contract.check_mean(prediction, values, code)
    fitted = contract.check_fit(prediction[:-1], values[:-1])
    contract.check_items(real)
    contract.check_items(np.asarray(modality.mean(fitted)))


@dataclasses.dataclass(frozen=True)
class Contract:
    """One modality, held to its promises; every method raises UserError."""

    modality: Modality

    def require(self, held: Any, broken: str) -> None:
        """Raises UserError that says what is broken, where the promise is not held."""
        if not held:
            cls = type(self.modality)
            raise UserError(
                f"the modality {self.modality.name!r} ({cls.__module__}.{cls.__name__})"
                f" breaks the contract of mt_diffusion/modalities/base.py: {broken}."
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

    def check_methods(self) -> None:
        """All that have no default."""
        for name in METHODS:
            bases = (vars(Variable).get(name), vars(Modality).get(name))
            defined = getattr(type(self.modality), name) not in bases
            self.require(defined, f"its class has no method {name!r}")

    def check_examples(self, examples: Sequence[dict]) -> Sequence[np.ndarray]:
        """The values of those examples that have one: shaped as the placeholder."""
        placeholder = self.call("placeholder")
        found = [self.check_preprocess(example) for example in examples]
        values = [value for value in found if value is not None]
        self.require(values, f"none of the {len(examples)} examples has a value")
        for value in values:
            self.require(
                has(placeholder, np.shape(value)) and has(value, placeholder.shape),
                f"a value is {describe(value)}, the placeholder "
                f"{describe(placeholder)}; both must be float32 and of one shape",
            )
        bare = {"image": examples[0]["image"]}  # and no other feature
        self.call("preprocess", bare, np.random.default_rng(0))
        return values

    def check_preprocess(self, example: dict) -> np.ndarray | None:
        """The value of an example, which depends on it and the generator alone."""
        before = copy.deepcopy(example)
        value = self.call("preprocess", example, np.random.default_rng(0))
        again = self.call("preprocess", example, np.random.default_rng(0))
        self.require(finite(value), f"preprocess gives {value}, which is not finite")
        self.require(
            same(value, again, 0.0),
            "preprocess gives two values of one example with one seed; all that is "
            "random must come from its argument `rng`",
        )
        self.require(same(before, example, 0.0), "preprocess changes its example")
        return value

    def check_code(self, values: jax.Array) -> Code:
        """The codes of a batch: a fixed function of each value."""
        code = self.call("encode", values)
        self.require(isinstance(code, Code), f"encode gives {describe(code)}, no Code")
        self.check_code_shapes(code, len(values))
        self.require(finite(code), "codes, or that of the placeholder, are not finite")
        again = self.call("encode", values)
        self.require(same(code, again, 0.0), "encode gives two codes of one value")
        traced = jax.jit(lambda x: self.call("encode", x))(values)
        self.require(same(traced, code), "encode gives another code under jax.jit")
        self.check_rows("encode", code, values)
        return code

    def check_code_shapes(self, code: Code, num: int) -> None:
        """As `shape`, `token_shape`, `num_planes` and `conditions` promise."""
        m, shared = self.modality, code.latent is None
        promised = [
            ("shape", code.latent, None if shared else m.shape),
            ("token_shape", code.tokens, m.token_shape),
            ("num_planes", code.planes, m.num_planes and (*m.shape[:2], m.num_planes)),
        ]
        for name, array, shape in promised:
            self.require(
                not shape or has(array, (num, *shape)),
                f"encode gives {describe(array)}, but its {name} promises {shape} for "
                f"each of {num} examples",
            )
        reads = bool(m.token_shape or m.num_planes)
        self.require(m.token_shape or not shared, "encode gives no latent, no tokens")
        self.require(
            reads == m.conditions or (shared and not m.num_planes),
            f"conditions is {m.conditions}, but token_shape is {m.token_shape} and "
            f"num_planes {m.num_planes}; they say what the network reads",
        )

    def check_rows(self, method: str, together: Any, *batches: jax.Array) -> None:
        """An example's result is its own, whoever is beside it in a batch."""
        for i in range(len(batches[0])):
            alone = self.call(method, *(x[i : i + 1] for x in batches))
            row = jax.tree.map(lambda x, i=i: x[i : i + 1], together)
            self.require(
                same(alone, row),
                f"{method} of an example depends on the others of its batch",
            )

    def check_head(self, values: jax.Array, features: Mapping[str, Shape]) -> jax.Array:
        """What its head predicts of random features; it learns from them."""
        num, key = len(values), jax.random.key(0)
        drawn = {
            name: jax.random.normal(jax.random.fold_in(key, i), (num, *shape))
            for i, (name, shape) in enumerate(sorted(features.items()))
        }
        head, there = self.call("head"), jnp.arange(num) < num - 1
        params = jax.jit(head.init)(jax.random.fold_in(key, len(features)), drawn)

        def loss(params):
            prediction = head.apply(params, drawn)
            nll = self.call("nll", prediction, values)
            return jnp.sum(nll * there), (prediction, nll)

        _, (made, nll) = jax.eval_shape(loss, params)
        self.require(made.shape[:1] == (num,), f"its head predicts {describe(made)}")
        self.require(has(nll, (num,)), f"nll of {num} examples is {describe(nll)}")
        grads, (prediction, _) = jax.jit(jax.grad(loss, has_aux=True))(params)
        self.require(finite(prediction), "what its head predicts is not finite")
        self.require(
            finite(grads), "gradients of nll, placeholder's times 0, are not finite"
        )
        learns = any(np.any(g) for g in jax.tree.leaves(grads))
        self.require(learns, "gradients of nll are 0 for all parameters of its head")
        return prediction

    def check_likelihood(self, prediction: jax.Array, values: jax.Array) -> None:
        """A finite number for each example."""
        for method in ("nll", "log_likelihood"):
            found = self.call(method, prediction, values)
            self.require(
                has(found, (len(values),)),
                f"{method} of {len(values)} examples is {describe(found)}",
            )
            self.require(finite(found), f"{method} is {found}, which is not finite")
            self.check_rows(method, found, prediction, values)

    def check_mean(self, prediction: jax.Array, values: jax.Array, code: Code) -> None:
        """Values that `encode` and `known` take as they take those of data."""
        mean = self.call("mean", prediction)
        self.require(
            has(mean, values.shape),
            f"mean gives {describe(mean)}, but values are {describe(values)}",
        )
        self.check_rows("mean", mean, prediction)
        again = self.call("encode", mean)
        shapes = [jax.tree.map(jnp.shape, c) for c in (again, code)]
        self.require(
            shapes[0] == shapes[1] and finite(again),
            f"a mean's code is not finite, or its shapes {shapes[0]} not {shapes[1]}",
        )
        for known in (self.call("known", values), self.call("known", mean)):
            pixels = (len(values), *self.modality.shape)
            self.require(
                known is None
                or (has(known.pixels, pixels) and has(known.mask, (*pixels[:-1], 1))),
                f"known must give float32{list(pixels)} and a mask of one channel",
            )

    def check_fit(self, prediction: jax.Array, values: jax.Array) -> jax.Array:
        """What descends nll: log_likelihood rises, the mean's code nears the value's.

        So that nll, log_likelihood, mean and encode are of one distribution.
        """
        start = prediction + jax.random.normal(jax.random.key(1), prediction.shape)
        m = self.modality
        fitted = descend(lambda p: jnp.sum(m.nll(p, values)), start)

        def distance(p):  # of latents, or of tokens where there are none
            codes = m.encode(m.mean(p)), m.encode(values)
            mean, wanted = (jax.tree.leaves(code)[0] for code in codes)
            return (mean - wanted) ** 2

        falls = [
            ("-log_likelihood", 1, lambda p: -m.log_likelihood(p, values)),
            ("the square of encode(mean) - encode(value)", NEAR, distance),
        ]
        for name, share, loss in falls:
            before, after = (float(jnp.sum(loss(p))) for p in (start, fitted))
            self.require(
                after < before - (1 - share) * abs(before),
                f"where a prediction descends nll, {name} goes from {before:.4g} to "
                f"{after:.4g}; all must fall, for one distribution",
            )
        return fitted

    def check_items(self, values: np.ndarray) -> None:
        """Values as people have them: as many as there were, pictures or words."""
        items = self.call("postprocess", values)
        self.require(
            isinstance(items, np.ndarray) and len(items) == len(values),
            f"postprocess of {len(values)} values gives {describe(items)}",
        )
        for item in items:
            shown = self.call("show", item)
            picture = np.ndim(shown) == 3 and has(shown, shown.shape, np.uint8)
            self.require(
                isinstance(shown, str) or (picture and shown.shape[-1] in (1, 3)),
                f"show gives {describe(shown)}, no uint8[H, W, 1 or 3] and no str",
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
        at_most = tolerance * np.max(np.abs(y), initial=0) if tolerance else 0
        return np.array_equal(x, y) or (at_most and np.allclose(x, y, 0, at_most))

    shapes = [jax.tree.map(np.shape, tree) for tree in (a, b)]
    return shapes[0] == shapes[1] and jax.tree.all(jax.tree.map(close, a, b))


def descend(loss: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Where Adam comes from `start`."""
    adam = optax.adam(RATE)

    def step(carry, _):
        x, state = carry
        updates, state = adam.update(jax.grad(loss)(x), state)
        return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=STEPS)
    return x
