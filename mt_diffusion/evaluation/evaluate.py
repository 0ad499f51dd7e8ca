"""`--mode=evaluate`: how good a checkpoint is, in figures that others can check.

Each draw (a set of given variables) is sampled, shown, and asked about by the judges
of the variables; the bounds on the likelihood of test examples stand beside them.
"""

import importlib.metadata
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mt_diffusion.data import pipeline, sources
from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import begun, contents, features, judging, quality, shown
from mt_diffusion.evaluation import draws as drawing
from mt_diffusion.evaluation import reference as references
from mt_diffusion.evaluation.draws import Draw, Drawn
from mt_diffusion.evaluation.figures import (
    Metric,
    full_name,
    put_beside,
    read_baseline,
    tell,
)
from mt_diffusion.evaluation.real import Real
from mt_diffusion.experiment import exported, leak
from mt_diffusion.experiment.experiment import Experiment
from mt_diffusion.files import locks, paths, weights, writing
from mt_diffusion.inference import bounding, calibration
from mt_diffusion.inference.precompute import images_alone
from mt_diffusion.inference.restoring import prepare, restore
from mt_diffusion.inference.sampling import check_guidance, warn_of_rare_state
from mt_diffusion.parallel import sharding

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "scikit-image")
BOUND_TIMES = 20
LIKELIHOOD = "likelihood"  # in place of a draw's name


class Settings(NamedTuple):
    """What the flags of --mode=evaluate say.

    num_samples: of each draw. draws: names, as 'joint,given_label'; '' for all.
    features: of which network; weights: its file. reference: a file of --mode=reference
    or of ADM, else it is computed. baseline: a metrics.json to compare with.
    bound_examples: how many test examples the bounds are on; 0 for none.
    """

    num_samples: int
    draws: str
    features: str
    weights: str
    reference: str
    baseline: str
    bound_examples: int


def evaluate(
    workdir: pathlib.Path,
    out: pathlib.Path | None,
    settings: Settings,
    seed: int,
    overrides: dict,
    use_ema: bool,
) -> None:
    """Writes metrics.json, manifest.json, samples and pictures below `out`.

    out: a folder, workdir/evaluation/STEP where None. overrides: of the checkpoint's
    config.sampling. An evaluation that was interrupted goes on. Raises UserError for
    settings that can't be, and for a folder that holds an evaluation by other ones.
    """
    mesh = sharding.make_mesh()
    step, config, experiment, params = restore(workdir, overrides, use_ema, mesh)
    draws = drawing.choose(settings.draws, experiment)
    given = {name for draw in draws for name in draw.given}
    check_guidance(overrides, experiment, given)
    baseline = read_baseline(settings.baseline)
    build, weights = prepare(config.sampling, experiment, params, use_ema, mesh)
    root = exported.home(workdir) / "evaluation"
    cache = begun.cache_folder(root, out, f"--workdir={workdir}")
    own = root / str(step)
    writing.make_folder(out or own, f"--out={out or own}", out or root.parent)
    out = out or own
    with locks.held(out, f"--out={out}"):
        real = open_real(config, experiment, settings, cache, mesh)
        parameters: dict[str, Any] = {
            "step": step,
            "parameters": "averaged (EMA)" if use_ema else "raw",
            "parameters_digest": exported.digest(params),
        }
        manifest = parameters | describe(config, settings, seed, real)
        begun.claim(out, manifest, draws)
        test = test_examples(config, experiment, real.test, settings.num_samples, seed)
        states = build().roles.states
        for draw in draws:  # before the first one takes its time
            warn_of_rare_state(experiment, states(draw.given))
            drawing.examples_for(draw, experiment, test, settings.num_samples)

        model = (workdir, step, use_ema, config, experiment, params, mesh)
        errors = calibration.find(*model, parameters["parameters_digest"])
        generator = build(errors)
        found = []
        for draw in draws:
            num, folder = settings.num_samples, out / draw.name
            drawn = drawing.carry_out(
                draw, experiment, generator, weights, test, num, seed, folder
            )
            shown.show(drawn, experiment, folder)
            if not draw.given:
                writing.image(out / "neighbours.png", shown.neighbours(drawn, real))
            found += judge(drawn, real, config.sampling)
        if settings.bound_examples:
            bounds = likelihood(
                config, experiment, errors, params, real.test, settings, seed, mesh
            )
            found += [m.as_json(LIKELIHOOD) for m in bounds]
        put_beside(found, baseline)
        conclude(out, manifest, found, draws, settings.num_samples)


def conclude(
    out: pathlib.Path,
    manifest: dict[str, Any],
    found: Sequence[dict[str, Any]],
    draws: Sequence[Draw],
    num: int,
) -> None:
    """Writes metrics.json, and prints its table and what no judge asked about."""
    manifest["draws"] = {d.name: {"given": list(d.given), "num": num} for d in draws}
    writing.as_json(out / "metrics.json", {"manifest": manifest, "metrics": found})
    tell(found)
    for draw in draws:
        if not any(m["draw"] == draw.name for m in found):
            print(
                f"{draw.name}: no figures, for no judge asks about it; look at its grid"
            )
    print(f"wrote {out}/metrics.json, and the samples and pictures beside it")


def open_real(
    config: ConfigDict,
    experiment: Experiment,
    settings: Settings,
    root: pathlib.Path,
    mesh: Mesh,
) -> Real:
    """The data, the networks that judge, and the reference, which is kept in `root`."""
    data = images_alone(config.data)
    train = sources.open_source(data, "train")
    test = sources.open_source(config.data, "test")
    numbers = {"training images": len(train), "test images": len(test)}
    check_enough({"samples of each draw": settings.num_samples} | numbers)
    batch_size = config.sampling.batch_size
    network = features.build(settings.features, config.data, settings.weights, mesh)
    if settings.reference:
        path = paths.of(settings.reference)
    else:
        images = contents.digest(train)
        path = root / f"reference_{network.name}_{network.digest}_{images}.npz"
        if weights.kept(path) is None:
            made = references.compute(train, network, len(train), batch_size, mesh)
            references.write(path, made)
        print(f"reference: {path}")
    reference = references.read(path, network, experiment.space.picture)
    if reference.images is not None:
        check_enough({"images in the reference": len(reference.images)})
    return Real(
        experiment=experiment,
        network=network,
        classifier=network if hasattr(network, "class_names") else None,
        reference=reference,
        train=train,
        test=test,
        num=settings.num_samples,
        batch_size=batch_size,
        mesh=mesh,
    )


def check_enough(numbers: Mapping[str, int]) -> None:
    """Raises UserError where {of what: how many} are too few for their neighbours."""
    least = quality.NUM_NEIGHBOURS + 1
    for what, num in numbers.items():
        if num < least:
            raise UserError(
                f"an evaluation looks at {quality.NUM_NEIGHBOURS} neighbours, so it "
                f"needs {least} {what} or more, but there are {num}; give it more."
            )


def describe(
    config: ConfigDict, settings: Settings, seed: int, real: Real
) -> dict[str, Any]:
    """What decides the figures of a checkpoint, but for the draws."""
    return {
        "num_samples": settings.num_samples,
        "seed": seed,
        "sampling": json.loads(config.sampling.to_json()),
        "model": {
            "prediction": config.diffusion.prediction,
            "presence": json.loads(config.presence.to_json()),
            "leak": leak.of_config(config),
        },
        "features": {"name": real.network.name, "digest": real.network.digest},
        "reference": {
            "digest": real.reference.digest,
            "num_images": real.reference.num_images,
        },
        "bound_examples": settings.bound_examples,
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
    }


def test_examples(
    config: ConfigDict, experiment: Experiment, source: Any, num: int, seed: int
) -> Any:
    """A batch of the first test examples, `num` at most."""
    preprocess = pipeline.Preprocess(experiment.primary, experiment.modalities, False)
    return pipeline.first_examples(source, preprocess, min(num, len(source)), seed)


def judge(drawn: Drawn, real: Real, sampling: ConfigDict) -> list[dict[str, Any]]:
    """What all variables' judges say; guidance and number of samples in the names."""
    guidance = guidance_of(drawn.draw, real.experiment, sampling)
    return [
        metric._replace(name=full_name(metric.name, drawn.num, *guidance)).as_json(
            drawn.draw.name
        )
        for variable in real.experiment.variables.values()
        for ask in judging.of(variable)
        for metric in ask(variable, drawn, real)
    ]


def guidance_of(
    draw: Draw, experiment: Experiment, sampling: ConfigDict
) -> tuple[float, float, float]:
    """Scales of all guidance; the first two say nothing where nothing is given."""
    given = [m for m in experiment.modalities if m.name in draw.given]
    towards = (sampling.guidance, sampling.head_guidance) if given else (1.0, 0.0)
    return (*towards, sampling.autoguidance)


def likelihood(
    config: ConfigDict,
    experiment: Experiment,
    errors: calibration.Found,
    params: Any,
    source: Any,
    settings: Settings,
    seed: int,
    mesh: Mesh,
) -> list[Metric]:
    """Bounds on test examples at 20 of the times, all of them better when lower."""
    num = min(settings.bound_examples, len(source))
    times = min(BOUND_TIMES, config.diffusion.num_steps - 1)
    measure = bounding.build_measure(experiment, config.sampling, times, errors)
    size = config.sampling.batch_size
    table = bounding.measure_source(
        measure, experiment, params, source, num, size, seed, mesh
    )
    return [
        Metric(f"{n}_of_{num}", row["mean"], "lower", None, None, row["standard_error"])
        for n, row in table.items()
    ]
