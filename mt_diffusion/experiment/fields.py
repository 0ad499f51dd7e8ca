"""The fields of a config: which there are, of which type, and in which range.

What there is stands in configs/common.py; a field that is not there is read by nothing.
The fields of modalities are those of their classes (modalities/build.py).
"""

import difflib
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import shipped

KEEP = "data.keep."
# Sections whose fields have other names as well.
OPEN = ("modalities.", "presence.", "data.found.", "data.options.", KEEP) + (
    "primary.space.",
)
LONGEST = 80  # letters of a value that are shown
MOST = 1e9  # more than anybody means, and exact in floats
SEED = (0, 2**31 - 1)
COUNT = (1, MOST)
ANY_COUNT = (0, MOST)
SHARE = (0, 1)
BELOW_1 = (0, 1 - 1e-9)
SCALE = (0, 1000)  # of guidance; pictures are gone long before
RANGES = {  # where a part of the project says more of a field, it is wider
    "seed": SEED,
    "mesh.fsdp": ANY_COUNT,  # make_mesh knows which divide the devices
    "mesh.num_devices": ANY_COUNT,
    "data.keep": SHARE,
    "data.num_workers": (0, 256),
    "data.version": (0, 1000),  # the data say which there are
    "data.pair_levels": (0, 65536),
    "data.image_size": (0, 8192),  # `check` of an experiment says which fit
    "data.channels": (1, 3),
    "diffusion.num_steps": (1, 100_000),
    "diffusion.shift": (-20, 20),
    "unet.patch": (1, 64),
    "unet.model_channels": (1, 65536),
    "unet.channel_mult": (1, 1024),
    "unet.num_res_blocks": (1, 1024),
    "unet.attention_resolutions": (1, 8192),
    "unet.num_heads": (1, 65536),
    "unet.num_head_channels": (-1, 65536),  # guided-diffusion's -1 is explained
    "unet.num_groups": (1, 65536),
    "unet.transformer_depth": (0, 64),
    "unet.dropout": BELOW_1,
    "train.num_steps": COUNT,
    "train.batch_size": COUNT,
    "train.ema_decay": SHARE,
    "train.num_microbatches": COUNT,
    "train.max_skipped_in_a_row": COUNT,
    "objective.last_power": (0, 100),
    "objective.min_snr_gamma": (1e-6, MOST),
    "objective.bare_every": ANY_COUNT,
    "objective.p2_gamma": (0, 1000),
    "objective.sigmoid_bias": (-20, 20),
    "objective.variance_weight": ANY_COUNT,
    "optimizer.learning_rate": (0, 1000),
    "optimizer.warmup_steps": ANY_COUNT,
    "optimizer.final_fraction": SHARE,
    "optimizer.b1": BELOW_1,
    "optimizer.b2": BELOW_1,
    "optimizer.clip_norm": (1e-12, math.inf),  # inf: not at all
    "optimizer.weight_decay": (0, 1000),
    "watch.log_every": COUNT,
    "watch.checkpoint_every": COUNT,
    "watch.keep_checkpoints": COUNT,
    "watch.sample_every": ANY_COUNT,
    "watch.num_pictures": COUNT,
    "sampling.num_steps": COUNT,
    "sampling.batch_size": COUNT,
    "sampling.eta": SHARE,
    "sampling.resample": (1, 1000),
    "sampling.guidance": SCALE,
    "sampling.head_guidance": SCALE,
    "sampling.autoguidance": SCALE,
    "sampling.guidance_interval": (-MOST, MOST),  # guidance.py says what it wants
}


def defaults() -> ConfigDict:
    """The config that all others begin with."""
    with shipped.importable():
        from configs import common

        return common.digits()


@functools.cache
def known() -> dict[str, Any]:
    """{"a.b": default} of all fields, those of modalities aside."""
    return flatten(defaults())


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": value} of all fields that are no sections."""
    return dict(leaves(config))


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of all fields that are no sections."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check(config: ConfigDict) -> None:
    """Raises UserError for fields that nothing reads, of other types, out of range."""
    found = flatten(config)
    for name in found:
        if name not in known() and not name.startswith(OPEN):
            raise UserError(
                f"nothing would read config.{name}; the nearest field is "
                f"config.{nearest(name)}. Leave it out, or write that."
            )
    for name, default in known().items():
        if name.startswith(OPEN):
            continue
        if name not in found:
            raise UserError(
                f"config.{name} is missing; begin with common.get_config (configs/"
                f"common.py), where it is {default!r}."
            )
        check_type(name, found[name], default)
    for feature, share in config.data.keep.items():
        check_type(KEEP + feature, share, 1.0)
    for name, value in found.items():
        check_number(name, value)
    for name, section in config.modalities.items():
        if not isinstance(section, ConfigDict) or not isinstance(
            section.get("kind"), str
        ):
            raise UserError(
                f"config.modalities.{name} is {shown(section)}, and no section with a "
                "kind, such as kind = 'label.Codebook'."
            )
    for name, section in config.presence.items():
        if not isinstance(section, ConfigDict):
            said = shown(section)
            raise UserError(f"config.presence.{name} is {said}, and no section.")


def shown(value: Any) -> str:
    """A value in a line, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def nearest(name: str) -> str:
    """The field whose name is most like this one."""
    return difflib.get_close_matches(name, known(), n=1, cutoff=0)[0]


def check_type(name: str, value: Any, default: Any) -> None:
    """Raises UserError for a value of another type than the default's."""
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
    wanted = kinds.get(type(default), (tuple, list))
    fits = isinstance(value, wanted) and isinstance(value, bool) == (bool in wanted)
    if tuple in wanted and fits:
        whole = all(isinstance(x, int) for x in default)
        fits = all(is_number(x) and isinstance(x, int) >= whole for x in value)
        fits = fits or not default  # of anything
    if not fits:
        raise UserError(
            f"config.{name} is {shown(value)}, a {type(value).__name__}; it takes a "
            f"{type(default).__name__}, such as {default!r}."
        )


def is_number(value: Any) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_number(name: str, value: Any, said: str = "") -> None:
    """Raises UserError for a number, or one in a list, that a field can't have.

    name: of the field. said: how the user calls it, where that is no config.a.b.
    """
    if isinstance(value, tuple | list):
        for x in value:
            check_number(name, x, said)
    if not is_number(value):
        return
    parents = (name, name.rpartition(".")[0])
    low, high = next((RANGES[n] for n in parents if n in RANGES), (-MOST, MOST))
    if not low <= value <= high:
        wanted = f"{low:g} or more" if value < low else f"{low:g} to {high:.9g}"
        raise UserError(f"{said or f'config.{name}'} is {value}; it must be {wanted}.")


def of_this_version(config: ConfigDict, origin: str) -> ConfigDict:
    """A stored config without the fields that nothing reads; says which these are.

    origin: where it was stored.
    """
    unread = [
        (name, value)
        for name, value in leaves(config)
        if name not in known() and not name.startswith(OPEN)
    ]
    if not unread:
        return config
    said = ", ".join(f"config.{name} = {value!r}" for name, value in unread)
    print(
        f"of {origin} this version does not read, and drops: {said}. They are of "
        "another version, or of code that is not here."
    )
    kept = config.copy_and_resolve_references().unlock()
    for name, _ in unread:
        section, _, field = name.rpartition(".")
        del (kept[section] if section else kept)[field]
    return kept
