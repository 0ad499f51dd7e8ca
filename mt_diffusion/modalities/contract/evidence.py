"""What `protocol.py` asks of a modality that looks for its code in z_t, as a check."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mt_diffusion.modalities.contract.promises import (
    Promises,
    describe,
    finite,
    has,
    keys,
    same,
)
from mt_diffusion.protocol import NO_DRIFT, Code, Evidence, Level, Modality

STRONG = 1e4  # of a code, against noise of 1: read without a doubt
NEAR = 0.25  # of the square of a code, at most, is missed then


class OfEvidence(Promises):
    """A modality's evidence, held to its promises; every method raises UserError."""

    def check(
        self,
        prediction: jax.Array,
        values: jax.Array,
        code: Code,
        real: np.ndarray,
    ) -> None:
        """Where it looks for its code in z_t: what it finds, and what heads gain."""
        m = self.modality
        if m.frame != "evidence" or m.drift == NO_DRIFT:
            return
        contract = OfEvidence(measured(m, real))
        found = [contract.check_found(values, code, s) for s in (0.0, 1.0, STRONG)]
        contract.check_gain(prediction, found[1].gain, values, code)
        sure = contract.call("certain", values, code.latent)
        contract.check_shapes_of_evidence("certain", sure, values)
        self.require(
            jax.tree.map(jnp.shape, sure) == jax.tree.map(jnp.shape, found[0])
            and same(sure.latent, code.latent),
            "certain must give what evidence gives, with the latent that it is told",
        )
        for gain in (found[0].gain, found[2].gain, sure.gain):
            both = contract.call("combine", prediction, gain)
            self.require(
                all(finite(f(both, values)) for f in (m.nll, m.log_likelihood)),
                "a likelihood of what combine gives is not finite",
            )

    def check_found(self, values: jax.Array, code: Code, strength: float) -> Evidence:
        """What is found in z_t that is a code times `strength`, and noise of 1."""
        num, latent = len(values), code.latent
        assert latent is not None  # as of all codes that are looked for
        level = level_of(self.modality, num, strength)
        noise = jax.random.normal(jax.random.key(4), latent.shape)
        y_t = strength * latent + noise
        found = self.call("evidence", y_t, level)
        self.check_shapes_of_evidence("evidence", found, values)
        traced = jax.jit(lambda y, at: self.call("evidence", y, at))(y_t, level)
        self.require(same(traced, found), "evidence finds something else under jax.jit")
        self.check_rows("evidence", found, y_t, level)
        if not strength:
            other = self.call("evidence", -100 * y_t, level)
            self.require(same(other, found), "evidence finds what has no part in z_t")
        if strength == STRONG:
            # But the placeholder's, which may say that there is none.
            off, all_of = (x[:-1] ** 2 for x in (found.latent - latent, latent))
            self.require(
                jnp.sum(off) <= NEAR * jnp.sum(all_of),
                f"evidence does not find a code {STRONG:g} times as strong as noise",
            )
        return found

    def check_shapes_of_evidence(self, method: str, found: Any, values: jax.Array):
        """As `shape` and `evidence_size` promise."""
        num, size = len(values), self.modality.evidence_size
        self.require(
            isinstance(found, Evidence)
            and has(found.latent, (num, *self.modality.shape))
            and has(found.vector, (num, size))
            and jnp.shape(found.gain)[:1] == (num,),
            f"{method} of {num} examples gives {jax.tree.map(describe, found)}; its "
            f"shape and evidence_size promise a latent {self.modality.shape}, a vector "
            f"[{size}] and a gain for each, float32",
        )
        self.require(finite(found), f"{method} is not finite")

    def check_gain(
        self, prediction: jax.Array, gain: jax.Array, values: jax.Array, code: Code
    ) -> None:
        """The head's parameters, with what the code says, are its parameters too."""
        both = self.call("combine", prediction, gain)
        self.require(finite(both), "combine gives what is not finite")
        self.check_rows("combine", both, prediction, gain)
        self.check_likelihood(both, values)
        self.check_value("mean", both, values, code)
        self.check_alike("draw", self.call("draw", keys(0, values), both), values, code)
        slopes = jax.grad(
            lambda p: jnp.sum(self.modality.nll(self.call("combine", p, gain), values))
        )(prediction)
        self.require(finite(slopes), "gradients of nll through combine are not finite")


def measured(modality: Modality, real: np.ndarray) -> Modality:
    """The modality with what it measures, of noise where the data told it nothing."""
    if getattr(modality, "measured", True):
        return modality
    noise = np.random.default_rng(0).standard_normal((100, *modality.shape))
    fields = modality.measure(real, {"": noise / 4})
    fields["measured"]["absent"] = 0.1
    tables = {name: getattr(modality, name) for name in modality.tables}
    return dataclasses.replace(modality, **fields).with_tables(tables)


def level_of(modality: Modality, num: int, strength: float) -> Level:
    """A level at which z_t is a code times `strength`, and noise."""
    ones = jnp.ones(num)
    others = getattr(modality, "measured", {}).get("sources", ())
    drifts = dict.fromkeys(others, 0 * ones) | {modality.name: strength * ones}
    return Level(0 * ones, ones, drifts)
