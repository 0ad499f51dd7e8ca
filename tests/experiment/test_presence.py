"""Joint states of presence, by frequency and bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import joint
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import presence

NUM = 20_000
STATES = {
    "all": {"share": 0.3, "x": "read", "y": "read"},
    "x": {"share": 0.4, "x": "read", "y": "absent"},
    "unread": {"share": 0.2, "x": "unread", "y": "unread"},
    "never": {"share": 0.0, "x": "unread", "y": "read"},
    "absent": {"share": 0.1, "x": "absent", "y": "absent"},
}
READS = {"x": True, "y": True}


def draw(built, available=None, seed=0):
    """The word of each example's modalities, {name: [NUM]}; checks what bits imply."""
    everywhere = {name: jnp.ones(NUM, bool) for name in READS}
    there = everywhere if available is None else available
    present, known = built.draw(jax.random.key(seed), there)
    assert present.keys() == known.keys() == there.keys()
    words = {}
    for n in there:
        assert present[n].dtype == known[n].dtype == bool
        assert not np.any(known[n] & ~present[n])
        words[n] = np.where(present[n], np.where(known[n], "read", "unread"), "absent")
    return words


def frequency(words, states):
    fits = [words[n] == word for n, word in states.items()]
    return np.mean(np.all(fits, axis=0))


def test_states_have_their_shares_jointly():
    """And no mixture of two ever occurs."""
    words = draw(presence.build(STATES, READS))
    total = 0
    for fields in STATES.values():
        states = {n: fields[n] for n in READS}
        share = fields["share"]
        error = 4 * np.sqrt(share * (1 - share) / NUM)
        found = frequency(words, states)
        assert found == pytest.approx(share, abs=error)
        total += found
    assert total == pytest.approx(1)


def test_draws_are_of_their_key():
    built = presence.build(STATES, READS)
    one, again, other = (draw(built, seed=s) for s in (0, 0, 1))
    for n in READS:
        np.testing.assert_array_equal(one[n], again[n])
        assert np.mean(one[n] == other[n]) < 0.9


def test_missing_values_are_absent_and_touch_no_other():
    built = presence.build(STATES, READS)
    lacks = np.arange(NUM) % 3 == 0
    there = {"x": jnp.asarray(~lacks), "y": jnp.ones(NUM, bool)}
    words, whole = draw(built, there), draw(built)
    assert np.all(words["x"][lacks] == "absent")
    np.testing.assert_array_equal(words["x"][~lacks], whole["x"][~lacks])
    np.testing.assert_array_equal(words["y"], whole["y"])


@pytest.mark.parametrize("reads", [{"x": True, "y": False}, {"x": False, "y": False}])
def test_what_no_network_reads_is_unread(reads):
    built, whole = presence.build(STATES, reads), presence.build(STATES, READS)
    words, expected = draw(built), draw(whole)
    for n in READS:
        kept = expected[n]
        if not reads[n]:
            kept = np.where(kept == "read", "unread", kept)
        np.testing.assert_array_equal(words[n], kept)
    assert built.share({"y": "read"}) == 0
    assert built.share({"y": "unread"}) == pytest.approx(0.5)


def each(states):
    """All subsets of the modalities, in all words."""
    for x in (None, *states):
        for y in (None, *states):
            asked = {"x": x, "y": y}
            yield {n: word for n, word in asked.items() if word}


@pytest.mark.parametrize("kind", ["joint", "independent"])
def test_shares_are_the_frequencies_of_draws(kind):
    rates = {"x": dict(absent=0.1, unread=0.6), "y": dict(absent=0.5, unread=0.2)}
    tables = {"joint": STATES, "independent": {"independent": rates}}
    built = presence.build(tables[kind], READS)
    words = draw(built)
    for states in each(presence.STATES):
        share = built.share(states)
        error = 4 * np.sqrt(share * abs(1 - share) / NUM) + 1e-9
        assert frequency(words, states) == pytest.approx(share, abs=error), states
    assert built.share({}) == pytest.approx(1)


def test_shares_by_hand():
    built = presence.build(STATES, READS)
    assert built.share({"x": "read"}) == pytest.approx(0.7)
    assert built.share({"y": "absent"}) == pytest.approx(0.5)
    assert built.share({"x": "read", "y": "absent"}) == pytest.approx(0.4)
    assert built.share({"x": "absent", "y": "read"}) == 0
    rates = {"x": dict(absent=0.1, unread=0.6), "y": dict(absent=0.5, unread=0.2)}
    built = presence.build({"independent": rates}, READS)
    assert built.share({"x": "unread"}) == pytest.approx(0.6)
    assert built.share({"x": "read", "y": "absent"}) == pytest.approx(0.3 * 0.5)


def test_independent_states_are_those_of_earlier_versions_to_the_bit():
    """The recipe of configs with drop_rate and null_rate, copied from that time."""
    rates = {"y": (0.05, 0.6), "x": (0.25, 0.15)}  # in the config's order
    table = {n: dict(absent=d, unread=u) for n, (d, u) in rates.items()}
    built = presence.build({"independent": table}, dict.fromkeys(rates, True))
    there = {"x": jnp.arange(NUM) % 2 == 0, "y": jnp.arange(NUM) % 5 > 0}
    present, known = built.draw(jax.random.key(7), there)
    for i, (name, (drop_rate, null_rate)) in enumerate(rates.items()):
        u = jax.random.uniform(jax.random.fold_in(jax.random.key(7), i), (NUM,))
        drifts = there[name] & (u >= drop_rate)
        np.testing.assert_array_equal(present[name], drifts)
        read = drifts & (u >= drop_rate + null_rate)
        np.testing.assert_array_equal(known[name], read)


def test_without_modalities_there_is_one_state():
    built = presence.build({}, {})
    assert built.draw(jax.random.key(0), {}) == ({}, {})
    assert built.share({}) == 1
    assert presence.lines(built) == []


def test_lines_say_the_states_that_there_are():
    lines = presence.lines(presence.build(STATES, {"x": True, "y": False}))
    assert lines == [
        "30% all: x read, y unread",
        "40% x: x read, y absent",
        "20% unread: x unread, y unread",
        "10% absent: x absent, y absent",
    ]


def changed(state, **fields):
    return STATES | {state: STATES[state] | fields}


LACKS_Y = STATES | {"x": {"share": 0.4, "x": "read"}}


@pytest.mark.parametrize(
    "table, words",
    [
        (changed("x", share=0.5), r"config.presence add up to 1.1 .*x 0.5"),
        (changed("x", share=0.39), r"config.presence add up to 0.99 "),
        ({}, r"config.presence add up to 0 "),
        (
            changed("x", share=-0.1) | {"all": STATES["all"] | {"share": 0.8}},
            r"config.presence add up to 1 .*x -0.1.*each 0 or more",
        ),
        (
            STATES | {"x": {"x": "read", "y": "absent"}},
            r"config.presence.x must .* a share; \['share'\] are missing",
        ),
        (changed("x", y="gone"), r"config.presence.x.y is 'gone'; .*'read', 'unread'"),
        (LACKS_Y, r"config.presence.x must say .*\(x, y\).*\['y'\] are missing"),
        (changed("all", z="read"), r"config.presence.all must say .*\['z'\] are"),
        (
            {"independent": {"x": dict(absent=0.5, unread=0.6), "y": {}}},
            r"config.presence.independent.x is .*at most 1",
        ),
        (
            {"independent": {"x": dict(absent=-0.1, unread=0.6), "y": {}}},
            r"config.presence.independent.x is .*each 0 or more",
        ),
    ],
)
def test_tables_that_say_nothing_sensible_are_refused(table, words):
    with pytest.raises(UserError, match=words):
        presence.build(table, READS)


def test_states_without_share_need_not_be_right():
    """So that a preset's state can be switched off where its modality is gone."""
    table = changed("never", share=0.0, x="gone") | {"other": {"share": 0.0, "z": "x"}}
    draws = (draw(presence.build(t, READS)) for t in (table, STATES))
    jax.tree.map(np.testing.assert_array_equal, *draws)


def test_a_config_without_a_modality_that_its_states_name_is_refused():
    config = joint.get_config("smoke")
    config.modalities.label.class_names = tuple("0123456789")
    config.modalities.label.frame = "read"
    assert experiments.build(config).presence.share({"label": "unread"}) > 0
    del config.modalities["label"]
    with pytest.raises(UserError, match=r"config.presence..* \(masked_image\)"):
        experiments.build(config)
