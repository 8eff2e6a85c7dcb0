"""Open a page in the browser to drop photos and films on: they are coloured, corrected and downloaded there.

python -m colorize.app
python -m colorize.app checkpoint=mine.safetensors port=8000 open_browser=false

It is for one person on one machine: it listens on 127.0.0.1 alone. What is dropped, and what comes of it, lies in a
temporary folder and goes when its tab is closed. Ctrl-C ends it. Needs the extra: pip install "colorize[app]".
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colorize.cli.command import run_command
from colorize.config import AppConfig
from colorize.runtime.errors import UserError
from colorize.weights.bundled import BUNDLED, existing_weights

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

log = logging.getLogger("colorize")

PORTS = 100
"""Ports that are tried, from the given one on."""
HOSTS = ["127.0.0.1", "localhost"]
# Gradio's page has scripts and styles in itself, and templates that it evaluates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; frame-ancestors 'none'"
)


def run(config: AppConfig) -> None:
    """Serve the page until a signal ends it; raise UserError without the extra, weights or a free port."""
    if find_spec("gradio") is None:
        raise UserError('the page needs a package that is not here: pip install "colorize[app]"')
    given = existing_weights(config.checkpoint)
    from colorize.inference.colorizer import Colorizer

    generators = {
        "bundled" if file == BUNDLED else file.name: Colorizer.from_checkpoint(file, config.device, config.precision)
        for file in dict.fromkeys((given, BUNDLED))
        if file.exists()
    }
    with listening(config.port) as server, tempfile.TemporaryDirectory(prefix="colorize-app-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_EXAMPLES_CACHE": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        import uvicorn

        from colorize.page.layout import Page

        page = application(Page(config, generators, Path(folder)).blocks, config.max_mb)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        log.info(f"{address}: the page; Ctrl-C ends it")
        if config.open_browser:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        uvicorn.Server(uvicorn.Config(page, log_level="warning", timeout_graceful_shutdown=1)).run([server])


def listening(port: int) -> socket.socket:
    """Listen at `port` of this machine alone, or at the next that is free."""
    for number in range(port, min(port + PORTS, 1 << 16)):
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", number))
        except OSError:
            server.close()
            continue
        if number != port:
            log.info(f"port {port} is taken")
        server.listen()
        return server
    raise UserError(f"port={port}: no port is free from there on: give another")


def application(blocks: Any, max_mb: int) -> FastAPI:
    """Return what serves a page of Gradio: to itself alone, and with nothing from outside."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse

    server = FastAPI(openapi_url=None)
    server.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)

    @server.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        own = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
        origin = request.headers.get("origin", "://").partition("://")[2]
        fetches = "/file=http" in request.url.path or "/proxy=" in request.url.path
        if fetches or origin not in ("", *own):
            return PlainTextResponse("only the page itself is answered, and nothing is fetched for it", 403)
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    blocks.has_launched = True  # otherwise Gradio hands handlers any file that a request names
    font, mono = ["system-ui", "sans-serif"], ["monospace"]
    return gradio.mount_gradio_app(
        server,
        blocks,
        path="/",
        theme=gradio.themes.Default(primary_hue="teal", neutral_hue="stone", font=font, font_mono=mono).set(
            **{
                f"button_primary_background_fill{state}": "*primary_700"
                for state in ("", "_dark", "_hover", "_hover_dark")
            }
        ),
        css_paths=Path(__file__).with_name("page") / "style.css",
        max_file_size=max_mb * 1_000_000,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
    )


if __name__ == "__main__":
    run_command("app", run)
