"""Presence: in which joint states of its modalities an example is trained.

A modality is read (it drifts z_t, and the network is told its value), unread (it
drifts), or absent (method.md, eq. 24). One state says this of all modalities at once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from mt_diffusion.errors import UserError

READ, UNREAD, ABSENT = "read", "unread", "absent"
STATES = (READ, UNREAD, ABSENT)
INDEPENDENT = "independent"  # the states of configs before joint ones

Bits = dict[str, Bool[Array, " b"]]


@runtime_checkable
class Presence(Protocol):
    """How the states of examples are drawn, and how often each is."""

    def draw(
        self, key: PRNGKeyArray, available: Mapping[str, Bool[Array, " b"]]
    ) -> tuple[Bits, Bits]:
        """Which modalities drift, and which of these are read, [B] each.

        available: which examples have a value at all; the others are absent.
        """
        ...

    def share(self, states: Mapping[str, str]) -> float:
        """In which share of complete examples these modalities have these states."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """States by name: shares that add up to 1, [S], and each modality's part, [S]."""

    names: Sequence[str]
    shares: np.ndarray
    states: Mapping[str, Sequence[str]]

    def draw(self, key, available):
        if not available:
            return {}, {}
        num = len(next(iter(available.values())))
        edges = jnp.asarray(np.cumsum(self.shares)[:-1])
        drawn = jnp.searchsorted(edges, jax.random.uniform(key, (num,)), side="right")
        at = lambda words, which: jnp.asarray([w in which for w in words])[drawn]  # noqa: E731
        present = {
            n: there & at(self.states[n], (READ, UNREAD))
            for n, there in available.items()
        }
        known = {n: p & at(self.states[n], (READ,)) for n, p in present.items()}
        return present, known

    def share(self, states):
        fits = [
            all(self.states[n][i] == word for n, word in states.items())
            for i in range(len(self.shares))
        ]
        return float(self.shares @ np.asarray(fits, float))


@dataclasses.dataclass(frozen=True, eq=False)
class Independent:
    """Each modality by itself: {modality: {absent, unread: share}}, else it is read."""

    rates: Mapping[str, Mapping[str, float]]

    def draw(self, key, available):
        present, known = {}, {}
        for i, name in enumerate(self.rates):
            absent, unread = (self.rates[name][state] for state in (ABSENT, UNREAD))
            there = available[name]
            u = jax.random.uniform(jax.random.fold_in(key, i), there.shape)
            present[name] = there & (u >= absent)
            known[name] = present[name] & (u >= absent + unread)
        return present, known

    def share(self, states):
        parts = [
            self.rates[n].get(word, 1 - sum(self.rates[n].values()))
            for n, word in states.items()
        ]
        return float(np.prod(parts))


def build(table: Mapping[str, Mapping], reads: Mapping[str, bool]) -> Presence:
    """The presence that config.presence describes.

    table: {state: {share, modality: 'read' | 'unread' | 'absent'}}; a modality that
    the network does not read is unread where it says 'read'. reads: of each modality,
    whether the network reads it. Raises UserError for shares that do not add up, and
    states that say too little, too much, or nothing known.
    """
    if INDEPENDENT in table:
        rates = table[INDEPENDENT]
        if unread := sorted((rates.keys() - reads) | (table.keys() - {INDEPENDENT})):
            raise UserError(
                f"config.presence says something of {', '.join(unread)}, which nothing "
                f"would read beside {INDEPENDENT!r}; leave it out."
            )
        return Independent({n: _checked_rates(n, rates.get(n)) for n in reads})
    if not reads and table:
        raise UserError(
            f"config.presence has the states {', '.join(table)}, but there is no "
            "modality that could be in one; leave them out."
        )
    if not reads:
        return Joint(("image",), np.ones(1), {})
    kept = {name: fields for name, fields in table.items() if fields.get("share", 1)}
    for name, fields in kept.items():
        _check(name, fields, reads)
    shares = np.asarray([fields["share"] for fields in kept.values()], np.float64)
    if not np.all(shares >= 0) or abs(shares.sum() - 1) > 1e-6:
        said = ", ".join(f"{n} {fields['share']:g}" for n, fields in kept.items())
        raise UserError(
            f"the shares of config.presence add up to {shares.sum():g} ({said}); they "
            "are shares of the training examples, each 0 or more, together 1."
        )
    word = lambda n, w: UNREAD if w == READ and not reads[n] else w  # noqa: E731
    states = {n: tuple(word(n, f[n]) for f in kept.values()) for n in reads}
    return Joint(tuple(kept), shares / shares.sum(), states)


def _check(name: str, fields: Mapping, reads: Mapping[str, bool]) -> None:
    wrong = sorted(set(fields) ^ {"share", *reads})
    if wrong:
        raise UserError(
            f"config.presence.{name} must say of each modality ({', '.join(reads)}) "
            "what it is, and of nothing else, and have a share; "
            f"{wrong} are missing or unknown."
        )
    if not is_number(fields["share"]):
        raise UserError(
            f"config.presence.{name}.share is {fields['share']!r}, no number."
        )
    for modality in reads:
        if fields[modality] not in STATES:
            raise UserError(
                f"config.presence.{name}.{modality} is {fields[modality]!r}; choose "
                f"one of {list(STATES)}."
            )


def is_number(value: object) -> bool:
    """Whether it is one, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked_rates(name: str, rates: Mapping[str, float] | None) -> dict[str, float]:
    field = f"config.presence.{INDEPENDENT}.{name}"
    if not rates or set(rates) != {ABSENT, UNREAD}:
        raise UserError(
            f"{field} is {rates}; give the shares {ABSENT!r} and {UNREAD!r}."
        )
    numbers = all(map(is_number, rates.values()))
    if not numbers or min(rates.values()) < 0 or sum(rates.values()) > 1:
        raise UserError(
            f"{field} is {dict(rates)}; these are shares of the examples, each 0 or "
            "more, together at most 1."
        )
    return dict(rates)


def lines(presence: Presence) -> list[str]:
    """The table as a person reads it: a line for each state."""
    if isinstance(presence, Independent):
        return [f"{n}: {dict(rates)}" for n, rates in presence.rates.items()]
    assert isinstance(presence, Joint)
    return [
        f"{share:.0%} {name}: "
        + ", ".join(f"{n} {words[i]}" for n, words in presence.states.items())
        for i, (name, share) in enumerate(
            zip(presence.names, presence.shares, strict=True)
        )
        if presence.states
    ]
