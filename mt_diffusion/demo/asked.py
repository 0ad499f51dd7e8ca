"""What a visitor asks for: which values are given, and how the rest is made.

Pure: what the page shows as a link, a command and lines of Python is made here, and
read back here.
"""

import dataclasses
import io
import shlex
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import PIL.Image
from ml_collections import ConfigDict

from mt_diffusion.diffusion import solvers
from mt_diffusion.errors import UserError
from mt_diffusion.files.names import shown
from mt_diffusion.protocol import Variable

NUMBERS = (4, 8, 16, 32)  # of pictures
STEPS = 25  # where the config has more: a picture comes at once
MOST_STEPS, MOST_GUIDANCE = 250, 8.0
MOST_SEED = 2**31 - 1
LONGEST = 80  # letters of what a link says that are shown again
ALPHA = {2: "LA", 4: "RGBA"}
HIDDEN, SEEN = 0, 255

Given = Mapping[str, Any]  # {variable: a class or words, uint8 [H, W, C], floats [D]}


class Part(NamedTuple):
    """A variable, as far as a page can show it and have it given.

    classes: names to choose from. is_picture: it is shown as one, and can be dropped
    in. hides: a picture that can be known in part, [H, W, C + alpha] where it is given.
    size: of a vector that can be typed, else 0. words: whether it is given in words.
    """

    name: str
    classes: tuple[str, ...]
    is_picture: bool
    hides: bool
    size: int
    words: bool = False


def part_of(variable: Variable) -> Part:
    """Follows from the values that the variable has, whatever it is called."""
    value = variable.placeholder()[None]
    item = np.asarray(variable.postprocess(value))
    classes = tuple(str(name) for name in getattr(variable, "class_names", ()))
    known = variable.known(jnp.asarray(value))
    hides = known is not None and not bool(np.all(known.mask))
    words = type(variable).nearest is not Variable.nearest
    size = item.shape[-1] if item.ndim == 2 and not (classes or words) else 0
    return Part(variable.name, classes, item.ndim == 4, hides, size, words)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How it is made: number of pictures, and what config.sampling has."""

    num: int
    steps: int
    sampler: str
    guidance: float
    seed: int


def defaults(config: ConfigDict) -> Settings:
    """Of a model, by its own config."""
    own = config.sampling
    steps = min(STEPS, own.num_steps)
    guidance = min(float(own.guidance), MOST_GUIDANCE)
    return Settings(NUMBERS[1], steps, own.sampler, guidance, 0)


def wishes(
    settings: Settings, given: Given, parts: Mapping[str, Part]
) -> dict[str, Any]:
    """What `model.sample` is told beside num and given.

    Guidance is towards a modality that is given, and left out where there is none.
    """
    primary = next(iter(parts))
    found = {"steps": settings.steps, "sampler": settings.sampler}
    if set(given) - {primary}:
        found["guidance"] = settings.guidance
    return found | {"seed": settings.seed}


def settings(values: Mapping[str, Any]) -> Settings:
    """What a visitor set. Raises UserError for what can't be, which names it."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = POSSIBLE[name](value)
        except (ValueError, TypeError) as error:
            raise UserError(f"{name} can't be {value}; choose another.") from error
    return Settings(**found)


def _one_of(kind: type, possible: Sequence) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        return possible[list(possible).index(kind(value))]

    return check


def _within(kind: type, least: float, most: float) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        found = kind(value)
        if not least <= found <= most:
            raise ValueError(f"{found} is not from {least} to {most}")
        return found

    return check


SAMPLERS = list(solvers.STEPS)
POSSIBLE: dict[str, Callable[[Any], Any]] = {
    "num": _one_of(int, NUMBERS),
    "steps": _within(int, 1, MOST_STEPS),
    "sampler": _one_of(str, SAMPLERS),
    "guidance": _within(float, 0, MOST_GUIDANCE),
    "seed": _within(int, 0, MOST_SEED),
}


# A link


def link(settings: Settings, given: Given) -> str:
    """The settings, and the classes and words given, as the query of an address.

    Pictures are in no link: they stay with who dropped them in.
    """
    words = {f"given.{n}": v for n, v in given.items() if isinstance(v, str)}
    plain = {n: _plain(value) for n, value in vars(settings).items()}
    return urllib.parse.urlencode(plain | words)


def read_link(
    query: Mapping[str, str], start: Settings, parts: Mapping[str, Part]
) -> tuple[Settings, dict[str, str], list[str]]:
    """(settings, what is given in words, what means nothing here) of a link's query."""
    found, given, wrong = dataclasses.asdict(start), {}, []
    for word, text in query.items():
        name = word.removeprefix("given.")
        if word in POSSIBLE:
            try:
                found[word] = POSSIBLE[word](text)
            except ValueError:
                wrong.append(f"{word}={text}")
        elif name != word:
            if name in parts and (parts[name].words or text in parts[name].classes):
                given[name] = text
            else:
                wrong.append(f"{word}={text}")
    return Settings(**found), given, [shown(text[:LONGEST]) for text in wrong]


# What is given


def painted(pixels: np.ndarray, view: Any) -> np.ndarray | None:
    """A picture without what was painted away, as of `hide`; None if nothing was.

    pixels: uint8 [H, W, C]. view: of the page's canvas, {hidden: a 0 or 1 for each}.
    Raises UserError for what is none of its.
    """
    letters = view.get("hidden") if isinstance(view, Mapping) else None
    size = pixels.shape[0] * pixels.shape[1]
    if not isinstance(letters, str) or len(letters) != size or set(letters) - {*"01"}:
        raise UserError("what was painted is of another picture; load the page anew.")
    hidden = np.array([letter == "1" for letter in letters]).reshape(pixels.shape[:2])
    return hide(pixels, hidden) if hidden.any() else None


def hide(pixels: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C + 1] of an image under a mask [H, W]; what is hidden is black."""
    alpha = np.where(hidden, HIDDEN, SEEN).astype(np.uint8)[..., None]
    return np.concatenate([np.where(alpha > 0, pixels, 0).astype(np.uint8), alpha], -1)


def vector(text: str | None, part: Part) -> np.ndarray | None:
    """Numbers that were typed; None for none. Raises UserError for too many or few."""
    words = (text or "").replace(",", " ").split()
    if not words:
        return None
    try:
        found = np.array([float(word) for word in words], np.float32)
    except ValueError as error:
        raise UserError(f"{part.name} is made of numbers: {error}.") from error
    if len(found) != part.size or not np.isfinite(found).all():
        raise UserError(
            f"{part.name} has {part.size} finite numbers, and {len(found)} were typed."
        )
    return found


# The same thing elsewhere


def files(given: Given) -> dict[str, bytes]:
    """{name: content} of the files that the command and the lines of Python read."""
    found = {}
    for name, value in given.items():
        if not isinstance(value, str):
            found[file_of(name, value)] = png(value) if value.ndim == 3 else npy(value)
    return found


def file_of(name: str, value: np.ndarray) -> str:
    """What a given picture or vector is called when it is downloaded."""
    return f"given_{name}.{'png' if value.ndim == 3 else 'npy'}"


def png(pixels: np.ndarray) -> bytes:
    """Of uint8 [H, W, 1 to 4]; 2 and 4 channels have alpha."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, "PNG"
    )
    return file.getvalue()


def npy(vector: np.ndarray) -> bytes:
    """Of an array."""
    file = io.BytesIO()
    np.save(file, vector)
    return file.getvalue()


def command(
    model: str, settings: Settings, given: Given, parts: Mapping[str, Part]
) -> str:
    """The shell's command that makes the same. model: as --workdir has it."""
    words = ["python -m mt_diffusion.main --mode=sample", f"--workdir={model}"]
    words.append(f"--num_samples={settings.num}")
    wished = wishes(settings, given, parts)
    words += [f"--{name}={_plain(value)}" for name, value in wished.items()]
    for name, value in given.items():
        text = value if isinstance(value, str) else file_of(name, value)
        words.append(f"--given={name}={text}")
    first, *rest = words
    return " \\\n    ".join([first, *map(shlex.quote, rest)])


def python(
    model: str, settings: Settings, given: Given, parts: Mapping[str, Part]
) -> str:
    """Lines of Python that make the same. model: as `load` takes it."""
    imports, values = ["import mt_diffusion"], []
    for name, value in given.items():
        text = repr(value)
        if not isinstance(value, str):
            is_picture = value.ndim == 3
            imports.append("import PIL.Image" if is_picture else "import numpy as np")
            opened = "PIL.Image.open" if is_picture else "np.load"
            text = f"{opened}({file_of(name, value)!r})"
        values.append(f"{name!r}: {text}")
    words = [str(settings.num)]
    words += [f"given={{{', '.join(values)}}}"] if values else []
    wished = wishes(settings, given, parts)
    words += [f"{name}={_plain(value)!r}" for name, value in wished.items()]
    lines = [*dict.fromkeys(imports), f"model = mt_diffusion.load({model!r})"]
    return "\n".join([*lines, f"drawn = model.sample({', '.join(words)})"]) + "\n"


def _plain(value: Any) -> Any:
    """A number without a fraction that is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
