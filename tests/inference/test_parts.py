"""What is drawn part by part is drawn once, whatever happens in between."""

import shutil
import tracemalloc

import numpy as np
import pytest

from mt_diffusion.inference import parts


class Maker:
    """Makes rows that say which they are; dies after so many parts."""

    def __init__(self, most=None):
        self.most, self.made = most, []

    def __call__(self, rows):
        if len(self.made) == self.most:
            raise KeyboardInterrupt
        self.made.append(rows)
        return {"x": np.asarray(rows), "y": np.asarray(rows)[:, None] * 0.5}


def carry_out(folder, make, num=10, size=4):
    return parts.carry_out(folder, num, size, make, "rows")


def test_what_was_cut_off_goes_on_to_the_same_result(tmp_path):
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    whole = carry_out(tmp_path / "whole", Maker())
    np.testing.assert_array_equal(whole["x"], np.arange(10))
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path / "cut", Maker(most=2))
    rest = Maker()
    found = carry_out(tmp_path / "cut", rest)
    np.testing.assert_equal(found, whole)
    assert rest.made == [range(8, 12)]  # whole, so that one program draws all


def test_memory_holds_a_part_and_not_the_whole(tmp_path):
    """Whatever --num_samples says; the result outlives the folder."""

    def make(rows):
        return {"x": np.full((len(rows), 2**18), rows[0], np.float32)}

    tracemalloc.start()
    found = carry_out(tmp_path, make, num=31, size=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shutil.rmtree(tmp_path)
    assert found["x"].nbytes > 31e6 and peak < 8e6
    np.testing.assert_array_equal(found["x"][:, -1], np.arange(31) // 2 * 2)


@pytest.mark.parametrize("keep", [0, 0.5, 0.9])
def test_a_part_that_is_broken_is_made_again(tmp_path, keep, capsys):
    whole = carry_out(tmp_path, Maker())
    path = sorted(tmp_path.iterdir())[1]
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    again = Maker()
    np.testing.assert_equal(carry_out(tmp_path, again), whole)
    assert again.made == [range(4, 8)]
    assert f"{path} is broken, so it is made again" in capsys.readouterr().out


def test_parts_of_any_other_sampling_have_another_name():
    fixed = {"params": "0a", "given": {}, "settings": "{}", "num": 4, "seed": 0}
    others = [
        {"params": "0b"},
        {"given": {"label": np.zeros((1, 10))}},
        {"given": {"label": np.ones((1, 10))}},
        {"settings": '{"num_steps": 3}'},
        {"num": 5},
        {"seed": 1},
    ]
    marks = {parts.mark(**fixed | other) for other in [{}, {}, *others]}
    assert len(marks) == 1 + len(others)
