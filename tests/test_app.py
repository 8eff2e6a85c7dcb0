"""The page of `colorize app`: its results are those of predict, to the byte, and it answers nobody but its own tab."""

import asyncio
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from colorize import app
from colorize.config import AppConfig, PredictConfig
from colorize.inference.colorizer import Colorizer
from colorize.inference.torch_backend import TorchBackend
from colorize.networks.preprocessing import Preprocessing
from colorize.page import sessions
from colorize.page.sessions import Session
from colorize.runtime.errors import UserError, missing_packages_told
from tests.filming import write_film
from tests.predicting import Colour, files, grey, save
from tests.tiny_checkpoint import SIZE_PX, tiny_unet

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def session(tiny_file: Path, tmp_path: Path) -> Session:
    colorizer = Colorizer(TorchBackend(tiny_unet(), "cpu", "32-true"), Preprocessing(SIZE_PX))
    return Session(tmp_path / "session", colorizer, PredictConfig(checkpoint=str(tiny_file), saturation=1.2))


def drop(session: Session, *paths: Path) -> list[bytes | None]:
    """What comes of files that are dropped and coloured."""
    session.take([str(path) for path in paths], max_files=10, max_mb=1)
    session.colour(session.items)
    return [item.result and item.result.read_bytes() for item in session.items]


def test_results_are_those_of_predict_and_keep_format_and_metadata(
    session: Session, colour: Colour, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[270] = "a meadow"
    paths = [
        save(tmp_path / "a" / "x.jpg", exif=exif),
        save(tmp_path / "b" / "x.jpg", grey(1)),
        save(tmp_path / "y.gif"),
    ]
    made = drop(session, *paths)
    for path, content in zip(paths, made, strict=True):
        assert colour(path, saturation=1.2, overwrite=True)[0] == 0
        assert content == next((tmp_path / "out").glob(f"{path.stem}.*")).read_bytes()
        next((tmp_path / "out").glob(f"{path.stem}.*")).unlink()
    assert [item.result and item.result.name for item in session.items] == ["x_colour.jpg"] * 2 + ["y_colour.png"]
    with zipfile.ZipFile(session.zipped()) as packed:
        assert packed.namelist() == ["x_colour.jpg", "2/x_colour.jpg", "y_colour.png"]
        assert [packed.read(name) for name in packed.namelist()] == made


def test_points_correct_a_photo_as_predict_does_by_their_file(session: Session, colour: Colour, tmp_path: Path) -> None:
    path = save(tmp_path / "photo.png", grey(2))
    [plain] = drop(session, path)
    item = session.items[0]
    session.know("#c82828")  # of no point
    assert item.hints == []
    with pytest.raises(ValueError, match="outside"):
        session.aim(60, 2)
    for x, y, said in ((9, 9, "#2850c8"), (9, 9, "#c82828"), (40, 30, "keep")):
        session.aim(x, y)
        assert len(session.likely) == 1 and re.fullmatch("#[0-9a-f]{6}", session.likely[0])
        session.know(said)
    session.colour([item])
    assert [(hint.x, hint.y, hint.rgb) for hint in item.hints] == [(9, 9, (200, 40, 40)), (40, 30, None)]
    assert item.job is not None and item.job.hints is not None and item.job.hints.name == "photo.json"
    assert item.result is not None
    assert colour(path, saturation=1.2, hints=str(item.job.hints))[0] == 0
    assert item.result.read_bytes() == (tmp_path / "out/photo.png").read_bytes() != plain
    corrected = item.result.read_bytes()
    before, after, marked = map(Path, item.pictures(session.point))
    assert len({before.read_bytes(), after.read_bytes(), marked.read_bytes()}) == 3
    assert drop(session, path) == [corrected]  # again, with another saturation say: what is known stays
    for _ in range(2):
        session.know("undo")
    session.colour(session.items)
    assert session.items[0].result is not None and session.items[0].result.read_bytes() == plain


def test_a_film_is_tried_before_it_is_coloured(session: Session, colour: Colour, tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = write_film(tmp_path / "film.mp4")  # Matroska files have an identifier drawn at random
    session.take([str(path)], 10, 1)
    [item] = session.items
    for seconds, keys in ((0.2, {"duration": 0.2}), (None, {})):
        session.colour([item], seconds)
        assert item.result is not None and item.trial == (seconds is not None)
        assert colour(path, saturation=1.2, output="film_out.mp4", overwrite=True, **keys)[0] == 0
        assert item.result.read_bytes() == (tmp_path / "film_out.mp4").read_bytes()


def test_what_is_wrong_with_a_file_is_said_as_predict_says_it(session: Session, colour: Colour, tmp_path: Path) -> None:
    bad = {
        "a.jpg": b"no photo",
        "b.jpg": b"",
        "c.jpg": b"%PDF-1.7",
        "d.png": (save(tmp_path / "z.png")).read_bytes()[:90],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        assert drop(session, tmp_path / name) == [None]
        [line] = session.lines
        assert line in colour(tmp_path / name)[1]
    (tmp_path / "mine.txt").write_text(str(save(tmp_path / "private.png")))
    assert drop(session, tmp_path / "mine.txt", save(tmp_path / "frame%04d.png"))[0] is not None
    assert session.lines == ["mine.txt: a list of photos: drop the photos themselves"]


def test_limits_and_cancelling(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"{index}.png") for index in range(3)]
    with pytest.raises(UserError, match=r"3 files are too many: drop at most 2 at once \(max_files=…\)"):
        session.take([str(path) for path in paths], 2, 1)
    with pytest.raises(UserError, match=r"too large: drop at most 0 MB at once \(max_mb=…\)"):
        session.take([str(path) for path in paths], 3, 0)
    one = sessions.colour_all

    def stopping(*given: Any) -> Iterator[Any]:
        for outcome in one(*given):
            session.stopped.set()
            yield outcome

    monkeypatch.setattr(sessions, "colour_all", stopping)
    assert [made is not None for made in drop(session, *paths)] == [True, False, False]
    assert session.progress.startswith("1 of 3, about ") and session.lines == ["cancelled"]


def test_nothing_is_left_of_a_session_and_what_was_given_stays(session: Session, tmp_path: Path) -> None:
    mine = save(tmp_path / "mine.png")
    upload = tmp_path / "upload.png"
    upload.write_bytes(mine.read_bytes())
    drop(session, upload)
    assert upload.read_bytes() == mine.read_bytes()
    session.end()
    assert files(tmp_path) == ["mine.png"] and not (tmp_path / "session").exists()


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/", 200),
        ({"origin": "http://127.0.0.1:7860"}, "/gradio_api/queue/join", 200),
        ({"origin": "https://colour.example", "x-forwarded-host": "colour.example"}, "/gradio_api/upload", 200),
        ({"origin": "https://evil.example"}, "/gradio_api/upload", 403),
        ({"origin": "null"}, "/gradio_api/upload", 403),
        ({}, "/gradio_api/file=https://evil.example/a.png", 403),
    ],
)
def test_only_the_page_itself_is_answered(headers: dict[str, str], path: str, status: int) -> None:
    requests = pytest.importorskip("starlette.requests")
    from starlette.responses import Response

    async def answer(_: Any) -> Response:
        return Response()

    given = {"host": "127.0.0.1:7860", **headers}
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "server": ("127.0.0.1", 7860)}
    scope["headers"] = [(key.encode(), value.encode()) for key, value in given.items()]
    response = asyncio.run(app.guard(requests.Request(scope), answer))
    assert response.status_code == status
    assert status != 200 or "default-src 'self'" in response.headers["content-security-policy"]


def test_without_the_extra_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "colorize.page.layout", raising=False)
    with pytest.raises(UserError, match=r"pip install 'colorize\[app\]'"), missing_packages_told():
        app.run(AppConfig())


# --- the page in a browser --------------------------------------------------------------------------------------------


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a page that is served; its temporary folder is gone once Ctrl-C has ended it."""
    pytest.importorskip("uvicorn")  # a part of Gradio, which itself takes seconds
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "colorize.app", "open_browser=false", "device=cpu", "max_files=3"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "HTTP_PROXY": "http://127.0.0.1:9"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "is the page" in said, said + process.stderr.read()
        yield said.split()[0]
        process.terminate()
        assert process.wait(60) == 143
    assert files(tmp_path / "tmp") == []


@pytest.mark.slow
def test_the_page_in_chromium(address: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    photo = save(tmp_path / "photo.jpg", grey(3, 240, 180))
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    predicted = [sys.executable, "-m", "colorize.predict", f"input={photo}", "device=cpu"]
    subprocess.run([*predicted, f"output={tmp_path}/plain.jpg"], check=True, capture_output=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(60_000)
        hosts, complaints = set[str | None](), list[str]()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#go")

        def press(selector: str, key: str = "Enter") -> None:
            page.locator(selector).focus()
            page.keyboard.press(key)

        def fetched(selector: str) -> bytes:
            with page.expect_download() as download:
                press(selector)
            return Path(download.value.path()).read_bytes()

        # By the keyboard alone: choose files, colour, download.
        with page.expect_file_chooser() as chooser:
            press("#drop button")
        chooser.value.set_files([photo, tmp_path / "broken.jpg"])
        page.wait_for_selector("#drop :text('broken')")
        press("#go")
        page.wait_for_selector("#slider img")
        assert page.inner_text("#status").split("\n\n") == [
            "1 of 2 coloured",
            "broken.jpg: not an image in a known format",
        ]
        plain = fetched("#download")
        assert plain == (tmp_path / "plain.jpg").read_bytes()
        assert page.evaluate("document.documentElement.scrollWidth") == 390

        # A click, and a colour from the palette; the points' file does the same in predict.
        page.click("#correct button")
        page.locator("#points img").click(position={"x": 60, "y": 60})
        page.wait_for_selector("#palette button[aria-label]")
        page.locator("#palette button[aria-label]").nth(3).press("Enter")
        page.wait_for_selector("#saved")
        (tmp_path / "points.json").write_bytes(fetched("#saved"))
        corrected = fetched("#download")
        hints = f"hints={tmp_path}/points.json"
        subprocess.run([*predicted, hints, f"output={tmp_path}/corrected.jpg"], check=True, capture_output=True)
        assert corrected == (tmp_path / "corrected.jpg").read_bytes() != plain
        assert page.evaluate("document.documentElement.scrollWidth") == 390

        # No file of this machine is handed out, whatever a request names.
        body = {"data": [[{"path": str(photo), "meta": {"_type": "gradio.FileData"}}], 1, None, "bundled"]}
        body |= {"fn_index": 0, "session_hash": "another"}
        assert page.request.post(f"{address}gradio_api/queue/join", data=body).ok
        events = page.request.get(f"{address}gradio_api/queue/data?session_hash=another").text()
        assert "not uploaded by a user" in events or '"success":false' in events
        assert hosts == {"127.0.0.1"} and complaints == []
        browser.close()
    gone = time.monotonic() + 30
    while time.monotonic() < gone and any("colour" in name for name in files(tmp_path / "tmp")):
        time.sleep(0.2)
    assert not any("colour" in name for name in files(tmp_path / "tmp")), "the tab is closed"
