"""Variables as a config names and describes them."""

import dataclasses
import importlib
import math
from collections.abc import Sequence

from mt_diffusion.errors import UserError
from mt_diffusion.protocol import DRAW, NO_DRIFT, Variable


def locate(kind: str) -> type[Variable]:
    """The class `kind`: 'label.Codebook' here, or 'package.module.Class' elsewhere.

    Raises UserError where there is no such module, or no such class in it.
    """
    module, _, name = kind.rpartition(".")
    for path in (f"{__package__}.{module}", module or __package__):
        try:
            found = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if not path.startswith(error.name or path):
                raise  # the module is there, but something that it imports is not
        else:
            cls = getattr(found, name, None)
            if isinstance(cls, type) and issubclass(cls, Variable):
                return cls
    raise UserError(
        f"no modality {kind!r}: give FILE.Class of a file in mt_diffusion/modalities, "
        "such as 'label.Codebook', or package.module.Class of your own."
    )


def build(name: str, fields: dict, shape: Sequence[int]) -> Variable:
    """The variable `name` as its config describes it: `kind` and its class's fields."""
    fields = dict(fields)
    cls = locate(fields.pop("kind"))
    if name.endswith(DRAW):
        raise UserError(
            f"config.modalities.{name} can't be: names that end in {DRAW!r} are those "
            "of draws. Name it otherwise."
        )
    wanted = {f.name for f in dataclasses.fields(cls)} - {"name", "shape"}
    refuse_replaced(cls, name, fields, math.prod(shape))
    if wrong := sorted(wanted ^ set(fields)):
        raise UserError(
            f"config.modalities.{name} must have exactly the fields {sorted(wanted)}; "
            f"{wrong} are missing or unknown."
        )
    return cls(name=name, shape=tuple(shape), **fields)


def refuse_replaced(cls: type[Variable], name: str, fields: dict, numbers: int) -> None:
    """Raises UserError for a field of earlier versions, with what says the same now.

    numbers: D, how many an image has.
    """
    now = dict.fromkeys(("drop_rate", "null_rate"), "the shares of config.presence")
    wanted = {f.name for f in dataclasses.fields(cls)}
    if "codes" in wanted:
        side = fields.get("code_side", 0)
        recipe = f"'smooth', codes.side = {side}" if side else "'white'"
        now["code_side"] = f"codes.family = {recipe}"
    if "tokens" in wanted:
        now["token_size"] = f"tokens.size = {fields.get('token_size')}"
    if "energy" in wanted:
        c = float(fields.get("drift_scale", 0))
        energy = f"energy = {cls.energy_of(c, fields, numbers):g}"
        now["drift_scale"] = energy if c else f"drift = {NO_DRIFT!r}"
    for field in sorted(set(fields) & now.keys() - wanted):
        raise UserError(
            f"config.modalities.{name}.{field} = {fields[field]} is of an earlier "
            f"version; what says the same now is {now[field]}."
        )
