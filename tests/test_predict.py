"""`colorize.predict` as a user types it: what comes out, what is left alone, and what is said of the rest."""

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from colorize import predict
from colorize.cli.command import run_command
from colorize.inference import jobs, photo_batches
from colorize.networks.generator import Generator
from colorize.photos import reading
from colorize.runtime.files import clear_unfinished, written_whole
from colorize.runtime.formats import WRITTEN_SUFFIXES
from tests.conftest import draw_photo
from tests.predicting import Colour, files, grey, is_coloured_version, save

# --------------------------------------------------------------------------------------------------- odd and bad files


ODD_NAMES = (
    *("two  spaces .png", "new\nline.png", 'it\'s "quoted".png', "a=b,c.png", "[1] {x} (2).png", "Фото 日本 🎨.png"),
    *("*?.png", "-dash.png", "#hash.png", "~tilde.png", "$HOME ${x}.png", "back\\slash.png", "x" * 251 + ".png"),
    *(os.fsdecode(b"bytes \xff\xfe.png"), "tab\tand\x1bescape.png", "UPPER.PNG"),
)


def hostile_folder(root: Path) -> tuple[dict[str, tuple[str, Image.Image]], dict[str, str]]:
    """Good photos by name: the name and the luma of their results; bad ones: a word of the reason."""
    good = {name: (name, grey()) for name in ODD_NAMES}
    for name in ODD_NAMES:
        save(root / name, format="PNG")
    made: dict[str, tuple[str, Image.Image, Image.Image, dict[str, Any]]] = {
        "grey.jpg": ("grey.jpg", grey(1), grey(1), {"quality": 98}),
        "cmyk.jpg": ("cmyk.jpg", (cmyk := draw_photo(2).convert("CMYK")), cmyk.convert("RGB"), {"quality": 98}),
        "palette.gif": ("palette.png", (palette := draw_photo(3).quantize(32)), palette.convert("RGB"), {}),
        "one bit.tif": ("one bit.tif", grey(4).convert("1"), grey(4).convert("1"), {"compression": "group4"}),
        "b.bmp": ("b.bmp", grey(5), grey(5), {}),
        "w.webp": ("w.webp", grey(6).convert("RGB"), grey(6), {"lossless": True}),
        "transparent.webp": ("transparent.webp", grey(7).convert("LA"), grey(7), {"lossless": True}),
        "labelled.jpg": ("labelled.jpg", grey(8), grey(8), {"format": "PNG"}),
        "speck.png": ("speck.png", grey(9, 1, 1), grey(9, 1, 1), {}),
        "strip.tiff": ("strip.tiff", grey(10, 700, 3), grey(10, 700, 3), {}),
        "deep/est/of all/p.ppm": ("deep/est/of all/p.png", draw_photo(11), draw_photo(11), {}),
    }
    for name, (result, image, luma, options) in made.items():
        good[name] = (result, luma)
        save(root / name, image, **options)
    save(root / "animation.gif", grey(12), save_all=True, append_images=[grey(13)])
    good["animation.gif"] = ("animation.png", grey(12))
    (root / "elsewhere").mkdir()
    save(root.parent / "linked" / "far.png")
    (root / "elsewhere" / "link").symlink_to(root.parent / "linked", target_is_directory=True)
    (root / "elsewhere" / "loop").symlink_to(root, target_is_directory=True)
    good["elsewhere/link/far.png"] = ("elsewhere/link/far.png", grey())
    save(root / "folder.jpg" / "inside.png")
    good["folder.jpg/inside.png"] = ("folder.jpg/inside.png", grey())

    whole = save(root / "truncated.jpg", draw_photo(0, 300, 300)).read_bytes()
    (root / "truncated.jpg").write_bytes(whole[:-3000])
    for name, content in {
        "empty.jpg": b"",
        "page.jpg": b"<html>404 not found</html>",
        "bomb.ppm": b"P6 20000 20000 255\n",
        "header.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "no size.gif": b"GIF89a\0\0\0\0\0\0\0",
    }.items():
        (root / name).write_bytes(content)
    Image.new("F", (8, 8)).save(root / "float.tif")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(root / "pipe.jpg")
    bad = {
        **{"truncated.jpg": "truncated", "empty.jpg": "empty", "page.jpg": "not an image", "bomb.ppm": "200 million"},
        **{"header.png": "", "no size.gif": "", "float.tif": "range", "self.jpg": "links", "gone.jpg": "No such file"},
        "pipe.jpg": "not a regular file",
    }
    save(root / "secret.png").chmod(0)
    save(root / "closed" / "x.png").parent.chmod(0)
    if os.access(root / "secret.png", os.R_OK):  # to root, nothing is forbidden
        good |= {name: (name, grey()) for name in ("secret.png", "closed/x.png")}
    else:
        bad |= {"secret.png": "Permission denied", "closed": "Permission denied"}
    for name in ("notes.txt", ".hidden.jpg", ".cache/thumb.jpg"):  # no photos, and not spoken of
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    return good, bad


def digests(folder: Path) -> dict[str, str]:
    readable = [path for path in folder.rglob("*") if path.is_file() and os.access(path, os.R_OK)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in readable}


def test_a_hostile_folder(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in = [it's], (1)"
    good, bad = hostile_folder(root)
    before = digests(root)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_command("predict", predict.run, [f"checkpoint={tiny_file}", f"input={root}", "output=out", "device=cpu"])
    err = capsys.readouterr().err
    assert stop.value.code == 1, err
    assert f"{len(good)} coloured, 0 skipped (their results exist), {len(bad)} failed" in err
    assert err.splitlines()[-1] == f"colorize.predict: {len(bad)} could not be coloured, see out/failed.txt"
    out = tmp_path / "out"
    assert files(out) == sorted([*(result for result, _ in good.values()), "failed.txt"])
    for name, (result, luma) in good.items():
        lossy = result.endswith((".jpg", ".webp"))
        assert is_coloured_version(out / result, luma, 12 if lossy else 1), name
        suffix = Path(result).suffix.lower()
        with Image.open(out / result) as opened:
            assert opened.format == WRITTEN_SUFFIXES[suffix].name, name
    reasons = dict(line.split("\t") for line in (out / "failed.txt").read_text("utf-8").splitlines()[1:])
    assert reasons.keys() == {str(root / name) for name in bad}
    for name, word in bad.items():
        assert word in reasons[str(root / name)], name
        assert f"{root / name}: {reasons[str(root / name)]}\n" in err
    assert digests(root) == before
    (root / "closed").chmod(0o700)


def test_names_are_shown_on_one_line() -> None:
    assert jobs.shown(os.fsdecode(b"a\n\x1b[31m\xff") + " Фото") == "a\\n\\x1b[31m\\udcff Фото"


# ---------------------------------------------------------------------------------------------------- what is asked for


def test_keep_color_leaves_colour_photos_as_they_are(colour: Colour, tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "colour.jpg", draw_photo(1), quality=80)
    save(tmp_path / "in" / "grey.jpg")
    status, err = colour("in", keep_color=True)
    assert status == 0 and "1 coloured, 1 left in their own colours, 0 skipped" in err
    assert (tmp_path / "out" / "colour.jpg").read_bytes() == source.read_bytes()
    colour("in", keep_color=True, output="pngs", format="png")
    with Image.open(tmp_path / "pngs" / "colour.png") as made, Image.open(source) as own:
        assert made.tobytes() == own.tobytes()


def test_saturation_is_kept_in_results_and_previews(colour: Colour, tmp_path: Path) -> None:
    save(tmp_path / "in.png")
    strength = {}
    for saturation in (0.0, 0.5, 1.0):
        assert colour("in.png", output=f"{saturation}.png", saturation=saturation, compare=True)[0] == 0
        assert is_coloured_version(tmp_path / f"{saturation}.png", grey(), 1) == (saturation > 0)
        for name in (f"{saturation}.png", f"{saturation}.compare.jpg"):
            with Image.open(tmp_path / name) as made:
                strength[name] = np.ptp(np.asarray(made.convert("RGB"), float), axis=2).mean()
    assert strength["0.0.png"] == 0 and strength["0.0.compare.jpg"] < 1 < strength["0.5.compare.jpg"]
    assert strength["0.5.png"] == pytest.approx(strength["1.0.png"] / 2, rel=0.1)


def test_quality_compare_and_contact_sheet(colour: Colour, tmp_path: Path) -> None:
    for index in range(2):
        save(tmp_path / "in" / f"{index}.jpg", grey(index, 1100, 500))
    words = {"compare": True, "contact_sheet": "in/page.png"}
    assert colour("in", **words, quality=30)[0] == 0
    named = [f"{index}.{kind}" for index in range(2) for kind in ("compare.jpg", "jpg")]
    assert files(tmp_path / "out") == sorted(named)
    with Image.open(tmp_path / "out" / "0.compare.jpg") as pair:
        assert pair.size == (2000, 455)
        left, right = (np.asarray(pair.crop((x, 0, x + 1000, 455)), int) for x in (0, 1000))
    assert np.ptp(left, axis=2).mean() < 1 < 5 < np.ptp(right, axis=2).mean()
    small = (tmp_path / "out" / "0.jpg").stat().st_size
    status, err = colour("in", **words, overwrite=True)  # its own page is no photo to colour
    assert status == 0 and "2 coloured" in err
    assert (tmp_path / "out" / "0.jpg").stat().st_size > 1.2 * small, "of the chroma: the luma is that of the source"
    with Image.open(tmp_path / "in" / "page.png") as page:
        assert page.width > 900 and np.ptp(np.asarray(page, int), axis=2).max() > 10


# -------------------------------------------------------------------------------------- which photos, and where they go


def planned(given: str | Path, output: str = "out", format: str | None = None) -> dict[str, str]:
    """Sources and results of a plan, relative to where they are."""
    plan = jobs.plan([str(given)], output, format)
    return {os.path.relpath(job.source): str(job.result.relative_to(plan.folder)) for job in plan.jobs}


def test_globs_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("s [1]/a.jpg", "s [1]/b.PNG", "s [1]/c.txt", "s [1]/d/e.jpg", "s [1]/d/f/g.png", "x.jpg"):
        save(tmp_path / name, format="JPEG")
    (tmp_path / "s [1]" / "d" / "loop").symlink_to(tmp_path / "s [1]", target_is_directory=True)
    assert planned("s [1]/*.jpg") == {"s [1]/a.jpg": "a.jpg"}
    assert planned("s [1]/**/*.jpg") == {"s [1]/a.jpg": "a.jpg", "s [1]/d/e.jpg": "d/e.jpg"}
    assert planned("s*/d") == {"s [1]/d/e.jpg": "s [1]/d/e.jpg", "s [1]/d/f/g.png": "s [1]/d/f/g.png"}
    assert planned(tmp_path / "s [[]1]/?.*") == {"s [1]/a.jpg": "s [1]/a.jpg", "s [1]/b.PNG": "s [1]/b.PNG"}
    assert planned("s [1]/d/e.jpg") == {"s [1]/d/e.jpg": "e.jpg"}
    assert planned("s [1]/d/e.jpg", "new/e.tif") == {"s [1]/d/e.jpg": "e.tif"}

    lines = ["s [1]/a.jpg", "", str(tmp_path / "x.jpg"), "./s [1]/a.jpg", "../elsewhere/y.jpg", "no such.gif"]
    away = str(tmp_path.parent / "elsewhere" / "y.jpg")
    expected = {"s [1]/a.jpg": "s [1]/a.jpg", "x.jpg": "x.jpg", "../elsewhere/y.jpg": away[1:]}
    expected["no such.gif"] = "no such.png"
    for separator, end in (("\n", ""), ("\r\n", "\r\n"), ("\0", "\0")):
        (tmp_path / "list.txt").write_bytes(("\ufeff" + separator.join(lines) + end).encode())
        assert planned("list.txt") == expected


@pytest.mark.parametrize("format", [None, "png", "jpg"])
def test_two_photos_never_become_one_file(format: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.gif", "a.png", "a.ppm", "b.gif", "c.jpg", "c.jpeg", "c.tif", "c.compare.jpg", "d.jpg", "d.jpg.png"):
        save(tmp_path / "in" / name, format="JPEG")
    results = planned("in", format=format)
    assert len(set(results.values())) == len(results)
    plan = jobs.plan(["in"], "out", format)
    everything = [path for job in plan.jobs for path in (job.result, job.as_png, job.compare) if path is not None]
    assert len(set(everything)) == len(everything)
    if format is None:
        own = ("a.png", "c.jpg", "c.jpeg", "c.tif", "c.compare.jpg", "d.jpg", "d.jpg.png")
        assert results == {f"in/{name}": name for name in own} | {
            "in/a.gif": "a.gif.png",
            "in/a.ppm": "a.ppm.png",
            "in/b.gif": "b.png",
        }
    monkeypatch.setattr(jobs, "same_name", lambda folder: str.casefold)  # as on a Mac
    save(tmp_path / "in" / "B.PNG")
    assert planned("in")["in/b.gif"] == "b.gif.png"


@pytest.mark.parametrize(
    ("given", "keys", "message"),
    [
        ("in", {"output": "in"}, "where the photos are"),
        ("in/*.png", {"output": "alias"}, "where the photos are"),
        ("in/a.png", {"output": "in/../in/a.png"}, "is the photo itself"),
        ("in/a.png", {"output": "hard.png"}, "is the photo itself"),
        ("in", {"output": "x.png"}, "no single photo"),
        ("in/a.png", {"output": "x.gif"}, ".gif files are not written"),
        ("in/a.png", {"output": "x.png", "format": "jpg"}, "contradict"),
        ("in", {"output": "in/a.png/"}, "is a file"),
        ("nothing", {}, "no such file or folder"),
        ("no*thing", {}, "no photos there"),
        ("empty", {}, "no photos there"),
        ("in", {"contact_sheet": "in/a.png"}, "is no page of this program"),
        ("in", {"contact_sheet": "out/a.png"}, "is a photo or its result"),
        ("in", {"contact_sheet": "page.gif"}, "ends in .jpg .jpeg"),
        ("in", {"checkpoint": "gone.ckpt"}, "there is no checkpoint gone.ckpt"),
        ("in", {"output": "taken"}, "failed.txt is not of this program"),
        ("in", {"device": "tpu"}, "device=tpu"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    given: str, keys: dict[str, Any], message: str, colour: Colour, tmp_path: Path
) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "alias").symlink_to("in", target_is_directory=True)
    os.link(tmp_path / "in" / "a.png", tmp_path / "hard.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "failed.txt").write_text("mine")
    before = digests(tmp_path)
    status, err = colour(given, **keys)
    assert status in (1, 2) and message in err and len(err.splitlines()) <= 2, err
    assert digests(tmp_path) == before


def test_output_in_the_input_and_links_to_photos(colour: Colour, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    out = tmp_path / "in" / "colour"
    for count in (2, 0):  # results are not coloured again
        status, err = colour("in", output="in/colour")
        assert status == 0 and f"{count} coloured, {2 - count} skipped" in err
        assert files(out) == ["a.png", "b.png"]
    (out / "a.png").unlink()
    (out / "b.png").unlink()
    os.link(tmp_path / "in" / "a.png", out / "a.png")
    (out / "b.png").symlink_to("../b.png")
    before = digests(tmp_path / "in")
    status, err = colour("in", output="in/colour", overwrite=True)
    assert status == 1 and "2 failed" in err
    assert err.count("its result would replace the photo") == 2
    assert {**digests(tmp_path / "in"), **before} == digests(tmp_path / "in")


# ----------------------------------------------------------------------------------------- interrupted and going wrong


def test_what_has_a_result_is_skipped_and_failures_are_tried_again(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(5):
        save(tmp_path / "in" / f"{index}.{'gif' if index == 2 else 'png'}", grey(index))
    (tmp_path / "in" / "4.png").write_bytes(b"")
    write = photo_batches.write_result

    def interrupted(job: jobs.Job, *arguments: Any) -> photo_batches.Outcome:
        if job.result.name == "3.png":
            raise KeyboardInterrupt
        return write(job, *arguments)

    monkeypatch.setattr(photo_batches, "write_result", interrupted)
    assert colour("in")[0] == 130
    assert files(tmp_path / "out") == ["0.png", "1.png", "2.png"]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(photo_batches, "write_result", write)
    status, err = colour("in")
    assert status == 1 and "1 coloured, 3 skipped (their results exist), 1 failed" in err
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert (tmp_path / "out" / "failed.txt").is_file()
    save(tmp_path / "in" / "4.png")
    status, err = colour("in")
    assert status == 0 and "1 coloured, 4 skipped" in err
    assert files(tmp_path / "out") == [f"{index}.png" for index in range(5)]  # and no failed.txt
    assert "5 coloured, 0 skipped" in colour("in", overwrite=True)[1]
    assert all(path.stat().st_mtime_ns > time for path, time in times.items())


def test_results_appear_whole_or_not_at_all(colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.jpg")
    save(tmp_path / "out" / "b.jpg")
    before = digests(tmp_path)
    fsync = os.fsync

    def full(number: int) -> OSError:
        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        return OSError()

    full(errno.EIO)
    status, err = colour("in", overwrite=True)
    assert status == 1 and "2 failed" in err and "in/a.png: Input/output error" in err
    (tmp_path / "out" / "failed.txt").unlink()
    assert digests(tmp_path) == before
    full(errno.ENOSPC)
    status, err = colour("in", overwrite=True)
    assert status == 1 and "No space left on device; make room, and the same command resumes" in err
    assert digests(tmp_path) == before
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("fault", ["memory", "memory for three", "not numbers", "memory for merging"])
def test_an_uncoloured_photo_is_never_a_result(
    fault: str, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        save(tmp_path / "in" / f"{index}.png", grey(index))
    forward = Generator.forward

    def broken(self: Any, shown: torch.Tensor) -> torch.Tensor:
        if fault == "memory" or (fault == "memory for three" and len(shown) > 2):
            raise torch.OutOfMemoryError("CUDA out of memory")
        made = forward(self, shown)
        return made * float("nan") if fault == "not numbers" else made

    def no_room(*_: Any) -> Iterator[Any]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Generator, "forward", broken)
    if fault == "memory for merging":
        monkeypatch.setattr("colorize.photos.rendering.merged_bands", no_room)
    status, err = colour("in", batch_size=4)
    if fault == "memory for three":
        assert status == 0 and "memory ran out with 4 photos at once: going on with 2" in err
        assert all(is_coloured_version(tmp_path / "out" / f"{index}.png", grey(index), 1) for index in range(4))
        return
    assert status == 1 and "0 coloured" in err and "4 failed" in err
    reasons = {"memory": "memory ran out even at", "memory for merging": "not enough memory"}
    assert err.count(reasons.get(fault, fault)) == 4
    assert files(tmp_path / "out") == ["failed.txt"]


def test_without_memory_for_threads_photos_are_coloured_all_the_same(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        save(tmp_path / "in" / f"{index}.png", grey(index))
    begin, begun = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    status, err = colour("in", batch_size=2)
    assert status == 0 and "4 coloured" in err and begun


def test_what_killed_starts_left_unfinished_is_cleared_but_nothing_else(colour: Colour, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    orphan, ours, theirs = (tmp_path / "out" / f".{name}.tmp" for name in ("0" * 32, "1" * 32, "notes"))
    for path in (orphan, ours, theirs):
        save(path, format="png")
    with ours.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as the process that writes it
        assert colour("in")[0] == 0
    assert [path.exists() for path in (orphan, ours, theirs)] == [False, True, True]
    with written_whole(tmp_path / "out" / "b.png") as file:  # type: ignore[assignment]
        clear_unfinished(tmp_path / "out")
        file.write(b"whole")  # type: ignore[arg-type]
    assert (tmp_path / "out" / "b.png").read_bytes() == b"whole" and not ours.exists()


def test_a_read_only_disk_is_not_told_to_make_room(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    save(tmp_path / "in" / "a.png")
    monkeypatch.setattr(os, "fsync", fail)
    status, err = colour("in")
    assert status == 1 and "Read-only file system; once it can be written to, the same command resumes" in err


def test_the_longest_name_can_be_compared_and_a_dangling_output_is_called_one(colour: Colour, tmp_path: Path) -> None:
    for name in ("ä" * 125 + "a.png", "ä" * 125 + "b.png", "x" * 255):
        save(tmp_path / "in" / name, format="png")
    status, err = colour("in", compare=True)
    assert status == 0 and "2 coloured" in err, "the third is no photo by its name"
    assert len(files(tmp_path / "out")) == 4
    (tmp_path / "link").symlink_to("nowhere")
    assert "link is a link to what is not there" in colour("in", output="link")[1]


def test_what_another_process_made_meanwhile_has_not_failed(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in" / "a.png")

    def beaten(job: jobs.Job, *_: Any) -> photo_batches.Outcome:
        save(job.result)
        return photo_batches.Outcome(job, reason="another process is at work on it")

    monkeypatch.setattr(photo_batches, "write_result", beaten)
    status, err = colour("in")
    assert status == 0 and "0 coloured, 1 skipped" in err
    assert files(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize("place", ["reading", "network"])
def test_a_photo_that_nobody_thought_of_fails_alone(
    place: str, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, forward = reading.read, Generator.forward
    for index in range(3):
        save(tmp_path / "in" / f"{index}.png", None if index else Image.new("L", (60, 44)))

    def fail(path: str | Path, *arguments: Any, **options: Any) -> reading.Photo:
        if Path(path).name == "0.png":
            raise ZeroDivisionError("float division by zero")
        return read(path, *arguments, **options)

    def stumble(self: Any, shown: torch.Tensor) -> torch.Tensor:
        if (shown == 0).flatten(1).all(dim=1).any():
            raise ZeroDivisionError("float division by zero")
        return forward(self, shown)

    if place == "reading":
        monkeypatch.setattr(reading, "read", fail)
    else:
        monkeypatch.setattr(Generator, "forward", stumble)
    status, err = colour("in", batch_size=3)
    assert status == 1 and "in/0.png: ZeroDivisionError: float division by zero" in err
    assert files(tmp_path / "out") == ["1.png", "2.png", "failed.txt"]
