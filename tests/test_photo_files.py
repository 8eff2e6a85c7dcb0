"""What is written beside a photo's pixels, their depth and their transparency, from file to coloured file."""

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo
from skimage import color

from colorize.data.images import load_rgb
from colorize.photos import reading, tags
from colorize.photos.metadata import Metadata, photoshop_block
from colorize.photos.results import write_tiff
from tests.predicting import PROFILES, Colour, files, grey, is_coloured_version, save


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
def test_metadata_stays_and_the_orientation_is_applied(suffix: str, colour: Colour, tmp_path: Path) -> None:
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
    assert colour("in")[0] == 0
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


def test_all_that_a_jpeg_says_goes_into_a_tiff_and_back(colour: Colour, tmp_path: Path) -> None:
    tagged(tmp_path / "a.jpg", 1, xmp=b"<x/>")
    assert colour("a.jpg", output="b.tif")[0] == 0
    assert colour("b.tif", output="c.jpg")[0] == 0
    with Image.open(tmp_path / "a.jpg") as first, Image.open(tmp_path / "c.jpg") as last:
        for group in (0x8769, 0x8825):
            assert last.getexif().get_ifd(group) == first.getexif().get_ifd(group)
        assert last.info["xmp"] == b"<x/>" and last.info["dpi"] == (300, 150)


def test_damaged_metadata_does_not_spoil_a_photo(colour: Colour, tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xff"
    save(tmp_path / "in" / "a.jpg", exif=exif, icc_profile=b"nonsense")
    long = PngInfo()
    long.add_itxt("XML:com.adobe.xmp", "x" * 70_000)
    save(tmp_path / "in" / "b.png", pnginfo=long)
    status, err = colour("in", format="jpg")
    assert (status, files(tmp_path / "out")) == (0, ["a.jpg", "b.jpg"])
    assert "out/b.jpg: without its XMP packet, which is too long for a JPEG" in err


def sixteen_bits(path: Path, **options: Any) -> np.ndarray[Any, Any]:
    values = np.linspace(0, 65535, 60 * 44).reshape(44, 60).round().astype(np.uint16)
    save(path, Image.fromarray(values), **options)
    return values


def test_sixteen_bits_stay_sixteen_bits(colour: Colour, tmp_path: Path) -> None:
    values = sixteen_bits(tmp_path / "in" / "a.png", dpi=(300, 300))
    sixteen_bits(tmp_path / "in" / "b.tif")
    sixteen_bits(tmp_path / "in" / "white is zero.tif", tiffinfo={TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 0})
    assert colour("in")[0] == 0
    out = tmp_path / "out"
    with Image.open(out / "a.png") as opened:
        assert opened.mode == "RGB" and opened.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    for made, expected in (
        (imagecodecs.png_decode((out / "a.png").read_bytes()), values),
        (tifffile.imread(out / "b.tif"), values),
        (tifffile.imread(out / "white is zero.tif"), 65535 - values),
    ):
        assert made.dtype.itemsize == 2
        assert np.abs(made @ np.array((0.299, 0.587, 0.114)) - expected).max() <= 1
        assert np.ptp(made.astype(int), axis=2).max() > 1000
    assert colour("in", output="other", format="jpg")[0] == 0
    assert files(tmp_path / "other") == ["a.png", "b.png", "white is zero.png"]  # which a JPEG cannot hold


def test_transparency_stays_where_the_format_has_it(colour: Colour, tmp_path: Path) -> None:
    half = grey().convert("LA")
    half.paste((0, 0), (0, 0, 30, 44))
    save(tmp_path / "in" / "a.png", half)
    save(tmp_path / "in" / "b.png", grey().convert("RGBA"))  # says nothing: all is opaque
    save(tmp_path / "in" / "c.tif", half)
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([0, 0, 0, 200, 200, 200])
    palette.paste(1, (0, 0, 20, 40))
    save(tmp_path / "in" / "d.gif", palette, transparency=0)
    assert colour("in", format="tiff")[0] == colour("in", output="jpgs", format="jpeg")[0] == 0
    modes = {}
    for path in (*(tmp_path / "out").iterdir(), *(tmp_path / "jpgs").iterdir()):
        with Image.open(path) as opened:
            modes[path.name] = opened.mode
            if path.name == "a.tif":
                assert opened.getchannel("A").tobytes() == half.getchannel("A").tobytes()
    rgba = {name: "RGBA" for name in ("a.tif", "c.tif", "d.tif", "a.png", "c.png", "d.png")}
    assert modes == {**rgba, "b.tif": "RGB", "b.jpg": "RGB"}
    status, err = colour("in/a.png", output="a.jpg")
    assert status == 1 and "a JPEG file cannot hold transparency" in err and not (tmp_path / "a.jpg").exists()


# ------------------------------------------------------------------------------------------------ nothing lost silently

ARTIST, DESCRIPTION = "Jürgen Müller", "Łódź 1931"
CAPTION = b"\x1c\x02\x78\x00\x11Mill at the river\x1c\x02\x19\x00\x04mill"
NOTED = ("jpg", "png", "webp", "tif", "avif")


def noted_photo(path: Path) -> Path:
    """A photo whose EXIF holds UTF-8, as ExifTool writes it, and whose IPTC stands where that puts it, if anywhere."""
    main = {number: tags.Tag(2, text.encode() + b"\0") for number, text in ((315, ARTIST), (270, DESCRIPTION))}
    exif = {
        0x9286: tags.Tag(7, b"UNICODE\0" + "Ł".encode("utf-16-le")),
        0xA434: tags.Tag(2, "Objektiv für Ämter\0".encode()),
    }
    block = b"Exif\0\0" + tags.pack(tags.Tags(main, exif, {}))
    if path.suffix != ".tif":
        segment = b"Photoshop 3.0\0" + photoshop_block(CAPTION)
        extra = b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment
        return save(path, exif=block, **({"extra": extra} if path.suffix == ".jpg" else {}))
    with path.open("wb") as file:
        words = CAPTION + bytes(-len(CAPTION) % 4)
        pixels = np.asarray(grey().convert("RGB"))
        write_tiff(file, 60, 44, [pixels], Metadata(exif=block, iptc=words))
    content = path.read_bytes()
    undefined, long = (struct.pack("<HHI", 33723, *kind) for kind in ((7, len(words)), (4, len(words) // 4)))
    assert content.count(undefined) == 1
    path.write_bytes(content.replace(undefined, long))  # as most programs type it
    return path


@pytest.mark.parametrize("suffix", NOTED)
@pytest.mark.parametrize("source", NOTED)
def test_exif_texts_and_captions_go_through_as_the_bytes_they_are(
    source: str, suffix: str, colour: Colour, tmp_path: Path
) -> None:
    noted_photo(tmp_path / f"in.{source}")
    status, err = colour(f"in.{source}", output=f"out.{suffix}")
    assert status == 0
    read = reading.read(tmp_path / f"out.{suffix}").metadata
    main, exif, *_ = tags.unpack(read.exif)
    assert (main[315].data, main[270].data) == (ARTIST.encode() + b"\0", DESCRIPTION.encode() + b"\0")
    assert exif[0x9286].data.startswith(b"UNICODE\0") and exif[0xA434] == tags.Tag(2, "Objektiv für Ämter\0".encode())
    captioned = source in ("jpg", "tif")
    if suffix in ("webp", "avif"):
        assert ("without its IPTC captions, for which" in err) == captioned
    else:
        assert (read.iptc or b"").startswith(CAPTION) == captioned


def test_avif_keeps_all_that_it_has_a_place_for(colour: Colour, tmp_path: Path) -> None:
    upright = tagged(tmp_path / "in.jpg", 6, xmp=b"<x/>", quality=98)
    assert colour("in.jpg", output="once.avif")[0] == colour("once.avif", output="twice.avif")[0] == 0
    assert is_coloured_version(tmp_path / "twice.avif", upright, 16)
    before, after = (reading.read(tmp_path / name).metadata for name in ("in.jpg", "twice.avif"))
    assert (after.icc, after.xmp) == (before.icc, before.xmp)
    main, exif, gps, *_ = tags.unpack(after.exif)
    assert tags.unpack(before.exif)[1:3] == (exif, gps)
    assert main[282].numbers == [150, 1] and main[283].numbers == [300, 1], "turned, as the photo is"
    assert load_rgb(tmp_path / "twice.avif").size == upright.size


def test_what_is_not_coloured_or_kept_is_said(colour: Colour, tmp_path: Path) -> None:
    for name, kind in (("a.tif", {}), ("b.webp", {"lossless": True}), ("c.png", {}), ("d.mpo", {}), ("e.gif", {})):
        save(tmp_path / "in" / name, save_all=True, append_images=[grey(1), grey(2)], **kind)
    save(tmp_path / "in" / "f.jpg", comment=b"from the attic")
    status, err = colour("in", format="png")
    assert status == 0
    for name in "abcde":
        assert f"out/{name}.png: only the first of its 3 pages, frames or views" in err
    assert "out/f.png: without its comment, for which a PNG has no place" in err


def test_every_suffix_of_a_format_is_taken_and_other_files_are_counted(colour: Colour, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jfif", "c.JPE", "d.pgm", "e.pnm", "f.mpo"):
        save(tmp_path / "in" / name, format="PPM" if name[0] in "de" else "JPEG")
    for name in ("g.dng", "h.dng", "i.cr2", "README"):
        (tmp_path / "in" / name).write_bytes(b"?")
    status, err = colour("in")
    assert status == 0 and files(tmp_path / "out") == ["a.jpg", "b.jfif", "c.JPE", "d.png", "e.png", "f.mpo"]
    assert "4 files were not looked at, as no photos or films by name: 1 without a suffix, 1 .cr2, 2 .dng\n" in err
    assert "6 coloured" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"8BPS\0\1", "a Photoshop file of other than 8 bits a channel: save it as a TIFF"),
        (b"%PDF-1.7", "a PDF file, which is not read"),
        (b"FUJIFILMCCD-RAW ", "a camera's raw file: develop it to a 16-bit TIFF first"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw file: develop it to a 16-bit TIFF first"),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera's raw file: develop it to a 16-bit TIFF first"),
    ],
)
def test_images_that_are_not_read_are_called_by_their_names(
    head: bytes, reason: str, colour: Colour, tmp_path: Path
) -> None:
    (tmp_path / "in.x").write_bytes(head + bytes(100))
    status, err = colour("in.x", output="out/")
    assert status == 1 and f"in.x: {reason}" in err


# -------------------------------------------------------------------------------------------------------- colour spaces


def seen(image: Image.Image) -> np.ndarray[Any, Any]:
    """CIE L*a*b* of what an image shows."""
    icc = image.info.get("icc_profile")
    if icc is not None:
        srgb, own = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
        image = ImageCms.profileToProfile(image, own, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB")
    return color.rgb2lab(np.asarray(image.convert("RGB")) / 255)


def test_photos_that_look_alike_get_colours_that_look_alike(colour: Colour, tmp_path: Path) -> None:
    y, x = np.mgrid[0:144, 0:192]
    plain = Image.fromarray((127 + 110 * np.sin(x / 40) * np.cos(y / 30)).astype(np.uint8)).convert("RGB")
    save(tmp_path / "in" / "plain.png", plain)
    srgb = ImageCms.createProfile("sRGB")
    for name, icc in PROFILES.items():
        own, mode = ImageCms.ImageCmsProfile(io.BytesIO(icc)), "L" if name.startswith("grey") else "RGB"
        made = ImageCms.profileToProfile(plain, srgb, own, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode=mode)
        save(tmp_path / "in" / f"{name}.png", made, icc_profile=icc)
        assert np.abs(np.asarray(load_rgb(tmp_path / "in" / f"{name}.png")).astype(int) - plain).max() <= 2, name
    assert colour("in")[0] == 0
    with Image.open(tmp_path / "out" / "plain.png") as opened:
        wanted = seen(opened)
    assert np.hypot(wanted[..., 1], wanted[..., 2]).mean() > 5
    for name, icc in PROFILES.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as opened:
            away = color.deltaE_ciede2000(seen(opened), wanted).mean()
            assert opened.info.get("icc_profile") == (None if name.startswith("grey") else icc)
        # Eight bits of ProPhoto alone, rounded from exact colours, are 0.4 away.
        assert away < (0.5 if name == "prophoto" else 0.3), name
    colour("in", output="bmp", format="bmp")  # which has no place for a profile, and so is sRGB
    with Image.open(tmp_path / "bmp" / "adobe.bmp") as opened:
        assert color.deltaE_ciede2000(seen(opened), wanted).mean() < 0.3
