"""What a run says of its own speed."""

import json
import time

import pytest
from ml_collections import ConfigDict

from mt_diffusion.training.watch import Watch


class Clock:
    """Seconds that pass when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("idle, waited", [(True, 9), (False, 0)])
def test_speed_and_the_wait_for_data_are_those_after_the_first_step(
    idle, waited, tmp_path, monkeypatch, capsys
):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)

    def batches():
        for i in range(4):
            clock.now += 100 if i == 0 else 3
            yield i

    train = dict(num_steps=4, batch_size=10)
    with Watch(tmp_path, 0, ConfigDict({"train": train})) as view:
        seen = []
        for step, batch in enumerate(view.waited_for(batches(), lambda: idle), 1):
            seen.append(batch)
            view.advance(step)
            clock.now += 1
        view.scalars(4, {"loss": 1.0})
    assert seen == [0, 1, 2, 3]
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["data_wait"] == waited / 13
    assert ("data_wait" in capsys.readouterr().out) == (waited > 0)
    assert line["images_per_second"] == pytest.approx(30 / 13)
