"""The benchmark that disturbs runs sees what it looks for."""

import json

import numpy as np
import pytest

from studies import disturbances, injections


def test_what_is_drawn_depends_on_the_seed_alone_and_has_every_kind_and_phase():
    drawn = [disturbances.draw(0, i, disturbances.KINDS) for i in range(200)]
    assert drawn == [disturbances.draw(0, i, disturbances.KINDS) for i in range(200)]
    assert drawn != [disturbances.draw(1, i, disturbances.KINDS) for i in range(200)]
    assert {x.kind for x in drawn} == set(disturbances.KINDS)
    assert {x.phase for x in drawn} == set(disturbances.PHASES)


@pytest.mark.parametrize(
    "other, expected",
    [
        ({"w": np.float32([0.0, np.nan])}, True),
        ({"w": np.float32([-0.0, np.nan])}, False),
        ({"w": np.float64([0.0, np.nan])}, False),
        ({"v": np.float32([0.0, np.nan])}, False),
        ({"w": np.float32([0.0])}, False),
    ],
)
def test_equal_is_to_the_bit(other, expected):
    assert injections.equal({"w": np.float32([0.0, np.nan])}, other) == expected


@pytest.mark.parametrize(
    "steps, expected", [((1, 2, 3), True), ((1, 3), False), ((1, 2, 2, 3), False)]
)
def test_a_step_that_is_lost_or_twice_is_seen(tmp_path, steps, expected):
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps]
    lines.append(json.dumps({"step": 3, "test_loss": 1.0}) + "\n")
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 3, "lo')
    assert injections.consecutive(tmp_path) == expected


def test_the_table_counts_calls_by_how_they_ended():
    rows = {
        "SIGTERM, save": {"status 75": 2, "status 0": 1},
        "SIGKILL, step": {"status -9": 4},
    }
    text = injections.table(
        {"by_kind_and_phase": rows, "injections": 7, "unsound": [], "runs": 1}
        | {"runs_that_differ": []}
    )
    assert "| SIGTERM | save | 3 | 0: 1, 75: 2 |" in text
    assert "7 injections, 0 of them not" in text
