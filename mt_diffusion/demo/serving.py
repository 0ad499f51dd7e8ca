"""Serves the page: on this machine alone, with nothing kept, sent or fetched."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

import mt_diffusion
from mt_diffusion.demo.studio import Studio
from mt_diffusion.errors import UserError, needs
from mt_diffusion.experiment import exported

PREFERRED = ("fashion", "digits")
HOST, PORT = "127.0.0.1", 7860
LARGEST = "4mb"  # of an upload
MOST_WAITING = 16  # visitors, beside the one whose turn it is
# Gradio compiles templates in the browser, and styles elements there.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def serve(workdir: str, host: str, port: int, trust: Sequence[str] = ()) -> None:
    """Loads a model, warms it up, and serves its page until it is interrupted.

    workdir: as of `load`; '' for one that comes with the package. Raises UserError for
    one that is none, and where the port is taken.
    """
    with alone():
        page = build(workdir, trust)
        print(f"the page: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        try:
            page.launch(server_name=host, server_port=port, **launching())
        except OSError as error:
            raise UserError(
                f"--host={host} --port={port} can't be listened on ({error}); choose "
                "another --port, such as 7861."
            ) from error


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Around all of it: uploads lie in a folder that goes, and nothing is sent out."""
    with tempfile.TemporaryDirectory(prefix="mt_diffusion_demo_") as folder:
        os.environ.update(
            GRADIO_TEMP_DIR=folder,
            GRADIO_ANALYTICS_ENABLED="False",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_OFFLINE="1",
        )
        yield


def build(workdir: str, trust: Sequence[str] = ()) -> Any:
    """The page, a gradio.Blocks, of a model that is warm."""
    with needs("demo", "the page"):
        from mt_diffusion.demo.page import Page
    logging.set_verbosity(logging.FATAL)
    name = workdir or next(n for n in PREFERRED if n in exported.names())
    print(f"loading {name}", flush=True)
    try:
        model = mt_diffusion.load(name, trust=trust)
    except ValueError as error:
        words = str(error).removeprefix(f"workdir={name} ")
        raise UserError(f"--workdir={name}: {words}") from error
    begun = time.monotonic()
    studio = Studio(model, name)
    studio.warm()
    print(f"its programs are made ({time.monotonic() - begun:.0f} s)", flush=True)
    return Page(studio).blocks.queue(max_size=MOST_WAITING)


def launching() -> dict[str, Any]:
    """How Gradio serves it: what it would turn on by itself or by the environment."""
    import gradio as gr
    from starlette.middleware import Middleware

    from mt_diffusion.demo import controls

    own = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return dict(
        share=False,
        quiet=True,
        max_file_size=LARGEST,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=True,
        theme=gr.themes.Default(font=own[0], font_mono=own[1]),
        css=controls.static("page.css"),
        app_kwargs=dict(middleware=[Middleware(Policy)]),
    )


class Policy:
    """Tells browsers to fetch nothing from elsewhere for any page of an app."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        await self._app(scope, receive, with_policy)
