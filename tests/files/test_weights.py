"""State dicts in files of every kind, and what is wrong with the others."""

import sys

import numpy as np
import pytest
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.files import weights


def some_state():
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (3, 2, 1, 1), "a.bias": (3,), "steps": ()}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def write_torch(file, state):
    torch = pytest.importorskip("torch")
    tensors = {n: torch.from_numpy(np.array(x)) for n, x in state.items()}
    torch.save(tensors, file)


WRITERS = {
    "npz": lambda file, state: np.savez(file, **state),
    "safetensors": lambda file, state: safetensors.numpy.save_file(state, file),
    "pt": write_torch,
    "pth": write_torch,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_state_dict_is_read_back(tmp_path, suffix):
    state = some_state()
    WRITERS[suffix](tmp_path / f"model.{suffix}", state)
    found = weights.read(tmp_path / f"model.{suffix}")
    assert found.keys() == state.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])
        assert array.dtype == np.float32


def test_files_that_hold_no_state_dict_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    for name in ("torn.npz", "torn.safetensors", "model.ckpt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    for name, words in {
        "none.npz": "does not exist",
        "model.ckpt": "is no checkpoint: give one of .pt, .pth, .npz, .safetensors",
        "torn.npz": "can't be read as a state dict",
        "torn.safetensors": "can't be read as a state dict",
        "objects.npz": "can't be read .*allow_pickle",
    }.items():
        with pytest.raises(UserError, match=words):
            weights.read(tmp_path / name)


def test_what_torch_would_run_or_nests_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for state in ({"model": {"w": torch.ones(2)}}, {"f": print}):
        torch.save(state, tmp_path / "model.pt")
        with pytest.raises(UserError, match="can't be read as a state dict"):
            weights.read(tmp_path / "model.pt")


def test_a_missing_package_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "model.pt").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="needs torch: `pip install torch`.*npz"):
        weights.read(tmp_path / "model.pt")


def test_all_that_differs_is_named():
    found = {name: x.shape for name, x in some_state().items()}
    weights.check(found, dict(found), "these are others")
    wanted = {"a.weight": (3, 2, 3, 3), "a.bias": [3], "b.bias": (3,)}
    with pytest.raises(UserError) as caught:
        weights.check(found, wanted, "these are others")
    assert str(caught.value) == (
        "these are others: missing ['b.bias'], unused ['steps'], misshapen "
        "['a.weight has shape (3, 2, 1, 1) for (3, 2, 3, 3)']."
    )


def test_of_many_names_some_are_written_out():
    with pytest.raises(UserError, match="missing .*'014'. and 95 more, unused nothing"):
        weights.check({}, {f"{n:03}": () for n in range(10, 110)}, "others")


def test_a_digest_stands_for_names_shapes_and_values():
    state = some_state()
    digest = weights.digest(state)
    assert len(digest) == 16
    assert digest == weights.digest(dict(reversed(state.items())))
    others = [
        state | {"steps": state["steps"] + 1},
        state | {"a.bias": state["a.bias"][:, None]},
        {n.replace("steps", "step"): x for n, x in state.items()},
        state | {"a.bias": np.asfortranarray(state["a.bias"][::-1])},
    ]
    assert len({digest, *map(weights.digest, others)}) == 5
