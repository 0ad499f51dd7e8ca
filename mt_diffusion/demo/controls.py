"""The controls by which one variable is given, as far as it can be."""

import contextlib
import dataclasses
import html
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np

from mt_diffusion.demo import asked, shown
from mt_diffusion.demo.asked import Part
from mt_diffusion.demo.studio import Studio
from mt_diffusion.errors import UserError

STATIC = pathlib.Path(__file__).with_name("static")
MADE = -1  # in the place of a class: it is not given
MOST_BUTTONS = 30  # classes; more are a list
KEPT = 3600  # seconds that a session's pictures are remembered
MODEL: dict = dict(concurrency_id="model", concurrency_limit=1)  # one thing at a time
QUIET: dict = dict(queue=False, show_progress="hidden")
PRIVATE: dict = dict(api_visibility="private")
BRUSH = (
    '<div class="mt-brush"><canvas aria-label="picture to paint on"></canvas>'
    '<div class="mt-row"><label>brush <input type="range" min="1" max="30" value="14">'
    '</label><button type="button">Hide the lower half</button>'
    '<button type="button">Hide nothing</button></div></div>'
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What a visitor can mend is said on the page."""
    try:
        yield
    except (UserError, ValueError) as error:
        raise gr.Error(str(error), print_exception=False) from None


def static(name: str) -> str:
    """A file of `static`."""
    return (STATIC / name).read_text("utf-8")


@dataclasses.dataclass
class Control:
    """How a variable is given: components whose values `value` reads."""

    part: Part
    inputs: list[Any]

    def value(self, values: Sequence) -> Any:
        """What is given, None for nothing. Raises UserError for what can't be."""
        if not values:
            return None
        value, *more = values
        if self.part.classes:
            return None if value in (MADE, None) else self.part.classes[int(value)]
        if self.part.hides:
            return asked.painted(value, more[0])
        if self.part.words:
            return (value or "").strip() or None
        return asked.vector(value, self.part) if self.part.size else value

    def of_link(self, text: str | None) -> Any:
        """What the component of classes or words shows of what a link gives."""
        if self.part.classes:
            return MADE if text is None else self.part.classes.index(text)
        return text or ""


def give(part: Part, studio: Studio) -> Control:
    """The controls of a part; none where there is no way to give it."""
    with gr.Group():
        if part.classes:
            return Control(part, [buttons(part)])
        if part.hides:
            return brush(part, studio)
        if part.is_picture:
            return picture(part, studio)
        if part.size or part.words:
            kind = "words" if part.words else f"{part.size} numbers"
            label = f"{part.name}: {kind}, or nothing to have it made"
            return Control(part, [gr.Textbox(label=label)])
        return Control(part, [])


def buttons(part: Part) -> Any:
    """One of the classes, or none."""
    choices = [("made", MADE), *((name, i) for i, name in enumerate(part.classes))]
    kind = gr.Dropdown if len(part.classes) > MOST_BUTTONS else gr.Radio
    return kind(choices, value=MADE, label=part.name, elem_id=f"class-{part.name}")


def picture(part: Part, studio: Studio) -> Control:
    """A picture that is dropped in, whole."""
    heading(part, "drop one in to give it")
    pixels = gr.State(None, time_to_live=KEPT)
    view = gr.HTML("", elem_id=f"picture-{part.name}", padding=True)
    drop(part, studio, [pixels, view], thumbnail)
    none = gr.Button("Give no picture", size="sm", elem_id=f"none-{part.name}")
    none.click(lambda: (None, ""), None, [pixels, view], **QUIET, **PRIVATE)
    return Control(part, [pixels])


def brush(part: Part, studio: Studio) -> Control:
    """A picture of which a part is painted away, drawn by the model or dropped in."""
    heading(part, "paint away what is to be made anew")
    pixels = gr.State(studio.first, time_to_live=KEPT)
    view = gr.HTML(
        canvas(studio.first),
        html_template=BRUSH,
        js_on_load=static("brush.js"),
        elem_id=f"brush-{part.name}",
        padding=True,
    )
    drop(part, studio, [pixels, view], canvas)
    draw = gr.Button("Let it draw another", size="sm", elem_id=f"draw-{part.name}")

    def another() -> tuple:
        with told():
            found = studio.one(time.time_ns() % asked.MOST_SEED)
            return found, canvas(found)

    draw.click(another, None, [pixels, view], **MODEL, **PRIVATE)
    return Control(part, [pixels, view])


def heading(part: Part, what: str) -> None:
    """The name of a picture, and what to do with it."""
    gr.HTML(f"<b>{shown.text(part.name)}</b>: {what}", padding=True)


def drop(part: Part, studio: Studio, outputs: list, show: Any) -> None:
    """A place for files; each is read, shown by `show`, and gone."""
    place = gr.File(label="picture", height=110, elem_id=f"drop-{part.name}")

    def taken(path: str) -> tuple:
        try:
            found = studio.take_in(path)
        except UserError as error:  # told so that the place is free again
            gr.Warning(html.escape(str(error)), title="This can't be read")
            return gr.skip(), gr.skip(), None
        return found, show(found), None

    place.upload(taken, place, [*outputs, place], **MODEL, **PRIVATE)


def canvas(pixels: np.ndarray) -> dict[str, Any]:
    """What `brush.js` begins with."""
    height, width, _ = pixels.shape
    address = shown.data(asked.png(pixels), "image/png")
    empty = "0" * (height * width)
    return dict(picture=address, height=height, width=width, hidden=empty)


def thumbnail(pixels: np.ndarray) -> str:
    """A picture that is given."""
    return shown.picture(pixels, "given", True)
