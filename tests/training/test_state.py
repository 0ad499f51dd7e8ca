"""The first state: traced once, for its shapes and for what it is."""

import jax
import optax

from mt_diffusion.experiment import experiment
from mt_diffusion.parallel import sharding
from mt_diffusion.training import state


class Nothing:
    """An experiment without tables, whose parameters the test makes."""

    tables: dict = {}
    origin = ""


def test_shapes_and_the_state_itself_come_of_one_trace(monkeypatch):
    traces = []

    def init_params(key, of):
        traces.append(of)
        return {"params": {"w": jax.random.normal(key, (8, 2))}}

    monkeypatch.setattr(experiment, "init_params", init_params)
    args = Nothing(), optax.sgd(1.0)
    mesh = sharding.make_mesh()
    abstract = state.abstract_state(*args, mesh)
    key = jax.random.key(0)
    found = state.new_state(sharding.spread_key(key, mesh), *args, abstract)
    assert len(traces) == 1
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(
        lambda x: x.shape, abstract
    )
