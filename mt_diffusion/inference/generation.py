"""Samples from a network: the jitted sampler and values as people have them."""

import copy
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import sampler, variance
from mt_diffusion.diffusion.variance import Errors
from mt_diffusion.experiment import programs
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.roles import Roles
from mt_diffusion.files import weights
from mt_diffusion.inference import finite, walks
from mt_diffusion.inference.denoising import Denoising
from mt_diffusion.inference.guiding import Guiding
from mt_diffusion.inference.walks import Trajectory
from mt_diffusion.modalities import guess
from mt_diffusion.models import attention
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.parallel import batches, sharding

NEARER = np.pi / 4  # angle from which on noise is more of the other seed


def of_rows(seed: Any, rows: Array) -> Array:
    """The key of each of these examples, [B]."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(rows)


class Generator:
    """Draws examples jointly, any of their variables given.

    settings: config.sampling. mesh: the batch is split over all its devices. errors: as
    of `Believer`; None leaves beta_tilde. guide: the weaker model of `Guiding`. Raises
    UserError for a sampler, spacing, clipping, variance, guess or number of steps that
    there is not.
    """

    def __init__(
        self,
        experiment: Experiment,
        settings: ConfigDict,
        mesh: jax.sharding.Mesh,
        errors: Mapping[str, Errors] | None = None,
        guide: Denoiser | None = None,
    ):
        self._experiment = experiment
        self._mesh = mesh
        self._watch: finite.Watch | None = None
        self._settings = settings
        self._step, self._times = walks.build(settings, experiment.process.schedule)
        variance.check(settings.variance, settings.correction)
        self._clip = sampler.build_clip(settings.clip, experiment.space.limit)
        self._draw = programs.Traced(self.draw, self._name(errors or {}, guide))
        self.roles = Roles(experiment, settings.guess)
        self._denoising = Denoising(
            experiment=experiment,
            settings=settings,
            times=self._times,
            roles=self.roles,
            guiding=Guiding(experiment.denoiser, settings, guide),
            errors=errors or {},
        )

    def __call__(
        self,
        params: Any,
        seed: int,
        num: int,
        given: Mapping[str, np.ndarray],
        first: int = 0,
    ) -> dict[str, np.ndarray]:
        """`num` examples from number `first` on, {variable: [num, ...]}, postprocessed.

        Of a continuous modality that is generated, the mean that its head gives stands
        under its name, and a draw under the name with DRAW after it.

        given: {variable: values [M, ...]}, repeated in turn up to num. Example i
        depends on (seed, i) and its given values alone.
        """
        rows = range(first, first + num)
        return self.postprocess(self.values(params, seed, rows, given))

    def values(
        self, params: Any, seed: int, rows: range, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Examples `rows` of all that there could be, as {variable: values}."""

        def draw(some):
            args = (params, seed, *self.placed(some, given))
            return self.checked(sharding.fetch(self._draw(*args)), args)

        return batches.through(draw, rows, self.batch_size(len(rows)))

    def trajectory(
        self,
        params: Any,
        seed: int,
        rows: range,
        given: Mapping[str, np.ndarray],
        what: str | None = None,
    ) -> tuple[dict[str, np.ndarray], Trajectory]:
        """The same examples as of a call, and what each step of their walk saw.

        Of each example in a batch the devices hold S float32 images, and the host one
        batch of these, and of all examples what `Trajectory` has. Raises UserError for
        more examples than it keeps. what: before its progress; None shows none.
        """
        walks.check(len(rows))

        def draw(some):
            args = (params, seed, *self.placed(some, given))
            drawn, kept = sharding.fetch(self.draw_and_keep(*args))
            values = {name: v[some % len(v)] for name, v in given.items()}
            seen = walks.estimates(kept, values, self._experiment)
            return self.checked(drawn, args), seen

        values, seen = batches.through(draw, rows, self.batch_size(len(rows)), what)
        schedule = self._experiment.process.schedule
        return self.postprocess(values), walks.of(seen, self._times, schedule)

    def placed(self, some, given):
        """Numbers of rows and their given values, [B, ...], on the devices."""
        values = {name: v[some % len(v)] for name, v in given.items()}
        return jax.device_put((some, values), sharding.over_batch(self._mesh))

    def checked(self, drawn, args):
        """What was drawn with these arguments of `draw`; UserError where it is not."""
        finite.check(drawn, self, self._settings, self._times, args)
        return drawn

    def postprocess(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values as people have them."""
        return {n: self._experiment.of(n).postprocess(v) for n, v in values.items()}

    def watched(self, watch: finite.Watch) -> "Generator":
        """The same; `watch` hears of every step whether its z_0 is finite."""
        twin = copy.copy(self)
        twin._watch = watch
        return twin

    def batch_size(self, num: int) -> int:
        """How many of `num` are drawn at a time: a multiple of the devices."""
        return sharding.batch_size(self._settings.batch_size, num, self._mesh)

    def _name(self, errors: Mapping[str, Errors], guide: Denoiser | None) -> str:
        """What `draw` depends on besides its arguments; '' where that can't be said.

        As of a sampler of one's own, whose code may change.
        """
        origin = self._experiment.origin
        clip = self._clip
        parts: list[Any] = [self._step, clip.func, *guess.WAYS.values()]
        are_ours = all(part.__module__.startswith("mt_diffusion.") for part in parts)
        if not (origin and are_ours) or guide is not None:
            return ""
        measured = {
            f"{which}/{name}": x
            for which, found in errors.items()
            for name, x in found.as_arrays().items()
        }
        said = self._settings.to_json(), self._times.tolist(), clip.keywords
        return f"{origin} {said} {weights.digest(measured)}"

    @functools.partial(jax.jit, static_argnums=0)
    def draw(self, params, seed, rows, given, towards=None) -> dict[str, Array]:
        """One batch: rows [B] of all examples, given {variable: values [B, ...]}.

        params: the model's variables, or `Weights` of it and of its guide. towards:
        (another seed, angles [B]), by which noise is turned to that seed's.
        """
        with attention.compiled_for(self._mesh):
            return self._walk(params, seed, rows, given, False, towards)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def draw_and_keep(self, params, seed, rows, given):
        """The same batch, and {variable: its mean as seen by each step [S, B, ...]}."""
        with attention.compiled_for(self._mesh):
            return self._walk(params, seed, rows, given, True)

    def _walk(self, params, seed, rows, given, keep, towards=None):
        experiment, keys = self._experiment, of_rows(seed, rows)
        turned, own = None, keys  # keys of what is drawn of modalities
        if towards is not None:
            turned = of_rows(towards[0], rows), towards[1]
            own = jnp.where(towards[1] < NEARER, keys, turned[0])

        fixed = [experiment.variables[n].known(value) for n, value in given.items()]
        fixed = [known for known in fixed if known]

        def restrict(z0):
            z0 = self._clip(z0)
            for known in fixed:
                z0 = jnp.where(known.mask > 0, known.pixels, z0)
            return z0

        denoise = self._denoising.build(params, own, given, keep)

        def certain(*args):
            """Known pixels have the noise of the true posterior (method.md, eq. 39)."""
            found = denoise(*args)
            if self._watch is not None:
                fine = jnp.isfinite(found.z0).all()
                jax.debug.callback(self._watch, args[1].t, fine)
            for known in fixed:
                found = found._replace(v=jnp.where(known.mask > 0, -1.0, found.v))
            return found

        result = sampler.sample(
            keys=keys,
            shape=experiment.shape,
            denoise=certain,
            process=experiment.process,
            times=self._times,
            step=self._step,
            restrict=restrict,
            guesses={
                m.name: jnp.zeros((len(rows), *m.placeholder().shape))
                for m in experiment.modalities
                if m.name not in given
            },
            soft=self.roles.soft(given),
            repeats=self._settings.resample,
            read_from=self.roles.read_from(given),
            keep=keep,
            towards=turned,
        )
        drawn = {experiment.primary.name: result.z0} | result.values
        if result.kept is None:
            return drawn, {}
        z0, means = result.kept
        return drawn, {experiment.primary.name: z0} | dict(means or {})
