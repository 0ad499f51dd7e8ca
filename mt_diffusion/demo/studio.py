"""The model behind the page: it draws some at a time, reads, walks, takes files in."""

import functools
import pathlib
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mt_diffusion.demo import asked, shown
from mt_diffusion.demo.asked import Given, Part, Settings
from mt_diffusion.errors import UserError
from mt_diffusion.files import images
from mt_diffusion.inference import sampling
from mt_diffusion.library import Model

AT_ONCE = 4  # so that something is seen soon, and that cancelling is heard
MOST_PROGRAMS = 50  # compiled ones that are kept; a visitor may ask for many

Examples = dict[str, np.ndarray]


class Studio:
    """A model and what a page does with it.

    model: as of `load`. name: what it is called on a command line.
    """

    def __init__(self, model: Model, name: str):
        self.model, self.name = model, name
        self.variables = model.experiment.variables
        self.parts: dict[str, Part] = {
            n: asked.part_of(v) for n, v in self.variables.items()
        }
        self.defaults = asked.defaults(model.config)
        self._programs: set = set()
        self._busy = threading.Lock()

    @property
    def primary(self) -> str:
        """The variable that is always a picture, and can be read."""
        return self.model.experiment.primary.name

    def warm(self) -> None:
        """Makes the programs of a first click: nothing, a class, a part is given."""
        half = np.arange(len(self.first))[:, None] * 2 >= len(self.first)
        hidden = np.broadcast_to(half, self.first.shape[:2])
        for part in self.parts.values():
            if part.classes:
                next(self.draw(self.defaults, {part.name: part.classes[0]}))
            elif part.hides:
                given = {part.name: asked.hide(self.first, hidden)}
                next(self.draw(self.defaults, given))

    @functools.cached_property
    def first(self) -> np.ndarray:
        """The picture that a page begins with."""
        return self.one(0)

    def one(self, seed: int) -> np.ndarray:
        """A picture from nothing, uint8 [H, W, C]."""
        settings = Settings(**vars(self.defaults) | {"seed": seed})
        return next(self.draw(settings, {}))[self.primary][0]

    def is_new(self, settings: Settings, given: Given, what: str = "draw") -> bool:
        """Whether a program for these has to be made first, which takes seconds."""
        return self._key(settings, given, what) not in self._programs

    def _key(self, settings: Settings, given: Given, what: str = "draw") -> tuple:
        asked_for = asked.wishes(settings, given, self.parts)
        return (what, *given, *(v for n, v in asked_for.items() if n != "seed"))

    def _sample(self, key: tuple, num: int, **wishes: Any) -> Any:
        """`model.sample`, one at a time: who was cancelled may be compiling yet."""
        with self._busy:
            if len(self._programs) >= MOST_PROGRAMS:
                jax.clear_caches()
                self._programs.clear()
            found = self.model.sample(num, **wishes)
            self._programs.add(key)
            return found

    def draw(self, settings: Settings, given: Given) -> Iterator[Examples]:
        """All examples so far, again and again until there are `num`."""
        wishes, found = asked.wishes(settings, given, self.parts), []
        key = self._key(settings, given)
        for first in range(0, settings.num, AT_ONCE):
            more = self._sample(key, AT_ONCE, given=given, first=first, **wishes)
            found.append(more)
            yield {n: np.concatenate([f[n] for f in found]) for n in found[0]}

    def read(self, pixels: np.ndarray) -> Examples:
        """What the heads say of one picture: {modality: its mean}."""
        with self._busy:
            return {n: mean[0] for n, mean in self.model.read(pixels).items()}

    def take_in(self, path: str | pathlib.Path) -> np.ndarray:
        """A file that was dropped in, at the model's size; the file is removed.

        Raises UserError for what is no picture.
        """
        path = pathlib.Path(path)
        try:
            return images.read_image(path, self.model.experiment.space.picture)
        except UserError as error:
            raise UserError(str(error).replace(str(path), path.name)) from None
        finally:
            path.unlink(missing_ok=True)

    def files(
        self, settings: Settings, given: Given, examples: Examples
    ) -> dict[str, bytes]:
        """What the command writes beside single pictures, and what it reads."""
        texts = {
            name: [value if isinstance(value, str) else asked.file_of(name, value)]
            for name, value in given.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "samples").mkdir()
            experiment, seed = self.model.experiment, settings.seed
            sampling.write(place, examples, experiment, texts, seed)
            written = ("grid.png", "samples.npz", "samples.csv")
            found = {name: (place / name).read_bytes() for name in written}
        return found | asked.files(given)

    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """{variable: its classes}, of those that have some."""
        return {n: p.classes for n, p in self.parts.items() if p.classes}

    def walk(self, settings: Settings, given: Given) -> shown.Walk:
        """How one example comes about."""
        wishes = asked.wishes(settings, given, self.parts)
        key = self._key(settings, given, "walk")
        _, seen = self._sample(key, 1, given=given, trajectory=True, **wishes)
        is_shown = lambda n: self.parts[n].is_picture  # noqa: E731
        return shown.Walk(
            seen.t,
            {n: x[:, 0] for n, x in seen.values.items() if is_shown(n)},
            {n: x[:, 0] for n, x in seen.values.items() if self.parts[n].classes},
        )
