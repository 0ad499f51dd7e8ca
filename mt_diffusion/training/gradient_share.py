"""How much each term of the loss pulls at the network that all of them share."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from mt_diffusion.protocol import Batch
from mt_diffusion.training.objective import Objective

TRUNK = "unet"
OWN = "out"  # the trunk's last block, which the noise alone trains


def build(
    loss: Objective, key: PRNGKeyArray, num_microbatches: int
) -> Callable[[Any, Batch], dict[str, float]]:
    """(params, batch) -> {variable: share}, which sum to 1.

    A share is the norm of the gradient of what the variable adds to the loss, weights
    included, with respect to the shared network's parameters, over the sum of these
    norms. One program, compiled once, serves all variables. key: of the loss's noise.
    num_microbatches: one of so many parts of the batch is looked at, so that this needs
    no more memory than a training step.
    """

    @jax.jit
    def norm(params, batch, weights):
        batch = jax.tree.map(lambda x: x[::num_microbatches], batch)
        draws = loss.draw(jax.random.clone(key), batch)  # the same for every variable
        counts = loss.counts(batch, draws)
        unet = params["params"][TRUNK]

        def weighted(trunk):
            whole = params["params"] | {TRUNK: unet | trunk}
            parts, _ = loss.parts(
                params | {"params": whole}, batch, draws, counts, None
            )
            return sum(weights[name] * parts[name] for name in weights)

        trunk = {name: p for name, p in unet.items() if name != OWN}
        return optax.tree.norm(jax.grad(weighted)(trunk))

    def shares(params, batch):
        names = sorted(loss.tasks)
        rows = [dict(zip(names, row, strict=True)) for row in np.eye(len(names))]
        norms = np.array(jax.device_get([norm(params, batch, row) for row in rows]))
        total = norms.sum() or 1.0  # where nothing pulls, no one has a share
        return dict(zip(names, (norms / total).tolist(), strict=True))

    return shares
