"""The study of the gap: its figures, on vectors whose gap is known."""

import csv

import numpy as np
import pytest

from studies import gap

rng = np.random.default_rng(0)
NAMES = [f"thing {i}" for i in range(50)]


def test_a_shift_undoes_a_constant_and_a_map_a_turn():
    train, held = rng.standard_normal((2, 400, 8)), rng.standard_normal((50, 8))
    far = np.full(8, 3.0)
    found = gap.look((train[0], train[0] + far), (held, held + far), NAMES)
    assert found["gap"] == pytest.approx(3 * 8**0.5)
    assert found["shifted: recall_at_1"] == 1 > found["as they are: recall_at_1"]
    assert found["shifted: squared distance, of the spread's"] < 1e-20
    told = 72 / (72 + 4 * gap.spread(train[0]) ** 2)
    assert found["variance explained by the kind"] == pytest.approx(told)
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    found = gap.look((train[0], train[0] @ turn), (held, held @ turn), NAMES)
    assert found["mapped: recall_at_1"] > 0.9 > found["shifted: recall_at_1"]


def test_noise_of_the_length_of_the_gap_is_no_help():
    a, held = rng.standard_normal((400, 8)), rng.standard_normal((50, 8))
    found = gap.look((a, a + 2), (held, held + 2), NAMES)
    far = "squared distance, of the spread's"
    one, other = found[f"with noise: {far}"], found[f"as they are: {far}"]
    assert other == pytest.approx(32 / gap.spread(held) ** 2)
    assert one == pytest.approx(2 * other, rel=0.2)


def test_sayings_are_of_the_same_emoji(tmp_path):
    for name, table in (
        (
            "captions.csv",
            [("file", "caption"), ("1", "cat"), ("1", "kitty"), ("2", "flag")],
        ),
        (
            "emoji.csv",
            [
                ("file", "base", "split", "group", "subgroup", "name"),
                ("1", "1", "train", "Animals", "animal-mammal", "cat"),
                ("2", "2", "test", "Flags", "flag", "flag"),
            ],
        ),
    ):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows(table)
    cat, flag = gap.rows_of(tmp_path)
    assert (cat["other"], flag["other"]) == ("kitty", "")
    assert gap.SAYINGS["its subgroup"](cat) == "animal mammal, Animals"
    assert "shows cat" in gap.SAYINGS[gap.DRAWN](cat)
