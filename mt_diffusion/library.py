"""The library: a trained model in a few lines of Python, and training without flags.

    import mt_diffusion

    model = mt_diffusion.load("runs/label")
    drawn = model.sample(16, given={"label": "3"}, steps=25, seed=0)
    drawn["image"]                                  # uint8 [16, H, W, C]
    model.read(drawn["image"])["label"]             # probabilities [16, K]

What a command would refuse is a ValueError with the command's words; what is no dict
of given values, a TypeError. The same seed gives what the command gives.
"""

import json
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from ml_collections import ConfigDict

from mt_diffusion import trust as trusted
from mt_diffusion.errors import UserError, as_arguments, in_words
from mt_diffusion.experiment import exported, programs
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import paths
from mt_diffusion.inference import bounding, calibration, reading, sampling
from mt_diffusion.inference.generation import Generator
from mt_diffusion.inference.given import as_batch, take, with_settings
from mt_diffusion.inference.restoring import prepare, quietly, restore
from mt_diffusion.inference.walks import Trajectory
from mt_diffusion.parallel import sharding


def load(
    workdir: str | pathlib.Path,
    step: int | None = None,
    ema: bool = True,
    trust: Sequence[str] = (),
    autoencoder: str = "",
    elsewhere: Mapping[str, str] | None = None,
):
    """The `Model` of a run, of an exported one, or of one that comes with the package.

    workdir: its folder, also gs://..., or a name, as "digits". step: of a checkpoint;
    None for the newest. ema: whether its parameters are the averaged ones. trust:
    modules outside of this package that its config may name and that then run, in this
    process from here on. autoencoder: where that of latents is now; elsewhere: encoders
    as {"modalities.text.encoder": FOLDER}. Raises ValueError where there is none.
    """
    programs.keep()
    mesh = sharding.make_mesh()
    moved = {"primary.space.autoencoder": autoencoder} if autoencoder else {}
    moved |= elsewhere or {}
    with in_words(), quietly():
        trusted.ask(trust)
        folder = exported.find(workdir)
        step, config, experiment, params = restore(folder, moved, ema, mesh, step)
    return Model(folder, step, config, experiment, params, ema)


def train(
    config: ConfigDict | str,
    workdir: str | pathlib.Path,
    callback: Callable[[int, dict[str, float]], object] | None = None,
    trust: Sequence[str] = (),
    log: str = "",
) -> None:
    """Trains, or continues, as the command does.

    config: a ConfigDict, or NAME or NAME:PRESET of a shipped one, or FILE.py:PRESET.
    workdir: where checkpoints and metrics go. callback: (no autoencoder has one) called
    with the step and {name: loss} every config.watch.log_every steps; when it returns
    True the run ends there, with a checkpoint, from which the same call goes on. What
    it raises ends the run as well, without one. trust: modules that a stored config
    (init_from, guide) or a data set may name, beside those that `config` does. log: as
    of the command's --log; '' for the usual one. Raises ValueError for what can't be.
    """
    from mt_diffusion.command import parsing
    from mt_diffusion.training import loop
    from mt_diffusion.training.autoencoder import fit

    programs.keep()
    with in_words():
        trusted.ask(trust)
        config = parsing.config_of(config) if isinstance(config, str) else config
        more = {"log": log} if log else {}
        if fit.is_one(config):
            fit.train(config, paths.of(workdir), **more)
        else:
            loop.train(config, paths.of(workdir), callback, **more)


class Model:
    """A trained model.

    step: of its checkpoint. config: resolved. experiment: its parts, as `process`,
    `network` and `denoiser` (both as a function of z_t). params: the network's.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int,
        config: ConfigDict,
        experiment: Experiment,
        params: Any,
        ema: bool,
    ):
        self.workdir, self.step, self.config = workdir, step, config
        self.experiment, self.params = experiment, params
        self._ema, self._mesh = ema, sharding.make_mesh()
        self._generators: dict[str, tuple] = {}  # by settings: a second call compiles
        self._measures: dict[int, Any] = {}  # nothing
        self._reader: Any = None
        self._warned: set[str] = set()

    @property
    def network(self):
        """The Flax module: encoders, the shared U-Net, heads."""
        return self.experiment.network

    @property
    def process(self):
        """The aggregated diffusion process."""
        return self.experiment.process

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """{modality: its classes in order}, of those that have any."""
        modalities = self.experiment.modalities
        found = {m.name: getattr(m, "class_names", ()) for m in modalities}
        return {name: tuple(names) for name, names in found.items() if names}

    @overload
    def sample(
        self,
        num: int | None = None,
        given: Mapping[str, Any] | None = None,
        *,
        trajectory: Literal[True],
        **settings: Any,
    ) -> tuple[dict[str, np.ndarray], Trajectory]: ...

    @overload
    def sample(
        self,
        num: int | None = None,
        given: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, np.ndarray]: ...

    def sample(
        self,
        num: int | None = None,
        given: Mapping[str, Any] | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        first: int = 0,
        trajectory: bool = False,
        **settings: Any,
    ) -> Any:
        """Examples {variable: [num, ...]}: images uint8, labels int32, vectors float32.

        num: None for 16, or one of each given value where these are more. given:
        {variable: a value, or several}: class names or numbers, uint8 arrays or PIL
        images, (images, seen) or images with alpha for a masked image, vectors. steps:
        of the walk; None for the config's. first: the number of the first example, of
        all that the seed has; each depends on its number and its given values alone.
        trajectory: whether it is (examples, `walks.Trajectory`) that is returned, the
        examples being the same, of 64 at most. settings: other fields of
        config.sampling, as guidance=2.0. Warns of a state that training hardly had.
        """
        with in_words():
            values = take(given or {}, self.experiment)
            if num is None:
                num = max([sampling.NUM_SAMPLES, *map(len, values.values())])
            wishes = settings | ({} if steps is None else {"num_steps": steps})
            sampling.check_guidance(wishes, self.experiment, list(values))
            sampling.check_resample(wishes, self.experiment, values)
            generator, weights = self._generator(wishes)
            said = sampling.rare_state(self.experiment, generator.roles.states(values))
            if said and said not in self._warned:
                self._warned.add(said)
                warnings.warn(as_arguments(said), stacklevel=2)
            if trajectory:
                rows = range(first, first + num)
                return generator.trajectory(weights, seed, rows, values)
            return generator(weights, seed, num, values, first)

    def read(self, images: Any, *, seed: int = 0) -> dict[str, np.ndarray]:
        """What the heads say of images: {modality: means [N, ...]}.

        Probabilities of classes, in the order of `names`; vectors and images as the
        model has them. images: uint8 [N, H, W, C] or PIL. Averaged over the noise
        levels that --mode=read chose for this checkpoint, else over six low ones.
        """
        with in_words():
            z0 = self.experiment.primary.take(images)
        facts = {"step": self.step, "averaged": self._ema}
        levels = reading.levels(self.workdir, facts, self.experiment)
        if self._reader is None:
            size = self.config.sampling.batch_size
            args = self.experiment, self.params, size, self._mesh
            self._reader = reading.build_reader(*args)
        return reading.averaged(self._reader, z0, levels, seed)

    def bound(
        self, images: Any, *, num_times: int | None = None, seed: int = 0, **values: Any
    ) -> dict[str, np.ndarray]:
        """Bounds on the likelihood of each example: {term with its unit: [N]}.

        images: uint8 [N, H, W, C] or PIL. values: of modalities, as label=[3, 5]; what
        is left out counts as missing. num_times: how many of 2..T each is looked at.
        """
        with in_words():
            experiment = self.experiment
            known = take({experiment.primary.name: images} | values, experiment)
            most = self.process.schedule.num_steps - 1
            num_times = bounding.at_most("num_times", num_times, most, "steps after 1")
            batch = as_batch(known, self.experiment)
            if num_times not in self._measures:
                args = experiment, self.config.sampling, num_times
                measure = bounding.build_measure(*args, self._errors(self.config))
                self._measures[num_times] = measure
            measure = self._measures[num_times]
        size = self.config.sampling.batch_size
        return bounding.of_batch(measure, self.params, batch, size, seed, self._mesh)

    def evaluate(
        self,
        num_samples: int = 5000,
        draws: str = "",
        *,
        out: str | pathlib.Path | None = None,
        seed: int = 0,
        features: str = "convnet",
        weights: str = "",
        bound_examples: int = 256,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        """The figures that --mode=evaluate writes, each with its error and its marks.

        num_samples: of each draw. draws: as 'joint,given_label'; '' for all. out: where
        samples, pictures and metrics.json go; None for workdir/evaluation/STEP. Goes on
        where it was interrupted. Of the newest checkpoint alone.
        """
        from mt_diffusion.evaluation import evaluate

        asked = (num_samples, draws, features, weights, "", "", bound_examples)
        wishes = evaluate.Settings(*asked)
        with in_words():
            folder = paths.of(out) if out else None
            evaluate.evaluate(self.workdir, folder, wishes, seed, settings, self._ema)
        folder = folder or exported.home(self.workdir) / "evaluation" / str(self.step)
        return json.loads((folder / "metrics.json").read_text("utf-8"))["metrics"]

    def export(
        self,
        path: str | pathlib.Path,
        *,
        format: str = "own",
        dtype: str = "float32",
        license: str = "",
        push: str = "",
        with_captions: bool = False,
    ) -> None:
        """Writes the model for others to read; `load` reads own and hub.

        path: a new folder, or for adm a new file .safetensors or .npz. format: own;
        hub, which is own without paths of this machine; adm, the U-Net by
        guided-diffusion's names. dtype: float32, float16 or bfloat16. license: for the
        card. Of hub alone: push, USER/NAME there, to upload to; with_captions, whether
        those of training data go along.
        """
        from mt_diffusion.report import export

        with in_words():
            if not self._ema:
                raise UserError(
                    "the averaged parameters are exported: load it without ema=False."
                )
            args = (self.workdir, self.step, self.config, self.experiment, self.params)
            model, out = export.Trained(*args, self._mesh), paths.of(path)
            export.export(model, out, format, dtype, license, push, with_captions)

    def _generator(self, wishes: Mapping[str, Any]) -> tuple[Generator, Any]:
        key = repr(sorted(wishes.items()))
        if key not in self._generators:
            config = with_settings(self.config, wishes)
            args = self.experiment, self.params, self._ema, self._mesh
            build, weights = prepare(config.sampling, *args)
            self._generators[key] = build(self._errors(config)), weights
        return self._generators[key]

    def _errors(self, config: ConfigDict) -> calibration.Found:
        args = (config, self.experiment, self.params, self._mesh)
        return calibration.find(self.workdir, self.step, self._ema, *args)
