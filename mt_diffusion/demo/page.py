"""The page: which controls a model has, and what happens when one is used."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np

from mt_diffusion.demo import asked, controls, shown
from mt_diffusion.demo.asked import Settings
from mt_diffusion.demo.controls import MODEL, PRIVATE, QUIET, Control, told
from mt_diffusion.demo.studio import Studio
from mt_diffusion.errors import UserError


class Page:
    """The controls of one model; `blocks` is what Gradio serves."""

    def __init__(self, studio: Studio):
        self._studio = studio
        title = f"MT-Diffusion: {studio.name}"
        with gr.Blocks(
            title=title, analytics_enabled=False, delete_cache=(60, 60)
        ) as self.blocks:
            names = " | ".join(studio.parts)
            gr.Markdown(
                f"# {shown.text(studio.name)}\nOne diffusion of {shown.text(names)}: "
                "give any of them, and the rest is made."
            )
            with gr.Row():
                with gr.Column(min_width=300):
                    self._given = [
                        controls.give(part, studio) for part in studio.parts.values()
                    ]
                    self._set()
                with gr.Column(min_width=300, scale=2):
                    self._results()
            self._connect()

    def _set(self) -> None:
        """How it is made."""
        own, studio = self._studio.defaults, self._studio
        most = min(asked.MOST_STEPS, studio.model.process.schedule.num_steps)
        with gr.Accordion("How it is made", open=False, elem_id="settings"):
            num = gr.Radio(list(asked.NUMBERS), value=own.num, label="pictures")
            steps = gr.Slider(1, most, own.steps, step=1, label="steps")
            sampler = gr.Radio(asked.SAMPLERS, value=own.sampler, label="sampler")
            guidance = gr.Slider(
                0, asked.MOST_GUIDANCE, own.guidance, step=0.5, label="guidance"
            )
        with gr.Row():
            seed = gr.Number(
                own.seed, label="seed", precision=0, minimum=0, maximum=asked.MOST_SEED
            )
            self._another = gr.Button("Another seed", min_width=100)
        self._settings = [num, steps, sampler, guidance, seed]

    def _results(self) -> None:
        """What is to happen, how far it is, and what came of it."""
        with gr.Row():
            self._make = gr.Button(
                "Make", variant="primary", min_width=90, elem_id="make"
            )
            self._walk = gr.Button("Watch a walk", min_width=90, elem_id="walk")
            self._cancel = gr.Button("Cancel", min_width=90, elem_id="cancel")
        self._status = gr.HTML("", elem_id="status", container=True, min_height=50)
        with gr.Tabs(selected="made") as self._tabs:
            with gr.Tab("Made", id="made"):
                self._gallery = gr.HTML("", elem_id="gallery", padding=True)
                self._downloads = gr.HTML("", elem_id="downloads", padding=True)
            with gr.Tab("Walk", id="walk"):
                self._frames = gr.HTML(
                    "",
                    js_on_load=controls.static("walk.js"),
                    elem_id="frames",
                    padding=True,
                )
            with gr.Tab("Read", id="read"):
                self._reading = gr.HTML("", elem_id="reading", padding=True)
            with gr.Tab("The same elsewhere", id="elsewhere"):
                self._link = gr.Textbox(
                    label="link to these settings, without pictures",
                    buttons=["copy"],
                    elem_id="link",
                )
                self._command = gr.Code(
                    language="shell", label="command", elem_id="command"
                )
                self._python = gr.Code(
                    language="python", label="Python", elem_id="python"
                )

    def _connect(self) -> None:
        """What happens when."""
        given = [part for control in self._given for part in control.inputs]
        inputs = [*self._settings, *given]
        made = [self._status, self._gallery, self._downloads, self._tabs]
        walked = [self._status, self._frames, self._tabs]
        # Else a click after a cancelled one is not heard: Gradio takes it to go on.
        again: dict = dict(trigger_mode="multiple")
        busy: dict = dict(show_progress_on=[self._status], **again, **MODEL, **PRIVATE)
        making = self._make.click(self._on_make, inputs, made, **busy)
        walking = self._walk.click(self._on_walk, inputs, walked, **busy)
        after = self._another.click(
            lambda seed: (int(seed or 0) + 1) % asked.MOST_SEED,
            self._settings[-1],
            self._settings[-1],
            **QUIET,
            **PRIVATE,
        ).then(self._on_make, inputs, made, **busy)
        jobs = [making, walking, after]
        for control in self._given:
            if control.part.name == self._studio.primary and len(self._given) > 1:
                outputs = [self._status, self._reading, self._tabs]
                pixels = control.inputs[0]
                jobs.append(pixels.change(self._on_read, pixels, outputs, **busy))
        self._cancel.click(
            lambda: "stopped; what was made so far stays.",
            None,
            self._status,
            cancels=jobs,
            **QUIET,
            **PRIVATE,
        )
        elsewhere = [self._link, self._command, self._python]
        gr.on(
            [part.change for part in inputs],
            self._on_change,
            inputs,
            elsewhere,
            **QUIET,
            **PRIVATE,
        )
        linked = [c.inputs[0] for c in self._linked]
        self.blocks.load(
            self._on_load, None, [*self._settings, *linked, self._status], **PRIVATE
        ).then(self._on_change, inputs, elsewhere, **QUIET, **PRIVATE)

    @property
    def _linked(self) -> list[Control]:
        """The controls of what a link can give."""
        return [c for c in self._given if c.part.classes or c.part.words]

    def _asked(self, values: Sequence) -> tuple[Settings, dict[str, Any]]:
        """(settings, given) of the values of all controls."""
        fields = list(asked.POSSIBLE)
        settings = asked.settings(dict(zip(fields, values, strict=False)))
        rest, given = list(values[len(fields) :]), {}
        for control in self._given:
            num = len(control.inputs)
            mine, rest = rest[:num], rest[num:]
            value = control.value(mine)
            if value is not None:
                given[control.part.name] = value
        return settings, given

    def _on_make(self, *values: Any) -> Iterator[tuple]:
        studio, begun = self._studio, time.monotonic()
        with told():
            settings, given = self._asked(values)
            if set(given) == set(studio.parts):
                raise UserError("everything is given, and nothing is left to be made.")
            new = studio.is_new(settings, given)
            yield (
                progress(0, settings.num, begun, new),
                "",
                "",
                gr.Tabs(selected="made"),
            )
            for examples in studio.draw(settings, given):
                done = len(examples[studio.primary])
                gallery = shown.gallery(examples, studio.variables, given)
                yield progress(done, settings.num, begun), gallery, "", gr.skip()
            files = shown.downloads(studio.files(settings, given, examples))
            yield gr.skip(), gr.skip(), files, gr.skip()

    def _on_walk(self, *values: Any) -> Iterator[tuple]:
        studio, begun = self._studio, time.monotonic()
        with told():
            settings, given = self._asked(values)
            new = studio.is_new(settings, given, "walk")
            yield progress(0, 1, begun, new), gr.skip(), gr.Tabs(selected="walk")
            found = shown.walk(studio.walk(settings, given), studio.classes(), given)
            yield progress(1, 1, begun), found, gr.skip()

    def _on_read(self, pixels: np.ndarray | None) -> Iterator[tuple]:
        studio, begun = self._studio, time.monotonic()
        if pixels is None:
            yield "", "", gr.skip()
            return
        with told():
            yield progress(0, 1, begun), gr.skip(), gr.Tabs(selected="read")
            said = studio.read(pixels)
            found = shown.reading(pixels, said, studio.variables, studio.classes())
            yield progress(1, 1, begun), found, gr.skip()

    def _on_change(self, request: gr.Request, *values: Any) -> tuple[str, str, str]:
        studio = self._studio
        try:
            settings, given = self._asked(values)
        except UserError:  # while it is typed
            return "", "", ""
        address = request.headers.get("origin", "")
        return (
            f"{address}/?{asked.link(settings, given)}",
            asked.command(studio.name, settings, given, studio.parts),
            asked.python(studio.name, settings, given, studio.parts),
        )

    def _on_load(self, request: gr.Request) -> list:
        studio = self._studio
        query = dict(request.query_params)
        found, given, wrong = asked.read_link(query, studio.defaults, studio.parts)
        linked = [c.of_link(given.get(c.part.name)) for c in self._linked]
        said = f"this link says what this model can't have: {', '.join(wrong)}."
        status = shown.text(said) if wrong else "ready."
        return [*vars(found).values(), *linked, status]


def progress(done: int, num: int, begun: float, is_new: bool = False) -> str:
    """How far it is."""
    seconds = time.monotonic() - begun
    note = "; its program is made first, which takes some seconds" if is_new else ""
    return (
        f'<progress value="{done}" max="{num}"></progress>'
        f"{done} of {num}, {seconds:.1f} s{note}"
    )
