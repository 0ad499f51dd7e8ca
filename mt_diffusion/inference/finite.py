"""What is not finite is no picture: where a walk was lost, and what it was lost by."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.parallel import sharding

Watch = Callable[[Any, Any], None]  # (t, whether z_0 is finite)
NONE = {"guidance": 1, "head_guidance": 0, "autoguidance": 1}  # scales without effect


def check(
    drawn: Mapping[str, np.ndarray],
    generator: Any,
    settings: ConfigDict,
    times: np.ndarray,
    args: tuple,
) -> None:
    """Raises UserError for a batch that is not finite, after a second walk to see why.

    drawn: by `generator` with `args` of its `draw`. settings: config.sampling. times:
    of its walk, [S + 1].
    """
    wrong = [name for name, x in drawn.items() if not np.isfinite(x).all()]
    if not wrong:
        return
    lost = []

    def watch(t: Any, is_fine: Any) -> None:
        if not is_fine:
            lost.append(int(t))

    jax.block_until_ready(generator.watched(watch).draw(*args))
    jax.effects_barrier()
    steps = times.tolist()
    t = max(lost, default=steps[-2])
    raise UserError(
        f"what was drawn of {', '.join(wrong)} is not finite, from step "
        f"{steps.index(t) + 1} of {len(steps) - 1} on (t = {t}), so that nothing was "
        f"written of it. {cause(settings, args[0], args[3])}"
    )


def cause(settings: ConfigDict, params: Any, given: Mapping[str, Any]) -> str:
    """What most likely makes a walk leave all bounds, and what to do."""
    if not is_finite(params):
        return (
            "The parameters are not finite themselves: the checkpoint is damaged, or "
            "its training diverged. Use an earlier one."
        )
    if not is_finite(given):
        return "What was given is not finite itself."
    scales = [f"{n} = {settings[n]:g}" for n, x in NONE.items() if settings[n] != x]
    if scales:
        return f"Likely that is too much guidance ({', '.join(scales)}): use less."
    return (
        f"Likely z_0 has no bound (clip = {settings.clip!r}, {settings.sampler}): use "
        "clip = 'static', more steps, or a model that was trained for longer."
    )


def is_finite(tree: Any) -> bool:
    """Whether all numbers of a tree are."""
    numbers = [x for x in jax.tree.leaves(sharding.fetch(tree)) if x.dtype.kind == "f"]
    return all(np.isfinite(x).all() for x in numbers)
