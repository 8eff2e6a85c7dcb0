"""Open a page in the browser to drop photos and films on: they are coloured, corrected and downloaded there.

python -m colorize.app
python -m colorize.app checkpoint=mine.safetensors port=8000 open_browser=false

It is for one person on one machine: it listens on 127.0.0.1 alone. What is dropped, and what comes of it, lies in a
temporary folder and goes when its tab is closed. Ctrl-C ends it. Needs the extra: pip install "colorize[app]".
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colorize.cli.command import run_command
from colorize.config import AppConfig
from colorize.weights.bundled import BUNDLED, existing_weights

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

# Gradio's page has scripts and styles in itself, and templates that it evaluates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; frame-ancestors 'none'"
)


def run(config: AppConfig) -> None:
    """Serve the page until a signal ends it. Raises UserError where the extra or weights are missing, or are wrong."""
    given = existing_weights(config.checkpoint)
    with tempfile.TemporaryDirectory(prefix="colorize-app-") as folder:
        # What Gradio and its libraries read when they are imported. A proxy would be asked for this very machine.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_PORT": str(config.port)}
        os.environ |= dict.fromkeys(("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE"), folder)
        os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1")
        from colorize.inference.colorizer import Colorizer
        from colorize.page.layout import Page

        words = (config.device, config.precision, True, config.backend)
        files = [file for file in dict.fromkeys((given, BUNDLED)) if file.exists()]
        generators = {str(file): Colorizer.from_checkpoint(file, *words) for file in files}
        Page(config, generators, Path(folder)).serve(guard)


async def guard(request: Request, call_next: Any) -> Response:
    """Answer the page alone, which fetches nothing from outside, neither by the browser nor by this server."""
    from starlette.responses import PlainTextResponse

    hosts = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
    origin = request.headers.get("origin", "").rpartition("/")[2]
    if origin not in ("", *hosts) or "/file=http" in request.url.path or "/proxy=" in request.url.path:
        return PlainTextResponse("only the page itself is answered, and nothing is fetched from outside", 403)
    response: Response = await call_next(request)
    response.headers["Content-Security-Policy"] = POLICY
    return response


if __name__ == "__main__":
    run_command("app", run)
