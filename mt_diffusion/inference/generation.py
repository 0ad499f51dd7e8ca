"""Samples from a network: the jitted sampler and values as people have them."""

import copy
import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from mt_diffusion.diffusion import sampler, variance
from mt_diffusion.diffusion.variance import Errors
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.experiment.presence import ABSENT, READ, UNREAD
from mt_diffusion.inference import finite, walks
from mt_diffusion.inference.believer import CONDITIONAL, JOINT, read_anew, readings
from mt_diffusion.inference.guiding import Guiding, Seen, Weights
from mt_diffusion.inference.walks import Trajectory
from mt_diffusion.modalities import guess
from mt_diffusion.models.denoiser import Denoiser
from mt_diffusion.parallel import batches, sharding
from mt_diffusion.protocol import DRAW, is_evident

# Of T: heads read an image best where it is a little noisy, and better at several t.
# Edges of digits: 0.235 of the training mean's squared error at t = 1 alone.
READ_BELOW = 0.15
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
        schedule = experiment.process.schedule
        self._step, self._times = walks.build(settings, schedule)
        self._guiding = Guiding(experiment.denoiser, settings, guide)
        variance.check(settings.variance, settings.correction)
        self._errors = errors or {}
        self._clip = sampler.build_clip(settings.clip)
        modalities = {m.name: m for m in experiment.modalities}
        self._guesses = guess.parse(settings.guess, modalities)

    def __call__(
        self, params: Any, seed: int, num: int, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """`num` examples as {variable: [num, ...]}, postprocessed.

        Of a continuous modality that is generated, the mean that its head gives stands
        under its name, and a draw under the name with DRAW after it.

        given: {variable: values [M, ...]}, repeated in turn up to num. Example i
        depends on (seed, i) and its given values alone.
        """
        return self.postprocess(self.values(params, seed, range(num), given))

    def values(
        self, params: Any, seed: int, rows: range, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Examples `rows` of all that there could be, as {variable: values}."""

        def draw(some):
            args = (params, seed, *self.placed(some, given))
            return self.checked(sharding.fetch(self.draw(*args)), args)

        return batches.through(draw, rows, self.batch_size(len(rows)))

    def trajectory(
        self,
        params: Any,
        seed: int,
        num: int,
        given: Mapping[str, np.ndarray],
        what: str | None = None,
    ) -> tuple[dict[str, np.ndarray], Trajectory]:
        """The same examples as of a call, and what each step of their walk saw.

        Of each example in a batch the devices hold S float32 images, and the host one
        batch of these, and of all examples what `Trajectory` has. Raises UserError for
        more examples than it keeps. what: before its progress; None shows none.
        """
        walks.check(num)

        def draw(some):
            args = (params, seed, *self.placed(some, given))
            drawn, kept = sharding.fetch(self.draw_and_keep(*args))
            values = {name: v[some % len(v)] for name, v in given.items()}
            seen = walks.estimates(kept, values, self._experiment)
            return self.checked(drawn, args), seen

        values, seen = batches.through(draw, range(num), self.batch_size(num), what)
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

    @functools.partial(jax.jit, static_argnums=0)
    def draw(self, params, seed, rows, given, towards=None) -> dict[str, Array]:
        """One batch: rows [B] of all examples, given {variable: values [B, ...]}.

        params: the model's variables, or `Weights` of it and of its guide. towards:
        (another seed, angles [B]), by which noise is turned to that seed's.
        """
        return self._walk(params, seed, rows, given, False, towards)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def draw_and_keep(self, params, seed, rows, given):
        """The same batch, and {variable: its mean as seen by each step [S, B, ...]}."""
        return self._walk(params, seed, rows, given, True)

    def _walk(self, params, seed, rows, given, keep, towards=None):
        experiment = self._experiment
        keys = of_rows(seed, rows)
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

        denoise = self._build_denoise(params, own, given, keep)

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
            soft=[n for n, word in self._generated(given).items() if word == "mean"],
            repeats=self._settings.resample,
            read_from=self._read_from(given),
            keep=keep,
            towards=turned,
        )
        drawn = {experiment.primary.name: result.z0} | result.values
        if result.kept is None:
            return drawn, {}
        z0, means = result.kept
        return drawn, {experiment.primary.name: z0} | dict(means or {})

    def _build_denoise(self, params, keys, given, keep=False) -> sampler.Denoise:
        """What the model says of z_t, given these values: guesses, codes, z_0."""
        denoiser = self._experiment.denoiser
        weights = params if isinstance(params, Weights) else Weights(params)
        params = weights.own
        modalities = {m.name: m for m in self._experiment.modalities}
        generated = self._generated(given)
        given = {n: v for n, v in given.items() if n in modalities}
        given_codes = denoiser.encode(params, given)
        drifting = [n for n, word in generated.items() if word != "absent"]
        read_held = [
            n for n in drifting if generated[n] == "held" and modalities[n].conditions
        ]
        here = jnp.ones(keys.shape, bool)
        known = {n: here for n in given_codes if modalities[n].conditions}
        own_keys = {n: guess.split(keys, i) for i, n in enumerate(modalities)}
        guide = self._guiding.build(weights, given, given_codes)
        fixed_v = jnp.asarray(self._places(given), jnp.float32)
        errors, process = self._errors_of(given), denoiser.process
        anew = readings(self._settings, errors, process)

        def make_guess(name, view, t, is_first, before):
            parameters, own = view.heads[name], own_keys[name]
            make = guess.GUESSES[generated[name]]
            return make(modalities[name], parameters, own, t, is_first, before)

        def tell(view, t, guesses):
            """What is reported: the head's, a draw beside it, or what was drawn."""
            found = {}
            for n, word in generated.items():
                m, parameters = modalities[n], view.heads[n]
                found[n] = guesses[n] if word == "held" else m.mean(parameters)
                if m.is_continuous:
                    # One noise for all t: what heads say is averaged, noise is not.
                    around = guess.coherent(m, parameters, own_keys[n], t, None, None)
                    found[n + DRAW] = guesses[n] if word in guess.DRAWN else around
            return found

        def denoise(z_t, step, is_first, guesses):
            t = jnp.full(keys.shape, step.t)
            held = {n: guesses[n] for n in read_held}
            codes = given_codes | denoiser.encode(params, held)
            read = known | dict.fromkeys(read_held, here & ~is_first)
            view = denoiser(params, z_t, t, codes, read, given | held)
            guesses = {
                n: make_guess(n, view, t, is_first, guesses[n]) for n in generated
            }
            fed = denoiser.encode(params, {n: guesses[n] for n in drifting})
            latents = {n: code.latent for n, code in (given_codes | fed).items()}
            u_t = step.to_comoving(z_t, latents)
            seen = Seen(z_t, step, codes, read, given | held)
            z0 = guide(seen, u_t, denoiser.z0(view, step, u_t))
            if anew is not None:
                z0 = read_anew(self._clip(z0), t, anew)
            v = jnp.full_like(z0, fixed_v[step.t]) if view.v is None else view.v
            told = tell(view, t, guesses)
            means = None
            if keep:
                means = {n: modalities[n].mean(view.heads[n]) for n in generated}
            return sampler.Denoised(z0, v, given | told, guesses, latents, means)

        return denoise

    def _read_from(self, given: Collection[str]) -> int:
        """The time from which on heads are read: of a given image, at several."""
        if self._experiment.primary.name not in given:
            return 1
        return int(READ_BELOW * self._experiment.process.schedule.num_steps)

    def _errors_of(self, given: Collection[str]) -> Errors | None:
        """What was measured where these, or as few, are given."""
        names = {m.name for m in self._experiment.modalities}
        return self._errors.get(CONDITIONAL if names <= set(given) else JOINT)

    def _places(self, given: Collection[str]) -> np.ndarray:
        """The v by t, [T + 1], of a network that learns none, with these given."""
        return variance.places(
            self._settings.variance,
            self._errors_of(given),
            self._experiment.process,
            self._times,
            {m.name for m in self._experiment.modalities} & set(given),
        )

    def _generated(self, given: Collection[str]) -> dict[str, str]:
        """{modality that is not given: its guess}.

        The first guess is drawn from p(x | z_T), which knows nothing of a given image,
        and then drifts z_t, where it is found again. So with an image given, what is
        drawn or looked for is absent instead, and read off that image.
        """
        image_given = self._experiment.primary.name in given
        found = {}
        for m in self._experiment.modalities:
            word = self._guesses[m.name]
            if image_given and (word in guess.DRAWN or is_evident(m)):
                word = "absent"
            if m.name not in given:
                found[m.name] = word
        return found

    def states(self, given: Collection[str]) -> dict[str, str]:
        """What each modality is to the network in most steps: read, unread, absent."""
        words, found = self._generated(given), {}
        for m in self._experiment.modalities:
            word = words.get(m.name, "held")  # as if it were given
            held = READ if m.conditions else UNREAD
            found[m.name] = {"absent": ABSENT, "held": held}.get(word, UNREAD)
        return found
