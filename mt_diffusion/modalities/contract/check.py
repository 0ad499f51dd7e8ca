"""What `protocol.py` asks of a modality, as a check of one: `check`.

For a modality of your own it runs, together with the network of your config, as
`python -m pytest tests --modality=configs/YOURS.py[:PRESET]`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mt_diffusion.modalities.contract.evidence import OfEvidence
from mt_diffusion.modalities.contract.promises import (
    Promises,
    Shape,
    describe,
    finite,
    has,
    keys,
    same,
)
from mt_diffusion.modalities.guess import DRAWN
from mt_diffusion.protocol import Code, Modality, Variable

METHODS = ("preprocess", "placeholder", "postprocess", "show") + (
    "encode",
    "head",
    "nll",
    "log_likelihood",
    "mean",
)
STEPS, RATE = 300, 0.05  # of Adam, from a prediction by chance to one of the value
NEAR = 0.25  # at most, of the square distance at first, is left of it then
TRIES = 8  # draws of each example, which can't all be the same


def check(
    modality: Modality, examples: Sequence[dict], features: Mapping[str, Shape]
) -> None:
    """Raises UserError for the first promise of `protocol.py` that a modality breaks.

    examples: of a source, at least one with a value. features: the shapes
    {'mid': (h, w, c), 'out': (H, W, c)} of the blocks that a head reads, without B.
    """
    contract = Contract(modality)
    contract.check_methods()
    contract.check_scale()
    real = np.stack(contract.check_examples(examples))
    # A placeholder is part of a batch, times 0: so all that is made of it is finite.
    values = jnp.asarray(np.concatenate([real, modality.placeholder()[None]]))
    code = contract.check_code(values)
    prediction = contract.check_head(values, features)
    contract.check_likelihood(prediction, values)
    contract.check_value("mean", prediction, values, code)
    contract.check_draw(prediction, values, code)
    contract.check_tables(values, code)
    OfEvidence(modality).check(prediction, values, code, real)
    fitted = contract.check_fit(prediction[:-1], values[:-1])
    contract.check_items(real)
    contract.check_items(np.asarray(modality.mean(fitted)))


class Contract(Promises):
    """One modality, held to its promises; every method raises UserError."""

    def check_methods(self) -> None:
        """All that have no default."""
        for name in METHODS:
            bases = (vars(Variable).get(name), vars(Modality).get(name))
            defined = getattr(type(self.modality), name) not in bases
            self.require(defined, f"its class has no method {name!r}")

    def check_scale(self) -> None:
        """c, a number."""
        scale = self.modality.scale
        held = isinstance(scale, (int, float)) and np.isfinite(scale)
        self.require(held, f"its scale is {scale!r}, no finite number")

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

    def check_draw(self, prediction: jax.Array, values: jax.Array, code: Code) -> None:
        """Draws like values of data, each from its own key alone."""
        draws = type(self.modality).draw is not Modality.draw
        if not draws and self.modality.guess not in DRAWN:
            return
        drawn = [self.call("draw", keys(i, values), prediction) for i in range(TRIES)]
        self.check_alike("draw", drawn[0], values, code)
        again = self.call("draw", keys(0, values), prediction)
        self.require(
            same(drawn[0], again, 0.0),
            "draw gives two values of one key; all that is random must come from it",
        )
        self.check_rows("draw", drawn[0], keys(0, values), prediction)
        varies = any(not same(drawn[0], other, 0.0) for other in drawn[1:])
        self.require(varies, f"draw gives the same of {TRIES} keys; use mean for that")

    def check_tables(self, values: jax.Array, code: Code) -> None:
        """Arrays, which `encode` takes from where they are, not from the modality."""
        m = self.modality
        tables = {name: getattr(m, name) for name in m.tables}
        for name, table in tables.items():
            self.require(
                isinstance(table, np.ndarray) and finite(table),
                f"its table {name!r} is {describe(table)}, no finite array of numpy",
            )
        if tables:
            others = jax.tree.map(np.zeros_like, tables)
            own, other = (
                m.with_tables(of).encode(values).latent for of in (tables, others)
            )
            self.require(
                not same(own, other),
                "encode makes the same of other tables; it must read them as its own "
                f"{list(tables)}, which are arguments of the programs",
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


def descend(loss: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Where Adam comes from `start`."""
    adam = optax.adam(RATE)

    def step(carry, _):
        x, state = carry
        updates, state = adam.update(jax.grad(loss)(x), state)
        return (optax.apply_updates(x, updates), state), None

    (x, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=STEPS)
    return x
