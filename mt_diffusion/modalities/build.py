"""Variables as a config names and describes them."""

import contextlib
import dataclasses
import importlib
import math
import pathlib
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mt_diffusion import trust
from mt_diffusion.errors import UserError
from mt_diffusion.protocol import DRAW, NO_DRIFT, Variable
from mt_diffusion.spaces.latents import Latents
from mt_diffusion.spaces.pixels import Pixels
from mt_diffusion.spaces.space import Shape, Space

SPACES: dict[str, type] = {"pixels": Pixels, "latents": Latents}
SPACE = "space"  # the field of variables that are images
NAMELESS = "config.modalities..."  # before a field, of a modality of whatever name
FOLDER = pathlib.Path(__file__).parent


def locate(kind: str) -> type[Variable]:
    """The class `kind`: 'label.Codebook' here, or 'package.module.Class' elsewhere.

    Raises UserError where there is no such module, or no such class in it.
    """
    module, _, name = str(kind).rpartition(".")
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


def named_code(modalities: Mapping[str, Mapping]) -> Iterator[tuple[str, str]]:
    """(field, module) of all code outside of this folder that their fields name.

    modalities: {name: fields}, as a config has them. What a class of one's own names
    is found only where that class is trusted, for it says so itself.
    """
    for name, fields in modalities.items():
        kind = fields["kind"]
        if not is_here(kind):
            yield f"config.modalities.{name}.kind", kind.rpartition(".")[0]
        for field, named in locate(kind).named_code(fields).items():
            yield f"config.modalities.{name}.{field}", named


def is_here(kind: str) -> bool:
    """Whether a class is one of this folder."""
    module = kind.rpartition(".")[0]
    return module.isidentifier() and (FOLDER / f"{module}.py").exists()


def with_added(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an earlier version's config, with those that came since.

    A class says in `added` what these were while there were none.
    """
    kind = str(fields.get("kind"))
    added = getattr(locate(kind), "added", {}) if is_here(kind) else {}
    return {**added, **fields}


def check_trusted(modalities: Mapping[str, Mapping], origin: str) -> None:
    """Raises UserError for code that they name and that is not trusted; runs none.

    origin: where their config was stored.
    """
    for field, module in named_code(modalities):
        trust.check(module, f"{field}, stored in {origin},")


def space(fields: Mapping, picture: Shape) -> Space:
    """The space of a diffusion of pictures of that shape; fields: as of a variable.

    Raises UserError for a kind that there is not, and for other fields.
    """
    where, kind = "config.primary.space", fields.get("kind")
    if kind not in SPACES:
        raise UserError(f"{where}.kind is {kind!r}; choose one of {list(SPACES)}.")
    own = {field: value for field, value in fields.items() if field != "kind"}
    check_fields(where, own, types_of(SPACES[kind], ("picture",)))
    return SPACES[kind](picture=picture, **own)


def build(
    name: str, fields: dict, shape: tuple[int, int, int], within: Space | None = None
) -> Variable:
    """The variable `name` as its config describes it: `kind` and its class's fields.

    within: the space that images are in, whose shape it is; None for that of pixels.
    """
    cls = check(name, fields, shape)
    own = {field: value for field, value in fields.items() if field != "kind"}
    if SPACE in {field.name for field in dataclasses.fields(cls)}:
        own[SPACE] = within or Pixels(picture=shape)
    return cls(name=name, shape=shape, **own)


def check(name: str, fields: Mapping, shape: Sequence[int]) -> type[Variable]:
    """The class of a variable; UserError for fields that it has not, or can't have."""
    own = {field: value for field, value in fields.items() if field != "kind"}
    cls = locate(fields.get("kind", ""))
    if name.endswith(DRAW):
        raise UserError(
            f"config.modalities.{name} can't be: names that end in {DRAW!r} are those "
            "of draws. Name it otherwise."
        )
    refuse_replaced(cls, name, own, math.prod(shape))
    check_fields(
        f"config.modalities.{name}", own, types_of(cls, ("name", "shape", SPACE))
    )
    return cls


def types_of(cls: type, without: Collection[str]) -> dict[str, Any]:
    """{field: type} of a dataclass, as Flax's modules are, too, without some."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.name not in without]
    return {name: hints[name] for name in names}


def check_fields(where: str, fields: Mapping[str, Any], wanted: Mapping) -> None:
    """Raises UserError unless these are the fields, and of these types.

    where: the section, as the user writes it. wanted: {name: type}.
    """
    if wrong := sorted(wanted.keys() ^ fields.keys()):
        raise UserError(
            f"{where} must have exactly the fields {sorted(wanted)}; "
            f"{wrong} are missing or unknown."
        )
    for name, hint in wanted.items():
        if not fits(fields[name], hint):
            kind = hint.__name__ if isinstance(hint, type) else str(hint)
            raise UserError(
                f"{where}.{name} is {fields[name]!r}; it takes a "
                f"{kind.replace('collections.abc.', '')}."
            )


def check_least(field: str, value: int, least: int) -> None:
    """Raises UserError for a value of a field that is less than that."""
    if value < least:
        raise UserError(f"{field} is {value}; it must be {least} or more.")


@contextlib.contextmanager
def called(name: str) -> Iterator[None]:
    """Names the modality in a UserError of its class's `fit`, which knows no name."""
    try:
        yield
    except UserError as error:
        said = str(error).replace(NAMELESS, f"config.modalities.{name}.")
        raise UserError(said) from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type that a config can have; True for other types.

    Of a list the first item is looked at. Floats may be whole, and truth values are no
    numbers.
    """
    origin, kinds = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, kind) for kind in kinds)
    if origin is Sequence:
        is_list = isinstance(value, tuple | list)
        return is_list and all(fits(x, kinds[0]) for x in value[:1])
    if origin is Mapping:
        is_table = isinstance(value, Mapping)
        return is_table and all(fits(x, kinds[1]) for x in value.values())
    if hint in (int, float):
        allowed = int if hint is int else int | float
        return isinstance(value, allowed) and not isinstance(value, bool)
    return hint not in (str, bool) or isinstance(value, hint)


def refuse_replaced(cls: type[Variable], name: str, fields: dict, numbers: int) -> None:
    """Raises UserError for a field of earlier versions, with what says the same now.

    numbers: D, how many an image has.
    """
    from mt_diffusion.modalities.kinds import Coded  # whose codes import this file

    now = dict.fromkeys(("drop_rate", "null_rate"), "the shares of config.presence")
    wanted = {f.name for f in dataclasses.fields(cls)}
    if "codes" in wanted:
        side = fields.get("code_side", 0)
        recipe = f"'smooth', codes.side = {side}" if side else "'white'"
        now["code_side"] = f"codes.family = {recipe}"
    if "tokens" in wanted:
        now["token_size"] = f"tokens.size = {fields.get('token_size')}"
    if issubclass(cls, Coded) and "drift_scale" in fields:
        c = float(fields.get("drift_scale", 0))
        energy = f"energy = {cls.energy_of(c, fields, numbers):g}"
        now["drift_scale"] = energy if c else f"drift = {NO_DRIFT!r}"
    for field in sorted(set(fields) & now.keys() - wanted):
        raise UserError(
            f"config.modalities.{name}.{field} = {fields[field]} is of an earlier "
            f"version; what says the same now is {now[field]}."
        )
