"""The formats that archives hold: each read to the value, written so that its luma stays, or refused with a way out."""

import re
import struct
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from colorize.data.images import load_rgb
from colorize.photos import boxes, reading, tags
from colorize.photos.opening import MAX_PIXELS, UnreadableImage
from colorize.runtime.formats import FORMATS
from tests.predicting import PROFILES, Colour, files
from tests.test_photo_files import CAPTION, noted_photo, tagged

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 44, 60
LUMA = np.array((0.299, 0.587, 0.114))
RNG = np.random.default_rng(0)
GREY = np.clip(
    np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) + RNG.integers(-2000, 2000, (HEIGHT, WIDTH)), 0, 65535
).astype(np.uint16)
TONED = np.clip(GREY[..., None] * np.array((1.0, 0.93, 0.81)) + RNG.integers(0, 257, (HEIGHT, WIDTH, 3)), 0, 65535)
TONED = TONED.astype(np.uint16)
"""A scan in colour of a yellowed photo: no sample is a multiple of 257, as 8 bits would be."""

EIGHT = (GREY >> 8).astype(np.uint8)


def decoded(path: Path) -> Array:
    """Samples as libraries read them that did not write them, where there are such."""
    content = path.read_bytes()
    if path.suffix == ".webp":
        return imagecodecs.webp_decode(content)
    if path.suffix == ".tif":
        return tifffile.imread(path)
    decode = {".png": "png_decode", ".jxl": "jpegxl_decode"}.get(path.suffix, "jpeg2k_decode")
    return getattr(imagecodecs, decode)(content)


def test_luma_stays_to_the_level_where_nothing_is_lost_in_coding(colour: Colour, tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    sources: dict[str, Array] = {}

    def add(name: str, samples: Array, content: bytes = b"") -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        sources[name] = samples
        if name.endswith(".tif"):
            tifffile.imwrite(tmp_path / "in" / name, samples, photometric="rgb" if samples.ndim == 3 else "minisblack")
        else:
            (tmp_path / "in" / name).write_bytes(content)

    for bits, samples in ((8, EIGHT), (16, GREY), (48, TONED)):
        add(f"{bits}.png", samples, imagecodecs.png_encode(samples))
        add(f"{bits}.tif", samples)
        add(f"{bits}.jp2", samples, imagecodecs.jpeg2k_encode(samples, reversible=True))
        add(f"{bits}.j2k", samples, imagecodecs.jpeg2k_encode(samples, reversible=True, codecformat="j2k"))
    add("8.jxl", EIGHT, imagecodecs.jpegxl_encode(EIGHT, lossless=True))
    add("8.webp", EIGHT, imagecodecs.webp_encode(np.stack([EIGHT] * 3, -1), lossless=True))
    status, err = colour("in", quality=100)
    assert status == 0 and files(tmp_path / "out") == sorted(sources), err
    for name, source in sources.items():
        made = decoded(tmp_path / "out" / name)
        wanted = source.astype(float) if source.ndim == 2 else source @ LUMA
        assert made.dtype == source.dtype and made.shape == (HEIGHT, WIDTH, 3), name
        away = np.abs(made @ LUMA - wanted).max()
        assert away <= (1.0 if source.ndim == 3 else 0.51), f"{name}: in levels of its own depth"
        assert np.ptp(made.astype(int), axis=2).max() > (5 if made.dtype == np.uint8 else 1000), name
        if made.dtype == np.uint8:
            assert np.array_equal(np.asarray(Image.fromarray(made).convert("L")), source), name


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2"])
def test_sixteen_bits_of_another_colour_space(suffix: str, colour: Colour, tmp_path: Path) -> None:
    path, icc = tmp_path / f"in.{suffix}", PROFILES["adobe"]
    if suffix == "tif":
        tifffile.imwrite(path, TONED, photometric="rgb", iccprofile=icc, compression="lzw")
    elif suffix == "jp2":
        path.write_bytes(boxes.jp2_file(bytes(imagecodecs.jpeg2k_encode(TONED)), reading.Metadata(icc=icc)))
    else:
        Image.fromarray(EIGHT).save(path, icc_profile=icc)
        profile = re.search(rb"....iCCP.*?(?=....IDAT)", path.read_bytes(), re.S)
        content = bytes(imagecodecs.png_encode(TONED))
        path.write_bytes(content[:33] + (profile[0] if profile else b"") + content[33:])
    assert colour(path.name, output=f"out.{suffix}")[0] == 0
    before, after = (reading.read(tmp_path / name) for name in (path.name, f"out.{suffix}"))
    assert after.metadata.icc == icc and after.luma.dtype == np.uint16
    assert np.abs(after.luma.astype(int) - before.luma).max() <= 257, "a level of 8 bits"
    # The definition of Adobe RGB (1998), through its primaries to those of sRGB.
    linear = (TONED / 65535) ** 2.19921875
    to_srgb = np.array([[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.04293, 1.04293]])
    srgb = np.clip(linear @ to_srgb.T, 0, 1)
    srgb = np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)
    assert np.abs(before.luma / 65535 - srgb @ LUMA).max() < 0.5 / 255


@pytest.mark.parametrize("suffix", ["jp2", "jxl", "heic"])
def test_what_is_known_of_a_photo_goes_through(suffix: str, colour: Colour, tmp_path: Path) -> None:
    pytest.importorskip({"jxl": "pillow_jxl", "heic": "pillow_heif"}.get(suffix, "PIL"))
    upright = tagged(tmp_path / "a.jpg", 6, xmp=b"<x:xmpmeta/>", quality=98)
    noted_photo(tmp_path / "b.jpg")
    for name in "ab":
        status, err = colour(f"{name}.jpg", output=f"{name}.{suffix}")
        assert status == 0
        assert colour(f"{name}.{suffix}", output=f"{name}2.{suffix}")[0] == 0
    before, after = (reading.read(tmp_path / name) for name in ("a.jpg", f"a2.{suffix}"))
    assert after.size == upright.size == load_rgb(tmp_path / f"a2.{suffix}").size
    assert np.abs(after.luma.astype(int) - np.asarray(upright)).mean() < 3
    assert after.metadata.xmp == before.metadata.xmp
    main, exif, gps, *_ = tags.unpack(after.metadata.exif)
    assert tags.unpack(before.metadata.exif)[1:3] == (exif, gps)
    if suffix != "jxl":
        assert after.metadata.icc == before.metadata.icc
    if suffix == "jp2":
        assert after.metadata.dpi == pytest.approx((150, 300)) and "without" not in err
        with Image.open(tmp_path / "a2.jp2") as opened:
            assert opened.info["dpi"] == pytest.approx((150, 300))
    else:
        assert (main[282].numbers, main[283].numbers) == ([150, 1], [300, 1]), "turned, as the photo is"
        assert "without its IPTC captions" in err
    noted = reading.read(tmp_path / f"b2.{suffix}").metadata
    assert tags.unpack(noted.exif).main[315].data == "Jürgen Müller\0".encode()
    assert (noted.iptc or b"").startswith(CAPTION) == (suffix == "jp2")


def test_transparency_and_more_than_eight_bits_in_every_depth(tmp_path: Path) -> None:
    alpha = np.where(GREY > 30000, 65535, 0).astype(np.uint16)
    for samples in (np.dstack([GREY, alpha]), np.dstack([TONED, alpha])):
        for suffix, encode in (("png", imagecodecs.png_encode), ("jp2", imagecodecs.jpeg2k_encode)):
            (tmp_path / f"a.{suffix}").write_bytes(encode(samples))
            photo = reading.read(tmp_path / f"a.{suffix}")
            wanted = GREY if samples.shape[2] == 2 else TONED @ LUMA
            assert photo.alpha is not None and np.array_equal(photo.alpha, alpha >> 8)
            assert np.abs(photo.luma - wanted).max() <= 0.51
    for bits in (10, 12):
        for samples in (GREY >> 16 - bits, TONED >> 16 - bits):
            (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(samples, bitspersample=bits, reversible=True))
            wanted = samples / (2**bits - 1) * 65535
            wanted = wanted if samples.ndim == 2 else wanted @ LUMA
            assert np.abs(reading.read(tmp_path / "a.jp2").luma - wanted).max() <= 1.01
    content = bytes(imagecodecs.png_encode(TONED))
    at = content.index(b"IDAT") - 4
    clear = b"tRNS" + TONED[5, 5].astype(">u2").tobytes()
    chunk = struct.pack(">I", 6) + clear + struct.pack(">I", imagecodecs.zlib_crc32(clear))
    (tmp_path / "a.png").write_bytes(content[:at] + chunk + content[at:])
    photo = reading.read(tmp_path / "a.png")
    assert photo.alpha is not None and photo.alpha[5, 5] == 0 and photo.alpha.mean() > 250


def test_a_scan_that_has_colours_keeps_them_in_all_their_bits(colour: Colour, tmp_path: Path) -> None:
    x = np.linspace(0, 65535, WIDTH).astype(np.uint16)
    samples = np.stack([np.broadcast_to(line, (HEIGHT, WIDTH)) for line in (x, x[::-1], np.roll(x, 20))], axis=-1)
    tifffile.imwrite(tmp_path / "in.tif", samples, photometric="rgb", iccprofile=PROFILES["adobe"])
    assert colour("in.tif", output="out.png", keep_color=True)[0] == 0
    assert np.array_equal(decoded(tmp_path / "out.png"), samples)
    assert colour("in.tif", output="out.dpx", keep_color=True)[0] == 0
    own = reading.read(tmp_path / "out.dpx", keep_color=True).own
    assert own is not None and own.dtype == np.uint16


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colours_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    tag = [(274, "H", 1, orientation, True)]
    for name, samples in (("deep", TONED), ("plain", (TONED >> 8).astype(np.uint8))):
        tifffile.imwrite(tmp_path / f"{name}.tif", samples, photometric="rgb", extratags=tag)
    deep, plain = (reading.read(tmp_path / f"{name}.tif").luma for name in ("deep", "plain"))
    assert deep.shape == plain.shape and np.abs(deep / 257 - plain).max() <= 2


# -------------------------------------------------------------------------------------------------- kinds of containers


def test_kinds_of_tiff_that_archives_hold(tmp_path: Path) -> None:
    path, white = tmp_path / "a.tif", EIGHT > 127
    for compression in ("group3", "group4", "tiff_ccitt", "packbits"):
        Image.fromarray(white).save(path, compression=compression)
        assert np.array_equal(reading.read(path).luma, white * 255)
        content = path.read_bytes()  # the tag PhotometricInterpretation the other way round
        black, other = (struct.pack("<HHIHH", 262, 3, 1, kind, 0) for kind in (1, 0))
        assert content.count(black) + content.count(other) == 1
        path.write_bytes(content.replace(black, other) if black in content else content.replace(other, black))
        assert np.array_equal(reading.read(path).luma, ~white * 255)
    for order in "<>":
        for samples in (EIGHT, GREY, TONED):
            kind = "rgb" if samples.ndim == 3 else "miniswhite"
            options: dict[str, Any] = {"bigtiff": True, "byteorder": order, "tile": (16, 16), "compression": "zlib"}
            tifffile.imwrite(path, samples, photometric=kind, **options)
            wanted = samples @ LUMA if samples.ndim == 3 else np.iinfo(samples.dtype).max - samples
            assert np.abs(reading.read(path).luma - wanted).max() <= 0.51


def psd(path: Path, planes: Array, mode: int) -> Path:
    """A Photoshop file without layers: planes (C, H, W), uncompressed."""
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, *planes.shape, planes.dtype.itemsize * 8, mode)
    path.write_bytes(header + bytes(12) + b"\0\0" + planes.astype(planes.dtype.newbyteorder(">")).tobytes())
    return path


def test_photoshops_composite(colour: Colour, tmp_path: Path) -> None:
    colors = np.moveaxis((TONED >> 8).astype(np.uint8), -1, 0)
    with_selection = np.concatenate([colors, EIGHT[None] // 2])
    for planes in (colors, with_selection):
        photo = reading.read(psd(tmp_path / "in.psd", planes, 3))
        assert photo.alpha is None and np.abs(photo.luma - np.moveaxis(colors, 0, -1) @ LUMA).max() <= 0.51
    assert colour("in.psd", output="out/")[0] == 0 and files(tmp_path / "out") == ["in.png"]
    with pytest.raises(UnreadableImage, match="save it as a TIFF"):
        reading.read(psd(tmp_path / "deep.psd", np.stack([GREY] * 3), 3))


def test_an_mpo_gives_its_first_view(tmp_path: Path) -> None:
    first, second = Image.fromarray(EIGHT), Image.fromarray(EIGHT[::-1].copy())
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second], quality=100)
    photo = reading.read(tmp_path / "a.mpo")
    assert photo.notes == ("only the first of its 2 pages, frames or views",) and photo.format == "JPEG"
    assert np.abs(photo.luma.astype(int) - EIGHT).max() <= 2


def test_sizes_of_jpeg_xls_are_known_before_they_are_decoded(tmp_path: Path) -> None:
    for height, width in ((1, 1), (8, 8), (16, 24), (300, 400), (40, 256), (513, 9), (1080, 1920), (3, 3000)):
        for dtype, container in ((np.uint8, True), (np.uint16, False)):
            image = np.zeros((height, width, 3), dtype)
            content = bytes(imagecodecs.jpegxl_encode(image, usecontainer=container, effort=1))
            assert boxes.jxl_size(content) == (width, height)
    header = 3 << 1 | 1 << 32 | 1 << 33  # 30 bits of height, and as wide
    huge = b"\xff\x0a" + header.to_bytes(12, "little")
    assert boxes.jxl_size(huge)[0] > MAX_PIXELS
    (tmp_path / "a.jxl").write_bytes(huge)
    with pytest.raises(UnreadableImage, match="million pixels"):
        reading.read(tmp_path / "a.jxl")


@pytest.mark.parametrize(("suffix", "module"), [("jxl", "pillow_jxl"), ("heic", "pillow_heif.HeifImagePlugin")])
def test_without_the_extra_a_line_says_what_to_install(
    suffix: str, module: str, colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    start = {"jxl": b"\xff\x0a", "heic": b"\0\0\0\x18ftypheic"}[suffix]
    (tmp_path / f"in.{suffix}").write_bytes(start + bytes(100))
    Image.fromarray(EIGHT).save(tmp_path / "in.png")
    assert 'pip install "colorize[formats]"' in colour(f"in.{suffix}", output="out.png")[1]
    status, err = colour("in.png", output=f"out.{suffix}")
    assert status == 1 and 'pip install "colorize[formats]"' in err


def test_the_page_of_formats_says_what_the_table_does() -> None:
    page = (Path(__file__).parent.parent / "docs" / "PHOTOS.md").read_text()
    rows = {tuple(re.findall(r"`(\.\w+)`", line)): line.split("|")[1:-1] for line in page.splitlines() if "`." in line}
    assert list(rows) == [format.suffixes for format in FORMATS]
    for format in FORMATS:
        _, read, written, depth, transparency, metadata = (cell.strip() for cell in rows[format.suffixes][:6])
        assert ("extra" in read) == bool(format.plugin)
        assert written.startswith("as PNG") == (not format.written)
        if format.written:
            assert ("16" in depth, transparency == "yes") == (format.sixteen_bits, format.alpha), format.name
            words = {"exif": "EXIF", "icc": "profile", "dpi": "resolution", "xmp": "XMP", "iptc": "IPTC"}
            missing = {field for field in words if field not in format.keeps}
            said = metadata.split("without ")[1] if "without " in metadata else ""
            assert {field for field, word in words.items() if word in said} == missing, format.name
