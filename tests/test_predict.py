"""`colorize.predict` as a user types it: what comes out, what is left alone, and what is said of the rest."""

import errno
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from colorize import archive, colorizer, inputs, predict
from colorize.cli import command
from colorize.config import BadOption, PredictConfig
from colorize.data import photos, results
from colorize.errors import UserError
from colorize.rendering import Preprocessing
from tests.conftest import draw_photo
from tests.tiny_checkpoint import SIZE_PX, tiny_unet, write_checkpoint

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "last.ckpt")


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Run:
    """`run(input, **keys)`: exit status of the command in tmp_path, and what it says; output=out unless given."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "colorize")

    def loaded(_: str, device: str, precision: str, use_ema: bool) -> colorizer.Colorizer:
        return colorizer.Colorizer(tiny_unet(), Preprocessing(SIZE_PX), device, precision)

    def start(given: str | Path, **keys: Any) -> tuple[int, str]:
        caplog.clear()
        config = PredictConfig(
            **{"checkpoint": str(checkpoint), "output": "out", "device": "cpu", **keys, "input": str(given)}
        )
        try:
            predict.run(config)
        except BadOption as error:
            return 2, f"{caplog.text}{error}"
        except UserError as error:
            return 1, f"{caplog.text}{error}"
        except KeyboardInterrupt:
            return 130, caplog.text
        return 0, caplog.text

    monkeypatch.setattr(colorizer.Colorizer, "from_checkpoint", loaded)
    return start


def grey(seed: int = 0, width: int = 60, height: int = 44) -> Image.Image:
    return draw_photo(seed).resize((width, height)).convert("L")


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or grey()).save(path, **options)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def is_coloured_version(result: Path, source: Image.Image, tolerance: float) -> bool:
    """Whether a result has the luma of `source`, and colours."""
    with Image.open(result) as opened:
        rgb = np.asarray(opened.convert("RGB"), float)
    luma = np.asarray(source.convert("L"), float)
    black_and_white = set(np.unique(luma)) <= {0, 255}  # have no colours
    if rgb.shape[:2] != luma.shape or (np.ptp(rgb, axis=2).max() <= tolerance and not black_and_white):
        return False
    return bool(np.abs(rgb @ np.array((0.299, 0.587, 0.114)) - luma).max() <= tolerance)


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
        **{"truncated.jpg": "truncated", "empty.jpg": "empty", "page.jpg": "not a picture", "bomb.ppm": "200 million"},
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
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in = [it's], (1)"
    good, bad = hostile_folder(root)
    before = digests(root)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command("predict", predict.run, [f"checkpoint={checkpoint}", f"input={root}", "output=out", "device=cpu"])
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
            assert opened.format == results.SUFFIXES[suffix], name
    reasons = dict(line.split("\t") for line in (out / "failed.txt").read_text("utf-8").splitlines()[1:])
    assert reasons.keys() == {str(root / name) for name in bad}
    for name, word in bad.items():
        assert word in reasons[str(root / name)], name
        assert f"{root / name}: {reasons[str(root / name)]}\n" in err
    assert digests(root) == before
    (root / "closed").chmod(0o700)


def test_names_are_shown_on_one_line() -> None:
    assert inputs.shown(os.fsdecode(b"a\n\x1b[31m\xff") + " Фото") == "a\\n\\x1b[31m\\udcff Фото"


# -------------------------------------------------------------------------------------------- what a result is made of


def tagged(path: Path, orientation: int, **options: Any) -> Image.Image:
    """Writes a grey photo stored turned, with all that may be written beside it; returns it upright."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    exif.get_ifd(0x8769).update({0x9003: "1931:05:01 12:00:00", 0xA002: 44, 0xA003: 60})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.5)})
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = grey(1).transpose(Image.Transpose.ROTATE_90)
    save(path, stored, exif=exif, icc_profile=icc, dpi=(300, 150), **options)
    return grey(1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_metadata_stays_and_the_orientation_is_applied(suffix: str, run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in" / f"a.{suffix}"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:title="May Day"/></x:xmpmeta>'
    options: dict[str, Any] = {"quality": 98, "comment": b"from the attic"} if suffix == "jpg" else {}
    if suffix == "png":
        info = PngInfo()
        info.add_itxt("Title", "Täst")
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": info}
    elif suffix != "tif":
        options["xmp"] = xmp
    upright = tagged(source, 6, **options | ({"lossless": True} if suffix == "webp" else {}))
    assert run("in")[0] == 0
    assert is_coloured_version(tmp_path / "out" / source.name, upright, 12 if suffix in ("jpg", "webp") else 1)
    with Image.open(source) as before, Image.open(tmp_path / "out" / source.name) as after:
        exif = after.getexif()
        assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "Maker"
        if suffix != "tif":  # in which Pillow writes none of this
            assert exif.get_ifd(0x8769) == {0x9003: "1931:05:01 12:00:00", 0xA002: 60, 0xA003: 44}
            assert exif.get_ifd(0x8825) == {1: "N", 2: (52.0, 31.0, 12.5)}
            kept = after.info.get("xmp") or after.info["XML:com.adobe.xmp"].encode()
            assert kept == xmp.replace(b'Orientation="6"', b'Orientation="1"')
        assert after.info["icc_profile"] == before.info["icc_profile"]
        if suffix != "webp":
            assert after.info["dpi"] == pytest.approx((150, 300), abs=0.1)
        if suffix == "jpg":
            assert after.info["comment"] == b"from the attic"
        if suffix == "png":
            assert after.info["Title"] == "Täst"


def test_all_that_a_jpeg_says_goes_into_a_tiff_and_back(run: Run, tmp_path: Path) -> None:
    tagged(tmp_path / "a.jpg", 1, xmp=b"<x/>")
    assert run("a.jpg", output="b.tif")[0] == 0
    assert run("b.tif", output="c.jpg")[0] == 0
    with Image.open(tmp_path / "a.jpg") as first, Image.open(tmp_path / "c.jpg") as last:
        for group in (0x8769, 0x8825):
            assert last.getexif().get_ifd(group) == first.getexif().get_ifd(group)
        assert last.info["xmp"] == b"<x/>" and last.info["dpi"] == (300, 150)


def test_damaged_metadata_does_not_spoil_a_photo(run: Run, tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xff"
    save(tmp_path / "in" / "a.jpg", exif=exif, icc_profile=b"nonsense")
    long = PngInfo()
    long.add_itxt("XML:com.adobe.xmp", "x" * 70_000)
    save(tmp_path / "in" / "b.png", pnginfo=long)
    status, err = run("in", format="jpg")
    assert (status, files(tmp_path / "out")) == (0, ["a.jpg", "b.jpg"])
    assert "out/b.jpg: without its XMP packet, which is too long for a JPEG" in err


def sixteen_bits(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    values = np.linspace(0, 65535, 60 * 44).reshape(44, 60).round().astype(np.uint16)
    save(path, Image.fromarray(values), **options)
    return values


def read_deep_png(path: Path) -> np.ndarray[Any, Any]:
    """A 16-bit RGB PNG with filter Sub on every row (Pillow reads 8 bits)."""
    content, at, packed = path.read_bytes(), 8, b""
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + data) == int.from_bytes(content[at + 8 + length : at + 12 + length], "big")
        if kind == b"IHDR":
            width, height = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
            assert data[8:] == bytes((16, 2, 0, 0, 0))
        packed += data if kind == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 1).all()
    return np.ascontiguousarray(rows[:, 1:].reshape(height, width, 6).cumsum(1, dtype=np.uint8)).view(">u2")


def test_sixteen_bits_stay_sixteen_bits(run: Run, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = sixteen_bits(tmp_path / "in" / "a.png", dpi=(300, 300))
    sixteen_bits(tmp_path / "in" / "b.tif")
    sixteen_bits(tmp_path / "in" / "white is zero.tif", tiffinfo={TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 0})
    assert run("in")[0] == 0
    out = tmp_path / "out"
    with Image.open(out / "a.png") as opened:
        assert opened.mode == "RGB" and opened.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    for made, expected in (
        (read_deep_png(out / "a.png"), values),
        (tifffile.imread(out / "b.tif"), values),
        (tifffile.imread(out / "white is zero.tif"), 65535 - values),
    ):
        assert made.dtype.itemsize == 2
        assert np.abs(made @ np.array((0.299, 0.587, 0.114)) - expected).max() <= 1
        assert np.ptp(made.astype(int), axis=2).max() > 1000
    assert run("in", output="other", format="jpg")[0] == 0
    assert files(tmp_path / "other") == ["a.png", "b.png", "white is zero.png"]  # which a JPEG cannot hold


def test_transparency_stays_where_the_format_has_it(run: Run, tmp_path: Path) -> None:
    half = grey().convert("LA")
    half.paste((0, 0), (0, 0, 30, 44))
    save(tmp_path / "in" / "a.png", half)
    save(tmp_path / "in" / "b.png", grey().convert("RGBA"))  # says nothing: all is opaque
    save(tmp_path / "in" / "c.tif", half)
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([0, 0, 0, 200, 200, 200])
    palette.paste(1, (0, 0, 20, 40))
    save(tmp_path / "in" / "d.gif", palette, transparency=0)
    assert run("in", format="tiff")[0] == run("in", output="jpgs", format="jpeg")[0] == 0
    modes = {}
    for path in (*(tmp_path / "out").iterdir(), *(tmp_path / "jpgs").iterdir()):
        with Image.open(path) as opened:
            modes[path.name] = opened.mode
            if path.name == "a.tif":
                assert opened.getchannel("A").tobytes() == half.getchannel("A").tobytes()
    rgba = {name: "RGBA" for name in ("a.tif", "c.tif", "d.tif", "a.png", "c.png", "d.png")}
    assert modes == {**rgba, "b.tif": "RGB", "b.jpg": "RGB"}
    status, err = run("in/a.png", output="a.jpg")
    assert status == 1 and "a JPEG file cannot hold transparency" in err and not (tmp_path / "a.jpg").exists()


def test_keep_color_leaves_colour_photos_as_they_are(run: Run, tmp_path: Path) -> None:
    source = save(tmp_path / "in" / "colour.jpg", draw_photo(1), quality=80)
    save(tmp_path / "in" / "grey.jpg")
    status, err = run("in", keep_color=True)
    assert status == 0 and "1 coloured, 1 left in their own colours, 0 skipped" in err
    assert (tmp_path / "out" / "colour.jpg").read_bytes() == source.read_bytes()
    run("in", keep_color=True, output="pngs", format="png")
    with Image.open(tmp_path / "pngs" / "colour.png") as made, Image.open(source) as own:
        assert made.tobytes() == own.tobytes()


def test_quality_compare_and_contact_sheet(run: Run, tmp_path: Path) -> None:
    for index in range(2):
        save(tmp_path / "in" / f"{index}.jpg", grey(index, 1100, 500))
    words = {"compare": True, "contact_sheet": "in/page.png"}
    assert run("in", **words, quality=30)[0] == 0
    named = [f"{index}.{kind}" for index in range(2) for kind in ("compare.jpg", "jpg")]
    assert files(tmp_path / "out") == sorted(named)
    with Image.open(tmp_path / "out" / "0.compare.jpg") as pair:
        assert pair.size == (2000, 455)
        left, right = (np.asarray(pair.crop((x, 0, x + 1000, 455)), int) for x in (0, 1000))
    assert np.ptp(left, axis=2).mean() < 1 < 5 < np.ptp(right, axis=2).mean()
    small = (tmp_path / "out" / "0.jpg").stat().st_size
    status, err = run("in", **words, overwrite=True)  # its own page is no photo to colour
    assert status == 0 and "2 coloured" in err
    assert (tmp_path / "out" / "0.jpg").stat().st_size > 1.5 * small
    with Image.open(tmp_path / "in" / "page.png") as page:
        assert page.width > 900 and np.ptp(np.asarray(page, int), axis=2).max() > 10


# -------------------------------------------------------------------------------------- which photos, and where they go


def planned(given: str | Path, output: str = "out", format: str | None = None) -> dict[str, str]:
    """Sources and results of a plan, relative to where they are."""
    plan = inputs.plan(str(given), output, format)
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
    plan = inputs.plan("in", "out", format)
    everything = [path for job in plan.jobs for path in (job.result, job.as_png, job.compare) if path is not None]
    assert len(set(everything)) == len(everything)
    if format is None:
        own = ("a.png", "c.jpg", "c.jpeg", "c.tif", "c.compare.jpg", "d.jpg", "d.jpg.png")
        assert results == {f"in/{name}": name for name in own} | {
            "in/a.gif": "a.gif.png",
            "in/a.ppm": "a.ppm.png",
            "in/b.gif": "b.png",
        }
    monkeypatch.setattr(inputs, "_same_name", lambda folder: str.casefold)  # as on a Mac
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
        ("in", {"contact_sheet": "page.gif"}, "ends in .jpg"),
        ("in", {"checkpoint": "gone.ckpt"}, "there is no checkpoint gone.ckpt"),
        ("in", {"output": "taken"}, "failed.txt is not of this program"),
        ("in", {"quality": 101}, "quality=101"),
        ("in", {"device": "tpu"}, "device=tpu"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    given: str, keys: dict[str, Any], message: str, run: Run, tmp_path: Path
) -> None:
    save(tmp_path / "in" / "a.png")
    (tmp_path / "alias").symlink_to("in", target_is_directory=True)
    os.link(tmp_path / "in" / "a.png", tmp_path / "hard.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "failed.txt").write_text("mine")
    before = digests(tmp_path)
    status, err = run(given, **keys)
    assert status in (1, 2) and message in err and len(err.splitlines()) <= 2, err
    assert digests(tmp_path) == before


def test_output_in_the_input_and_links_to_photos(run: Run, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    out = tmp_path / "in" / "colour"
    for count in (2, 0):  # results are not coloured again
        status, err = run("in", output="in/colour")
        assert status == 0 and f"{count} coloured, {2 - count} skipped" in err
        assert files(out) == ["a.png", "b.png"]
    (out / "a.png").unlink()
    (out / "b.png").unlink()
    os.link(tmp_path / "in" / "a.png", out / "a.png")
    (out / "b.png").symlink_to("../b.png")
    before = digests(tmp_path / "in")
    status, err = run("in", output="in/colour", overwrite=True)
    assert status == 1 and "2 failed" in err
    assert err.count("its result would replace the photo") == 2
    assert {**digests(tmp_path / "in"), **before} == digests(tmp_path / "in")


# ----------------------------------------------------------------------------------------- interrupted and going wrong


def test_what_has_a_result_is_skipped_and_failures_are_tried_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(5):
        save(tmp_path / "in" / f"{index}.{'gif' if index == 2 else 'png'}", grey(index))
    (tmp_path / "in" / "4.png").write_bytes(b"")
    write = archive._write

    def interrupted(job: inputs.Job, *arguments: Any) -> archive.Outcome:
        if job.result.name == "3.png":
            raise KeyboardInterrupt
        return write(job, *arguments)

    monkeypatch.setattr(archive, "_write", interrupted)
    assert run("in")[0] == 130
    assert files(tmp_path / "out") == ["0.png", "1.png", "2.png"]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(archive, "_write", write)
    status, err = run("in")
    assert status == 1 and "1 coloured, 3 skipped (their results exist), 1 failed" in err
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert (tmp_path / "out" / "failed.txt").is_file()
    save(tmp_path / "in" / "4.png")
    status, err = run("in")
    assert status == 0 and "1 coloured, 4 skipped" in err
    assert files(tmp_path / "out") == [f"{index}.png" for index in range(5)]  # and no failed.txt
    assert "5 coloured, 0 skipped" in run("in", overwrite=True)[1]
    assert all(path.stat().st_mtime_ns > time for path, time in times.items())


def test_results_appear_whole_or_not_at_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.jpg")
    save(tmp_path / "out" / "b.jpg")
    before = digests(tmp_path)
    fsync = os.fsync

    def full(number: int) -> OSError:
        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(results.os, "fsync", fail)
        return OSError()

    full(errno.EIO)
    status, err = run("in", overwrite=True)
    assert status == 1 and "2 failed" in err and "in/a.png: Input/output error" in err
    (tmp_path / "out" / "failed.txt").unlink()
    assert digests(tmp_path) == before
    full(errno.ENOSPC)
    status, err = run("in", overwrite=True)
    assert status == 1 and "No space left on device; make room, and the same command goes on" in err
    assert digests(tmp_path) == before
    monkeypatch.setattr(results.os, "fsync", fsync)


@pytest.mark.parametrize("fault", ["memory", "memory for three", "not numbers", "memory for merging"])
def test_an_uncoloured_photo_is_never_a_result(
    fault: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        save(tmp_path / "in" / f"{index}.png", grey(index))
    forward = colorizer.UNet.forward

    def broken(self: Any, shown: torch.Tensor) -> torch.Tensor:
        if fault == "memory" or (fault == "memory for three" and len(shown) > 2):
            raise torch.OutOfMemoryError("CUDA out of memory")
        made = forward(self, shown)
        return made * float("nan") if fault == "not numbers" else made

    def no_room(*_: Any) -> Iterator[Any]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(colorizer.UNet, "forward", broken)
    if fault == "memory for merging":
        monkeypatch.setattr("colorize.rendering.merged_bands", no_room)
    status, err = run("in", batch_size=4)
    if fault == "memory for three":
        assert status == 0 and "memory ran out with 4 photos at once: going on with 2" in err
        assert all(is_coloured_version(tmp_path / "out" / f"{index}.png", grey(index), 1) for index in range(4))
        return
    assert status == 1 and "0 coloured" in err and "4 failed" in err
    reasons = {"memory": "memory ran out even at", "memory for merging": "not enough memory"}
    assert err.count(reasons.get(fault, fault)) == 4
    assert files(tmp_path / "out") == ["failed.txt"]


def test_a_photo_that_nobody_thought_of_fails_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = photos.read
    for index in range(2):
        save(tmp_path / "in" / f"{index}.png")

    def fail(path: str | Path, *arguments: Any, **options: Any) -> photos.Photo:
        if Path(path).name == "0.png":
            raise ZeroDivisionError("float division by zero")
        return read(path, *arguments, **options)

    monkeypatch.setattr(photos, "read", fail)
    status, err = run("in")
    assert status == 1 and "in/0.png: ZeroDivisionError: float division by zero" in err
    assert files(tmp_path / "out") == ["1.png", "failed.txt"]
