"""The train state: pure data, all of it in the checkpoint."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from mt_diffusion.experiment import programs
from mt_diffusion.experiment.experiment import Experiment, initializer, shapes_of
from mt_diffusion.parallel import sharding

# What runs once need not run fast: on a CPU, parameters compile in a third of the time.
QUICK = {"cpu": {"xla_backend_optimization_level": 0}}


class TrainState(struct.PyTreeNode):
    """step: steps done. ema_params: their exponential moving average.

    tables: fixed codes, which the programs read; made from their recipe, never saved.
    """

    step: Array
    params: Any
    ema_params: Any
    opt_state: optax.OptState
    tables: Any = struct.field(default_factory=dict)

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint has of it."""
        return {name: part for name, part in vars(self).items() if name != "tables"}


def init_state(
    key: PRNGKeyArray, experiment: Experiment, optimizer: optax.GradientTransformation
) -> TrainState:
    """State before the first step."""
    return state_of(initializer(experiment)(key), optimizer)


def state_of(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Of these parameters; their average is a copy, as the step donates both."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )


def abstract_state(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """The shapes of a state, each with its place on the mesh."""
    params = shapes_of(experiment, sharding.abstract_key(mesh))
    shapes = jax.eval_shape(lambda params: state_of(params, optimizer), params)
    shapes = shapes.replace(tables=jax.eval_shape(lambda: experiment.tables))
    return sharding.placed(shapes, sharding.by_shape(mesh, shapes))


def with_tables(
    state: TrainState, experiment: Experiment, abstract: TrainState
) -> TrainState:
    """The state, with the experiment's tables where `abstract` has them."""
    places = jax.tree.map(lambda x: x.sharding, abstract.tables)
    return state.replace(tables=jax.device_put(experiment.tables, places))


def new_state(
    key: PRNGKeyArray,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
) -> TrainState:
    """State before the first step, each array made where `abstract` has it."""
    placed: Any = abstract.step.sharding
    mesh, abstract = placed.mesh, abstract.replace(tables={})
    leaves, structure = jax.tree.flatten(abstract)
    key = sharding.spread_key(key, mesh)
    init = programs.Traced(
        lambda key: jax.tree.leaves(init_state(key, experiment, optimizer)),
        programs.named("state", experiment.origin),
        out_shardings=[x.sharding for x in leaves],
        compiler_options=QUICK.get(mesh.devices.flat[0].platform),
    )
    return jax.tree.unflatten(structure, init.compiled(key)(key))
