"""Starting a new run from trained parameters: another run's, ADM's, or SD's."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.checkpoint import Checkpoints
from mt_diffusion.experiment.experiment import shapes_of
from mt_diffusion.experiment.exported import dotted
from mt_diffusion.experiment.fields import flatten
from mt_diffusion.files import paths, weights
from mt_diffusion.models import adm
from mt_diffusion.models.adm import Path
from mt_diffusion.models.mt_diffusion import TABLES
from mt_diffusion.models.sd import saved as sd
from mt_diffusion.training.resume import differences
from mt_diffusion.training.state import TrainState

ADM, SD = "adm:", "sd:"
UNET = ("params", "unet")
SHAPING = ("unet.", "modalities.", "data.image_size", "data.channels", "primary.space.")
MEANING = (
    "unet.",
    "modalities.",
    "diffusion.",
    "primary.space.",
)  # of parameters of the same shapes
CLASS_NAMES = ".class_names"
MOST = 3  # names that are written out

ADM_REMEDY = (
    "config.unet must be as the checkpoint was trained: model_channels, channel_mult, "
    "num_res_blocks, attention_resolutions, use_scale_shift_norm, resblock_updown; "
    "out_2 follows learn_variance (true in ADM's released models) and "
    "input_blocks_0_0 the planes of modalities that condition (conditions=false), "
    "both of them config.data.channels."
)
SD_REMEDY = (
    "attn2 follows the size of the tokens (768 for Stable Diffusion 1.x, 1024 for 2.x: "
    "tokens.size of every modality), out_2 learn_variance=false, and input_blocks_0_0 "
    "the channels of latents and the planes of modalities (conditions=false has none)."
)


def load(config: ConfigDict, shapes: Any) -> dict[Path, np.ndarray]:
    """{path: parameter} of config.init_from that a network of these shapes has.

    {} without an init_from. Prints what is loaded, new, and unused, and the fields that
    differ from the other run's. Raises UserError where there is nothing to load, where
    a parameter has another shape, and for the same classes in another order.
    What ADM's shapes do not show must be right by itself: num_heads,
    use_new_attention_order and num_groups, and the diffusion's schedule.
    """
    if not config.init_from:
        return {}
    notes = []
    if config.init_from.startswith(ADM):
        file = paths.of(config.init_from.removeprefix(ADM))
        origin, source, remedy = str(file), from_adm(file, shapes), ADM_REMEDY
    elif config.init_from.startswith(SD):
        folder = sd.find(pathlib.Path(config.init_from.removeprefix(SD)).expanduser())
        origin, source, remedy = str(folder), from_sd(folder, config, shapes), SD_REMEDY
        notes = [f"{'differs':>20}: {line}" for line in other_noise(config, folder)]
    else:
        workdir = exported.find(config.init_from)
        step, saved, source = from_workdir(workdir)
        origin = f"{workdir}, step {step:,}, averaged (EMA) parameters"
        remedy = other_fields(config, saved)
        check_order(config, saved)
        lines = other_meaning(config, saved) + other_codes(config, saved)
        notes = [f"{'differs':>20}: {line}" for line in lines]
    wanted = flatten_dict(shapes)
    check_shapes(origin, source, wanted, remedy)
    print("\n".join([report(origin, source, wanted), *notes]))
    return {path: source[path] for path in source.keys() & wanted.keys()}


def begin(state: TrainState, loaded: Mapping[Path, np.ndarray]) -> TrainState:
    """The state with loaded parameters and averages, where its own were; two copies."""

    def replaced(own: Any) -> Any:
        flat = flatten_dict(own)
        for path, value in loaded.items():
            # A copy, for on a CPU what is put may be the host's array itself (even
            # with may_alias=False), and the step donates both trees.
            flat[path] = jnp.copy(jax.device_put(value, flat[path].sharding))
        return unflatten_dict(flat)

    return state.replace(
        params=replaced(state.params), ema_params=replaced(state.ema_params)
    )


def from_workdir(
    workdir: pathlib.Path,
) -> tuple[int, ConfigDict, dict[Path, np.ndarray]]:
    """(step, config, averaged parameters) of a run's newest whole checkpoint.

    Or of an exported model.
    """
    if exported.is_one(workdir):
        step, config, params = exported.read(workdir)
        return step, config, flatten_dict(params)

    def abstract(config: ConfigDict) -> dict[str, Any]:
        experiment = experiments.build(config)
        shapes = shapes_of(experiment)
        on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)
        return {"ema_params": on_host}

    found = Checkpoints(workdir).newest(abstract) if workdir.is_dir() else None
    if found is None:
        there = "has no checkpoint" if workdir.is_dir() else "is no folder"
        raise UserError(
            f"config.init_from = {workdir} {there}; give the workdir of a run that has "
            f"written a checkpoint, an exported model, {ADM}FILE for one of "
            f"guided-diffusion, or {SD}FOLDER for a Stable Diffusion."
        )
    step, config, state = found
    return step, config, flatten_dict(state["ema_params"])


def from_adm(file: pathlib.Path, shapes: Any) -> dict[Path, np.ndarray]:
    """A guided-diffusion state dict; names that the U-Net has not keep their words."""
    state, unet = weights.read(file), shapes["params"]["unet"]
    known = {UNET + path: weight for path, weight in adm.match(state, unet).items()}
    names = adm.unread(state, unet)
    return known | {UNET + tuple(name.split(".")): state[name] for name in names}


def from_sd(
    folder: pathlib.Path, config: ConfigDict, shapes: Any
) -> dict[Path, np.ndarray]:
    """Stable Diffusion's U-Net; names that the U-Net has not keep their words."""
    known, rest = sd.load(folder, config.unet.to_dict(), shapes["params"]["unet"])
    unread = {tuple(name.split(".")): weight for name, weight in rest.items()}
    return {UNET + path: weight for path, weight in (known | unread).items()}


def other_noise(config: ConfigDict, folder: pathlib.Path) -> list[str]:
    """Lines of what differs from the noise that a Stable Diffusion was trained with."""
    return [
        f"config.diffusion.{name}: {config.diffusion[name]!r} here, {there} there"
        for name, (there, same) in sd.noise_of(folder).items()
        if config.diffusion[name] not in same
    ]


def check_shapes(
    origin: str,
    source: Mapping[Path, np.ndarray],
    wanted: Mapping[Path, Any],
    remedy: str,
) -> None:
    """Raises UserError where a parameter differs in shape, or none is wanted."""
    common = sorted(source.keys() & wanted.keys())
    if not common:
        raise UserError(
            f"nothing in {origin} is called as this network's parameters: it has "
            f"{shortened(map(dotted, source))}."
        )
    wrong = [
        f"{dotted(path)} has shape {source[path].shape} there and "
        f"{wanted[path].shape} here"
        for path in common
        if source[path].shape != wanted[path].shape
    ]
    if wrong:
        raise UserError(f"{origin} does not fit: {shortened(wrong)}. {remedy}")


def other_fields(config: ConfigDict, saved: ConfigDict) -> str:
    """What to do about shapes that differ from those of a run of the config `saved`."""
    changed = [
        f"config.{name} ({values})"
        for name, values in differences(config, saved).items()
        if name.startswith(SHAPING)
    ]
    return (
        f"The two configs differ in {', '.join(changed) or 'their data'}. Set what "
        "gives these shapes as it is there; a modality under another name starts anew."
    )


def other_meaning(config: ConfigDict, saved: ConfigDict) -> list[str]:
    """Lines of what differs from the run `saved`, in parts that both runs have."""
    there = set(flatten(saved.to_dict()))
    return [
        f"config.{name}: {values}"
        for name, values in differences(config, saved).items()
        if name.startswith(MEANING) and name in there
    ]


def other_codes(config: ConfigDict, saved: ConfigDict) -> list[str]:
    """Lines of modalities of both runs whose fixed codes are not those there."""
    here, there = (experiments.build(c).tables.get(TABLES, {}) for c in (config, saved))
    return [
        f"config.modalities.{name}: its codes, by its recipe or by other modalities "
        "(a new one with codes.seed = 1 changes none)"
        for name in sorted(here.keys() & there.keys())
        if not all(np.array_equal(x, there[name].get(n)) for n, x in here[name].items())
    ]


def check_order(config: ConfigDict, saved: ConfigDict) -> None:
    """Raises UserError where the saved classes are here in another order."""
    here, there = (flatten(c.modalities.to_dict()) for c in (config, saved))
    for name in here.keys() & there.keys():
        if not name.endswith(CLASS_NAMES):
            continue
        ours, theirs = list(here[name]), list(there[name])
        if ours != theirs and sorted(ours) == sorted(theirs):
            raise UserError(
                f"config.modalities.{name} has the classes of {config.init_from} in "
                f"another order ({shortened(ours)}; there {shortened(theirs)}), and "
                "its parameters mean them by their place. Give class_names in that "
                "order, with data whose labels count as they do."
            )


def report(
    origin: str, source: Mapping[Path, np.ndarray], wanted: Mapping[Path, Any]
) -> str:
    """Lines of how many parameters are loaded, new and unused, by top module."""
    both = source.keys() & wanted.keys()
    parts = {
        "loaded": {path: wanted[path] for path in both},
        "new, as initialised": {p: wanted[p] for p in wanted.keys() - both},
        "unused": {path: source[path] for path in source.keys() - both},
    }
    lines = [f"starting from {origin}"]
    for title, arrays in parts.items():
        lines += [f"{title:>20}: {line}" for line in by_module(arrays) or ["none"]]
    return "\n".join(lines)


def by_module(arrays: Mapping[Path, Any]) -> list[str]:
    """'unet: 203,345 in 82 arrays: conv.bias, ...' for each top module."""
    modules: dict[str, list[Path]] = {}
    for path in sorted(arrays):
        modules.setdefault(path[1], []).append(path)
    return [
        f"{name}: {sum(int(np.prod(arrays[p].shape)) for p in paths):,} in "
        f"{len(paths)} arrays ({shortened(map(dotted, paths))})"
        for name, paths in modules.items()
    ]


def shortened(texts: Iterable[str]) -> str:
    """The first few of some texts, and how many more there are."""
    texts = list(texts)
    more = f", and {len(texts) - MOST} more" if len(texts) > MOST else ""
    return ", ".join(texts[:MOST]) + more
