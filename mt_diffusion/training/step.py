"""One training step, a pure function of state, batch and key."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import programs
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.models import attention
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.training import objective
from mt_diffusion.training.state import TrainState

Step = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, dict[str, Array]]]


def ema(average: Any, params: Any, step: Array, decay: float) -> Any:
    """Exponential moving average after `step` steps, with a decay that warms up.

    The decay after n steps is at most (1 + n) / (10 + n).
    """
    share = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    # In this form an average that equals its parameter stays as it is, to the bit.
    return jax.tree.map(lambda a, p: a + (1 - share) * (p - a), average, params)


def build_step(
    config: ConfigDict,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Step:
    """The training step of a config; jit it with its state donated.

    The state lies on the mesh by its shapes. Each device gathers whole parameters for
    its share of the batch, all at once or by block (config.mesh.gather), and keeps its
    part of the gradients' sum.
    """
    loss, lay = objective.build(config, experiment), jax.lax.with_sharding_constraint
    parts, decay = config.train.num_microbatches, config.train.ema_decay
    # On CPUs the gradient of a convolution inside a loop is up to 100 times slower.
    unroll = mesh.devices.flat[0].platform == "cpu"
    gradients_of = shared_gradients(loss, mesh, config.mesh, parts, unroll)

    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        terms, grads = gradients_of(state.params, state.tables, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        average = ema(state.ema_params, params, step, decay)
        terms |= {
            "grad_norm": optax.tree.norm(grads),
            "skipped_in_a_row": opt_state.notfinite_count,
            "skipped": opt_state.total_notfinite,
        }
        state = TrainState(step, params, average, opt_state, state.tables)
        return lay(state, sharding.by_shape(mesh, state)), terms

    return train_step


def lower_step(
    config: ConfigDict,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
) -> jax.stages.Lowered:
    """The program of the training step, from the shapes of a state; donates the state.

    The mesh's devices need not be here.
    """
    step = build_step(config, experiment, optimizer, mesh)
    args = abstract_args(config, experiment, mesh, state)
    return jax.jit(step, donate_argnums=0).lower(*args)


def compile_step(
    config: ConfigDict,
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
) -> Step:
    """The same, compiled for devices that are here; traced once for all processes."""
    step = build_step(config, experiment, optimizer, mesh)
    structure = jax.tree.structure(state)

    def flat(state, batch, key):
        state, terms = step(state, batch, key)
        return jax.tree.leaves(state), terms

    name = programs.named("step", experiment.origin)
    args = abstract_args(config, experiment, mesh, state)
    program = programs.Traced(flat, name, donates=True).compiled(*args)

    def train_step(state, batch, key):
        leaves, terms = program(state, batch, key)
        return jax.tree.unflatten(structure, leaves), terms

    return train_step


def abstract_args(
    config: ConfigDict, experiment: Experiment, mesh: Mesh, state: TrainState
) -> tuple[TrainState, Batch, Any]:
    """The shapes of all that a training step takes, from those of a state."""
    batch = abstract_batch(experiment, config.train.batch_size, mesh)
    return state, batch, sharding.abstract_key(mesh)


def images_per_device(config: ConfigDict, num_devices: int) -> int:
    """Of one training step. Raises UserError for a batch that can't be shared out."""
    batch_size, parts = config.train.batch_size, config.train.num_microbatches
    if batch_size % (num_devices * parts):
        raise UserError(
            f"config.train.batch_size = {batch_size} must be a multiple of the "
            f"{num_devices} devices that share it, times config.train.num_microbatches "
            f"= {parts}."
        )
    return batch_size // num_devices


def abstract_batch(experiment: Experiment, images: int, mesh: Mesh) -> Batch:
    """The shapes of a batch, each array with its place on the mesh."""
    values = {m.name: m.placeholder() for m in experiment.modalities}
    here = {name: np.asarray(True) for name in values}
    example = Batch(experiment.primary.placeholder(), values, here)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((images, *x.shape), x.dtype), example
    )
    return sharding.placed(shapes, sharding.over_batch(mesh))


def shared_gradients(
    loss: objective.Objective,
    mesh: Mesh,
    wishes: ConfigDict,
    parts: int,
    unroll: bool,
) -> Callable[[Any, Any, Batch, PRNGKeyArray], tuple[dict[str, Array], Any]]:
    """(params, tables, batch, key) -> terms, gradients; devices do their own examples.

    Everything random is drawn for the whole batch and every mean is over the whole
    batch, so that neither devices nor parts change more than rounding (and dropout).
    Gradients are summed in float32, so that no number of parts makes the sum coarser,
    nor of devices, unless wishes.sum is bfloat16; and over the devices once for all
    parts, unless wishes.gather is block: then a device never holds more than its part
    of what is split, but for the block it is at, and gathers and sums for each part
    anew. wishes: config.mesh. parts, unroll: as of `gradients`.
    """
    by_block, dtype = wishes.gather == "block", jnp.dtype(wishes.sum)
    whole, split = PartitionSpec(), PartitionSpec(sharding.AXES)

    def shared(params, tables, batch, key):
        draw_key, dropout_key = jax.random.split(key)
        draws = loss.draw(draw_key, batch, mesh.size * parts)
        counts = loss.counts(batch, draws)
        where = sharding.by_shape(mesh, params)
        places = jax.tree.map(lambda s: s.spec, where)
        come = jax.tree.map(lambda s: s.spec if by_block else whole, where)

        def of_device(params, tables, batch, draws, counts, key):
            key = jax.random.fold_in(key, jax.lax.axis_index(sharding.AXES))
            # Each device's own, or JAX would sum the gradients of every part.
            params = jax.tree.map(sharding.part, params, come)
            examples = batch, draws
            with attention.compiled_for(mesh):
                terms, grads = gradients(
                    loss, params, tables, examples, counts, key, parts, unroll
                )
            add = functools.partial(sharding.sum_over_devices, dtype=dtype)
            grads = jax.tree.map(add, grads, places, is_leaf=sharding.is_part)
            return jax.lax.psum(terms, sharding.AXES), grads

        return jax.shard_map(
            of_device,
            mesh=mesh,
            in_specs=(come, whole, split, split, whole, whole),
            out_specs=(whole, places),
            check_vma=not has_kernels(mesh),
        )(params, tables, batch, draws, counts, dropout_key)

    return shared


def has_kernels(mesh: Mesh) -> bool:
    """Whether a program may have Pallas' kernels, as attention does on TPUs.

    These don't say over which devices what they give varies (JAX 0.10), so that JAX
    can't check it.
    """
    return mesh.devices.flat[0].platform == "tpu"


def gradients(
    loss: objective.Objective,
    params: Any,
    tables: Any,
    examples: tuple[Batch, objective.Draws],
    counts: dict[str, Array],
    key: PRNGKeyArray,
    parts: int,
    unroll: bool,
) -> tuple[dict[str, Array], Any]:
    """Terms and gradients of examples, as the sum over equal parts of them.

    counts: of the whole batch. key: of dropout. unroll: the program repeats what it
    does for a part, where a loop is slow.
    """
    grad = jax.grad(lambda params, *of: loss.loss(params | tables, *of), has_aux=True)

    def of_part(i, part):
        part_key = jax.random.fold_in(key, i)
        grads, terms = grad(params, *part, counts, part_key)
        return terms, grads

    def add(total, numbered):
        # One part after another, or XLA may hold the activations of all at once.
        numbered, total = jax.lax.optimization_barrier((numbered, total))
        return jax.tree.map(jnp.add, total, of_part(*numbered)), None

    if parts == 1:
        return of_part(0, examples)
    split = jax.tree.map(
        lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), examples
    )
    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(of_part, 0, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    zeros = jax.lax.pcast(zeros, sharding.AXES, to="varying")
    numbered = (jnp.arange(parts), split)
    return jax.lax.scan(add, zeros, numbered, unroll=unroll)[0]
