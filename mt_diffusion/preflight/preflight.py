"""`--mode=preflight`: will it fit, what does it cost, and how fast can it be at best.

The config's own programs are compiled for the devices here, or for a TPU slice that is
nowhere near, and the compiler is asked. Nothing is run, and no data need be here.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import jax
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import shapes_of
from mt_diffusion.files import writing
from mt_diffusion.models.unet import REMAT
from mt_diffusion.parallel import sharding
from mt_diffusion.preflight import program, tables, topology, units
from mt_diffusion.preflight.measure import Measurement, measure
from mt_diffusion.preflight.report import Report
from mt_diffusion.preflight.topology import Target
from mt_diffusion.training.step import images_per_device

MOST = 8  # images per device in the smaller program that measures memory


def preflight(
    config: ConfigDict,
    slice_name: str,
    microbatches: Sequence[float],
    out: pathlib.Path | None,
    quick: bool = False,
    all_remat: bool = False,
) -> None:
    """Prints what the config's step and sampler need; `out`: the same as JSON.

    slice_name: a TPU slice, as v5e-256; '' for the devices here. microbatches: two
    numbers of images per device at which memory is measured; empty for the config's
    own, or 8 where that has more, and twice that. quick: compile with little effort.
    all_remat: look at every config.unet.remat, and go on with the fastest that fits.
    Raises UserError where the programs do not fit, naming what helps.
    """
    target = dataclasses.replace(topology.find(slice_name), quick=quick)
    configs = with_remat(config, REMAT if all_remat else [config.unet.remat])
    found = {n: look(one, target, microbatches) for n, one in configs.items()}
    chosen = fastest(found)
    config, report = configs[chosen], found[chosen]
    if all_remat:
        print(tables.policies(found, chosen), end="\n\n")
    print(tables.text(report))
    if out:
        writing.make_folder(out.parent, f"--out={out}")
        writing.as_json(out, report.summary())
    if report.fits is False:
        raise UserError(tables.advice(report, config))


def with_remat(config: ConfigDict, names: Iterable[str]) -> dict[str, ConfigDict]:
    """{name: the config with that config.unet.remat}."""
    found = {name: config.copy_and_resolve_references() for name in names}
    for name, one in found.items():
        one.unet.remat = name
    return found


def fastest(found: Mapping[str, Report]) -> str:
    """Whose step takes least at best of those that fit, or, if none, has least memory.

    By its slowest limit, where the chip's are known, else by its operations.
    """

    def takes(report: Report) -> float:
        speed = report.images_per_second
        return report.work.flops if speed is None else -speed

    fitting = {n: takes(r) for n, r in found.items() if r.fits is not False}
    costs = fitting or {n: r.total for n, r in found.items()}
    return min(costs, key=lambda n: costs[n])


def look(config: ConfigDict, target: Target, microbatches: Sequence[float]) -> Report:
    """Compiles two microbatches, the config's own step if it may fit, and the sampler.

    Raises UserError for a config that can't be trained on these devices.
    """
    config = program.resolve(config)
    mesh = sharding.make_mesh(config.mesh.fsdp, target.devices)
    per_device = images_per_device(config, mesh.size)
    parts = config.train.num_microbatches
    own = per_device // parts
    pair = choose(own, microbatches)

    def step(images: int, parts: int) -> Measurement:
        num = images * parts * mesh.size
        lowered = program.lower_training(config, mesh, num, parts)
        return measure(lowered, target)

    experiment = experiments.build(config)
    shapes = shapes_of(experiment)
    small, large = (step(images, 1) for images in pair)
    found = dict(zip(pair, (small, large), strict=True)).get(own)
    report = Report(
        target=target,
        fsdp=config.mesh.fsdp,
        per_device=per_device,
        num_microbatches=parts,
        num_parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)),
        steps=config.sampling.num_steps,
        pair=pair,
        small=small,
        large=large,
        step=found if parts == 1 else None,
        sampler=measure(program.lower_sampling(config, mesh), target),
        filled=units.filled(experiment, target.chip.side) if target.chip else None,
    )
    if report.step is None and report.total <= (target.memory or math.inf):
        report = dataclasses.replace(report, step=step(own, parts))
    return report


def choose(own: int, wish: Sequence[float]) -> tuple[int, int]:
    """Two numbers of images per device at which memory is measured, ascending.

    Raises UserError for a wish that is no such pair.
    """
    if wish:
        if len(set(wish)) != 2 or min(wish) < 1 or any(n % 1 for n in wish):
            raise UserError(
                f"--microbatches={','.join(f'{n:g}' for n in wish)} must be two "
                "different whole numbers of images per device, as 8,16."
            )
        return int(min(wish)), int(max(wish))
    small = min(own, MOST)
    return small, 2 * small
