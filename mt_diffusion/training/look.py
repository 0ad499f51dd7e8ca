"""What is looked at from time to time: the test loss, and pictures of samples."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.inference import walks
from mt_diffusion.inference.drawing import pictures
from mt_diffusion.inference.drawing import walk as drawn_walk
from mt_diffusion.inference.generation import Generator
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.training import gradient_share, objective
from mt_diffusion.training.watch import WALK, Silent, Watch


class Look:
    """Looks at averaged parameters; batch: test examples, key: of the loss's noise."""

    def __init__(
        self,
        config: ConfigDict,
        experiment: Experiment,
        mesh: jax.sharding.Mesh,
        batch: Batch,
        key: PRNGKeyArray,
    ):
        self._experiment = experiment
        self._num = config.watch.num_pictures
        self._has_walk = config.watch.walk and self._num <= walks.MOST
        self._seed = config.seed
        self._batch = batch
        self._generator = Generator(experiment, config.sampling, mesh)
        replicated = sharding.replicated(mesh)
        self._tables = jax.device_put(experiment.tables, replicated)
        loss = objective.build(config, experiment)

        @jax.jit
        def measure(params, batch):
            draws = loss.draw(key, batch)
            return loss.loss(params, batch, draws, loss.counts(batch, draws), None)

        self._loss = measure
        self._shares = gradient_share.build(loss, key, config.train.num_microbatches)
        # One term alone has the whole gradient.
        self._has_shares = config.watch.gradient_shares and len(loss.tasks) > 1

    def __call__(self, view: Watch | Silent, step: int, params: Any) -> None:
        """Writes test loss, gradient shares, and grids: joint, each modality given.

        And a strip of how the first of the joint ones came about.
        """
        params = params | self._tables
        _, terms = sharding.fetch(self._loss(params, self._batch))
        scalars = {f"test_{name}": float(x) for name, x in terms.items()}
        if self._has_shares:
            shares = self._shares(params, self._batch)
            scalars |= {f"grad_share_{name}": x for name, x in shares.items()}
        view.write(step, scalars)
        model = self._experiment.variables, self._experiment.primary
        for given, truth in [({}, None), *self._values()]:
            try:
                examples, walk = self._drawn(params, given)
            except UserError as error:  # of samples that are not finite
                print(f"no picture of step {step:,}: {error}")
                continue
            num = len(next(iter(given.values()), ()))
            grid = pictures.restored(examples, *model, given, num, truth)
            view.picture(
                step, "_".join(["given", *given] if given else ["joint"]), grid
            )
            if walk:
                strip = drawn_walk.strip(walk, self._experiment.variables, given)
                view.picture(step, WALK, strip)

    def _drawn(
        self, params: Any, given: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], walks.Trajectory | None]:
        """Examples, and the steps of their walk where all is generated."""
        if given or not self._has_walk:
            return self._generator(params, self._seed, self._num, given), None
        rows = range(self._num)
        return self._generator.trajectory(params, self._seed, rows, given)

    def _values(self) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        """For each modality its first values, to be given, and the images of these."""
        found, primary = [], self._experiment.primary
        batch = sharding.fetch(self._batch)
        for name, values in batch.values.items():
            here = batch.available[name]
            if here.any():
                truth = primary.postprocess(batch.z0[here][: self._num])
                found.append(({name: values[here][: self._num]}, truth))
        return found
