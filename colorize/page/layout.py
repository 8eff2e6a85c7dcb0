"""The page's parts, and what each of them does to the session of its tab."""

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from colorize.config import AppConfig, PredictConfig
from colorize.inference.colorizer import Colorizer
from colorize.page.sessions import Item, Session
from colorize.runtime.errors import UserError, one_line
from colorize.runtime.log import log
from colorize.weights.bundled import BUNDLED

Updates = dict[Any, Any]

TRIAL_S = 3.0  # seconds of a film that are coloured before all of it
HEAD = "<h1>colorize</h1><p>Drop black-and-white photos or films. The colours are invented, not recovered.</p>"
ADVICE = """<p>Click a point whose colour is wrong, or type its column and row and press Enter; then choose a colour.
What looks alike around the point takes it.</p>"""
ANNOUNCE = "() => document.getElementById('status').setAttribute('aria-live', 'polite')"
FETCH = "() => document.getElementById('packed').click()"
CHOOSE = """element.onclick = element.onchange = event => {
    if (event.type === 'change' || event.target.tagName === 'BUTTON') trigger('click', {said: event.target.value})
}"""
OTHERS = """<label>Any other colour <input type="color" value="#808080"></label>
<button value="keep">This is right, keep it</button>"""
UNDO = '<button value="undo">Undo</button>'


class Page:
    """The page, in `blocks`; its sessions work in `folder`, with one of `generators`, named by their files."""

    def __init__(self, config: AppConfig, generators: dict[str, Colorizer], folder: Path) -> None:
        self.config, self.generators, self.folder = config, generators, folder
        self.sessions: dict[str, Session] = {}
        with gr.Blocks(title="colorize", analytics_enabled=False) as self.blocks:
            gr.HTML(HEAD, elem_id="head")
            files = gr.File(label="Photos and films", file_count="multiple", elem_id="drop")
            with gr.Row():
                self.go = gr.Button("Colour", variant="primary", elem_id="go")
                self.stop = gr.Button("Cancel", visible=False, elem_id="stop")
            self.status = gr.HTML(elem_id="status")
            with gr.Column(visible=False) as self.result:
                self.shown = gr.Dropdown(label="Shown", elem_id="shown")
                self.slider = gr.ImageSlider(label="Before and after", buttons=["fullscreen"], elem_id="slider")
                self.film = gr.HTML(elem_id="film")
                with gr.Row():
                    self.download = gr.DownloadButton(variant="primary", elem_id="download")
                    self.whole = gr.Button("Colour the whole film", elem_id="whole")
                    self.pack = gr.Button("Download all (ZIP)", elem_id="pack")
                    packed = gr.DownloadButton(elem_id="packed")
                with gr.Accordion("Correct a colour", open=False, elem_id="correct") as self.correct:
                    gr.HTML(ADVICE)
                    with gr.Row():
                        self.points = gr.Image(label="Point", interactive=False, buttons=[], scale=3, elem_id="points")
                        with gr.Column(min_width=240):
                            self.palette = gr.HTML(js_on_load=CHOOSE, elem_id="palette")
                            self.saved = gr.DownloadButton("Download the points", elem_id="saved")
                            with gr.Row():
                                self.x = gr.Number(label="Column, px", precision=0, min_width=100, elem_id="x")
                                self.y = gr.Number(label="Row, px", precision=0, min_width=100, elem_id="y")
            with gr.Accordion("Options", open=False, elem_id="options"):
                saturation = gr.Slider(0, 2, 1, step=0.05, label="Saturation: 0 grey, 1 as the network has it")
                seen = "Short side of what the network sees, px (empty: as it was trained)"
                render_px = gr.Number(None, label=seen, precision=0, minimum=32, maximum=4096, elem_id="render_px")
                names = [("bundled" if Path(file) == BUNDLED else Path(file).name, file) for file in generators]
                generator = gr.Radio(names, value=names[0][1], label="Generator", visible=len(names) > 1)
            parts = [
                part for name, part in vars(self).items() if isinstance(part, gr.blocks.Block) and name != "blocks"
            ]
            network: dict[str, Any] = {"outputs": parts, "show_progress": "hidden"}
            network |= {"concurrency_id": "network", "concurrency_limit": 1}
            self.go.click(self.on_colour, [files, saturation, render_px, generator], **network)
            self.whole.click(self.on_whole, **network)
            self.stop.click(self.on_stop, queue=False)
            self.shown.input(self.on_show, self.shown, **network)
            self.points.select(self.on_click, **network)
            gr.on([self.x.submit, self.y.submit], self.on_point, [self.x, self.y], **network)
            self.palette.click(self.on_palette, **network)
            self.pack.click(self.on_pack, outputs=packed).then(None, js=FETCH)
            self.blocks.load(None, js=ANNOUNCE)
            self.blocks.unload(self.on_end)

    def serve(self, guard: Any) -> None:
        """Serve the page, behind `guard`, at the first free port from `GRADIO_SERVER_PORT` on, until a signal comes."""
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        off = dict.fromkeys(("share", "run_history", "ssr_mode", "mcp_server", "enable_monitoring"), False)
        try:
            _, address, _ = self.blocks.launch(
                server_name="127.0.0.1",
                inbrowser=self.config.open_browser,
                prevent_thread_lock=True,
                max_file_size=self.config.max_mb * 1_000_000,
                theme=gr.themes.Default(primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css_paths=Path(__file__).with_name("style.css"),
                app_kwargs={"middleware": [hosts, Middleware(BaseHTTPMiddleware, dispatch=guard)]},
                footer_links=[],
                quiet=True,
                **off,
            )
            log.info(f"{address} is the page; Ctrl-C ends it")
            self.blocks.block_thread()
        finally:
            for session in self.sessions.values():
                session.stopped.set()
            self.blocks.close(verbose=False)

    def session(self, request: gr.Request) -> Session:
        new = Session(self.folder / uuid.uuid4().hex, next(iter(self.generators.values())), PredictConfig())
        return self.sessions.setdefault(str(request.session_hash), new)

    def colour(self, session: Session, items: Sequence[Item | None], seconds: float | None = None) -> Iterator[Updates]:
        """Colour items, show how far it is, and at last what has come of it."""
        busy = {self.go: gr.update(interactive=False), self.whole: gr.update(visible=False), self.palette: ""}
        yield busy | {self.stop: gr.update(visible=True), self.status: "Colouring…"}
        with ThreadPoolExecutor(1) as thread:
            work = thread.submit(session.colour, [item for item in items if item], seconds)
            while not wait([work], 0.3).done:
                yield {self.status: f"Colouring… {session.progress}"}
        if (error := work.exception()) is not None:  # a mistake of ours
            log.error("where it failed", exc_info=error)
            session.lines.append(f"{type(error).__name__}: {error}".splitlines()[0])
        if session not in self.sessions.values():  # its tab was closed meanwhile
            session.end()
        yield self.view(session)

    def view(self, session: Session) -> Updates:
        item, done = session.current, [item for item in session.items if item.result]
        film, hints = item is not None and item.job is not None and item.job.film, item.hints if item else []
        lines = "".join(f"<li>{escape(line)}</li>" for line in session.lines)
        swatch = '<button value="{0}" aria-label="{0}" style="background: {0}"></button>'
        choices = "".join(map(swatch.format, session.likely)) + OTHERS if session.point else ""
        seen = {
            self.stop: False,
            self.result: item is not None,
            self.film: film,
            self.slider: not film,
            self.correct: not film,
            self.whole: any(item.trial for item in done),
            self.pack: len(done) > 1,
            self.saved: bool(hints),
        }
        updates: Updates = {part: gr.update(visible=visible) for part, visible in seen.items()}
        updates |= {self.go: gr.update(interactive=True), self.palette: choices + (UNDO if hints else "")}
        updates[self.status] = f"<p>{len(done)} of {len(session.items)} coloured</p><ul>{lines}</ul>"
        if item is None or item.job is None or item.result is None:
            return updates
        names = [(each.result.name, number) for number, each in enumerate(session.items) if each.result]
        updates[self.shown] = gr.update(choices=names, value=session.items.index(item), visible=len(names) > 1)
        updates[self.download] = gr.update(value=str(item.result), label=f"Download {item.result.name}")
        if film:
            updates[self.film]["value"] = f'<video controls src="gradio_api/file={quote(str(item.result))}"></video>'
        else:
            *updates[self.slider]["value"], updates[self.points] = item.pictures(session.point)
            updates[self.x], updates[self.y] = session.point or (None, None)
            updates[self.saved]["value"] = str(item.job.hints) if hints else None
        return updates

    # What the parts do, by the events' names:

    def on_colour(
        self, files: list[str] | None, saturation: float, render_px: int | None, name: str, request: gr.Request
    ) -> Iterator[Updates]:
        session = self.session(request)
        session.colorizer = self.generators[name]
        session.options = PredictConfig(checkpoint=name, saturation=saturation, render_px=render_px)
        try:
            session.take(files or [], self.config.max_files, self.config.max_mb)
        except UserError as error:
            session.lines.append(one_line(error))
        yield from self.colour(session, session.items, TRIAL_S)

    def on_whole(self, request: gr.Request) -> Iterator[Updates]:
        session = self.session(request)
        yield from self.colour(session, [item for item in session.items if item.trial])

    def on_stop(self, request: gr.Request) -> None:
        self.session(request).stopped.set()

    def on_show(self, number: int, request: gr.Request) -> Updates:
        session = self.session(request)
        session.show(session.items[number])
        return self.view(session)

    def on_click(self, event: gr.SelectData, request: gr.Request) -> Updates:
        return self.on_point(event.index[0], event.index[1], request)

    def on_point(self, x: float | None, y: float | None, request: gr.Request) -> Updates:
        session = self.session(request)
        try:
            session.aim(x or 0, y or 0)
        except (UserError, ValueError) as error:
            session.lines = [one_line(error)]
        return self.view(session)

    def on_palette(self, event: gr.EventData, request: gr.Request) -> Iterator[Updates]:
        session = self.session(request)
        session.know(event.said)
        yield from self.colour(session, [session.current])

    def on_pack(self, request: gr.Request) -> str:
        return str(self.session(request).zipped())

    def on_end(self, request: gr.Request) -> None:
        if (session := self.sessions.pop(str(request.session_hash), None)) is not None:
            session.end()
