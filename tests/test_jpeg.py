"""JPEG to JPEG: the luma's coefficients stay as they are; and how exact luma is elsewhere."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from colorize.photos import jpeg, reading
from colorize.photos.rendering import chroma_planes, coloured, merged_bands
from colorize.photos.results import save
from colorize.runtime.formats import FORMATS
from tests.predicting import PROFILES, Colour, grey, is_coloured_version
from tests.predicting import save as save_photo

jpeglib = pytest.importorskip("jpeglib", reason="there is no wheel of jpeglib for this machine")

JPEG = next(format for format in FORMATS if format.name == "JPEG")
RGB = np.random.default_rng(0).uniform(0.1, 0.9, (3, 12, 16)).astype(np.float32)


def noise(width: int, height: int, mode: str = "L") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def coefficients(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The luma's DCT coefficients, and what they are quantised by."""
    jpeglib.version.set("turbo210")
    read = jpeglib.read_dct(str(path))
    return read.Y, read.qt[read.quant_tbl_no[0]]


def decoded(path: Path) -> Image.Image:
    """The upright luma, as a decoder gives it."""
    with Image.open(path) as image:
        image.draft("L", image.size)
        return ImageOps.exif_transpose(image.convert("L"))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 70),
    st.integers(1, 70),
    st.sampled_from(["L", "4:4:4", "4:2:2", "4:2:0"]),
    st.booleans(),
    st.sampled_from([0, 1, 5]),
    st.integers(1, 100),
    st.sampled_from(["420", "444"]),
)
def test_luma_keeps_its_coefficients(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    sampling: str,
    progressive: bool,
    restart: int,
    quality: int,
    chroma: str,
) -> None:
    folder = tmp_path_factory.mktemp("jpeg")
    options: dict[str, Any] = {"quality": quality, "progressive": progressive, "restart_marker_blocks": restart}
    if sampling != "L":
        options["subsampling"] = sampling
    noise(width, height, "L" if sampling == "L" else "RGB").save(folder / "in.jpg", **options)
    photo = reading.read(folder / "in.jpg", as_jpeg=True)
    assert photo.stored is not None and photo.size == (width, height)
    assert save(folder / "out.jpg", coloured(photo, RGB), JPEG, photo.metadata, 95, chroma) == []
    for before, after in zip(coefficients(folder / "in.jpg"), coefficients(folder / "out.jpg"), strict=True):
        assert np.array_equal(before, after)
    with Image.open(folder / "out.jpg") as made:
        made.draft("YCbCr", made.size)
        assert made.size == (width, height) and made.layer[0][1:3] == ((2, 2) if chroma == "420" else (1, 1))
        shown = np.asarray(made.convert("YCbCr"), int)[..., 1:]
    times = 2 if chroma == "420" else 1
    planes = [p.repeat(times, 0).repeat(times, 1) for p in chroma_planes(photo.luma, photo.size, RGB, times == 2)]
    written = np.stack(planes, axis=-1)[:height, :width]
    assert np.abs(shown - written).mean() < 20, "noise in luma makes noise in what fits the gamut"


def test_16_bit_tables_and_large_photos_too(tmp_path: Path) -> None:
    noise(40, 24).save(tmp_path / "in.jpg", qtables=[[300] * 64])
    y, x = np.mgrid[0:2051, 0:2049]
    Image.fromarray((127 + 100 * np.sin(x / 90) * np.cos(y / 70)).astype(np.uint8)).save(tmp_path / "large.jpg")
    for name in ("in", "large"):
        photo = reading.read(tmp_path / f"{name}.jpg", as_jpeg=True)
        assert photo.stored is not None
        save(tmp_path / f"{name}_.jpg", coloured(photo, RGB), JPEG, photo.metadata, 95)
        for before, after in zip(*(coefficients(tmp_path / f"{name}{end}.jpg") for end in ("", "_")), strict=True):
            assert np.array_equal(before, after)
    assert photo.luma.shape == (1026, 1025), "a large one is decoded at half its size"
    with Image.open(tmp_path / "large_.jpg") as made:
        shown = np.asarray(made.convert("YCbCr"), int)
    planes = np.stack(
        [p.repeat(2, 0).repeat(2, 1)[:2051, :2049] for p in chroma_planes(photo.luma, photo.size, RGB, True)], -1
    )
    assert np.abs(shown[..., 1:] - planes).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_to_the_coefficients(orientation: int, colour: Colour, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, size in (("whole", (64, 40)), ("odd", (61, 43))):
        noise(*size).save(tmp_path / f"{name}.jpg", exif=exif, quality=90)
        status, err = colour(f"{name}.jpg", output=f"{name}_colour.jpg", verbose=True)
        assert status == 0
        taken_over = name == "whole" or orientation in (1, 5)
        said = (
            "luma as it was stored"
            if taken_over
            else "encoded anew: turned upright at a size that is no multiple of 8 px"
        )
        assert said in err
        before, after = decoded(tmp_path / f"{name}.jpg"), decoded(tmp_path / f"{name}_colour.jpg")
        assert before.size == after.size
        away = np.abs(np.asarray(before, int) - np.asarray(after, int)).max()
        assert away <= (0 if orientation == 1 else 1 if taken_over else 20)
        with Image.open(tmp_path / f"{name}_colour.jpg") as made:
            assert made.size == before.size and made.getexif().get(0x0112, 1) == 1
        if taken_over:
            pair = [np.sort(np.abs(coefficients(tmp_path / f"{name}{end}.jpg")[0]), None) for end in ("", "_colour")]
            assert np.array_equal(*pair)


def arithmetic(content: bytes) -> bytes:
    """Call a baseline JPEG one of arithmetic coding."""
    return content.replace(b"\xff\xc0", b"\xff\xc9", 1)


def test_what_cannot_be_taken_over_is_encoded_anew_and_says_why(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    save_photo(folder / "png.png")
    save_photo(folder / "cmyk.jpg", grey().convert("CMYK"))
    save_photo(folder / "rgb.jpg", grey().convert("RGB"), keep_rgb=True)
    save_photo(folder / "adobe.jpg", grey().convert("RGB"), icc_profile=PROFILES["adobe"])
    grey_profile = next(icc for name, icc in PROFILES.items() if name.startswith("grey"))
    save_photo(folder / "grey.jpg", icc_profile=grey_profile)
    status, err = colour("in", format="jpg", verbose=True)
    assert status == 0
    for name, why in (
        ("png", "it is a PNG"),
        ("cmyk", "it is CMYK"),
        ("rgb", "it is stored as RGB, without luma"),
        ("adobe", "its colour profile is not sRGB"),
        ("grey", "its colour profile is not sRGB"),
    ):
        assert f"{name}.jpg: encoded anew: {why}" in err
        with Image.open(tmp_path / "out" / f"{name}.jpg") as made:
            assert np.ptp(np.asarray(made.convert("RGB"), int), axis=2).mean() > 5
    assert "encoded anew" not in colour("in", output="quiet", format="jpg")[1]
    save_photo(tmp_path / "plain.jpg")
    with Image.open(tmp_path / "plain.jpg") as image:
        said = jpeg.stored_luma(image, arithmetic((tmp_path / "plain.jpg").read_bytes()), None)
    assert isinstance(said, str) and "arithmetic" in said
    monkeypatch.setattr(jpeg, "_jpeglib", lambda: None)
    assert (
        "plain_.jpg: encoded anew: the package jpeglib is not installed"
        in colour("plain.jpg", output="plain_.jpg", verbose=True)[1]
    )


def test_coefficients_that_libjpeg_does_not_read_do_not_spoil_a_photo(
    colour: Colour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise OSError("reading of DCT failed")

    save_photo(tmp_path / "a.jpg")
    monkeypatch.setattr(jpeg.StoredLuma, "_coefficients", refused)
    status, err = colour("a.jpg", output="b.jpg")
    assert status == 0 and "b.jpg: without its luma as it was stored" in err
    assert is_coloured_version(tmp_path / "b.jpg", grey(), 12)


def test_sepia_gives_way_and_its_luma_stays(colour: Colour, tmp_path: Path) -> None:
    sepia = ImageOps.colorize(grey(), "#201000", "#fff0d0")
    sepia.save(tmp_path / "a.jpg", quality=97)
    assert colour("a.jpg", output="b.jpg", keep_color=True, compare=True)[0] == 0
    for before, after in zip(coefficients(tmp_path / "a.jpg"), coefficients(tmp_path / "b.jpg"), strict=True):
        assert np.array_equal(before, after)
    with Image.open(tmp_path / "a.jpg") as old, Image.open(tmp_path / "b.jpg") as new:
        hues = [np.asarray(image.convert("YCbCr"), int)[..., 1:] for image in (old, new)]
    assert np.abs(np.subtract(*hues)).mean() > 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_luma_is_exact_when_it_is_computed_from_the_pixels(dtype: type) -> None:
    full = int(np.iinfo(dtype).max)
    luma = np.random.default_rng(0).integers(0, full, (300, 200), dtype=dtype, endpoint=True)
    made = np.concatenate(list(merged_bands(luma, RGB)))
    assert np.array_equal(np.rint(made @ np.array((0.299, 0.587, 0.114))), luma)
    if dtype == np.uint8:
        assert np.array_equal(np.asarray(Image.fromarray(made).convert("L")), luma)


def test_lossless_files_have_the_photos_very_luma(colour: Colour, tmp_path: Path) -> None:
    for suffix in ("png", "tif", "bmp"):
        save_photo(tmp_path / "in" / f"a.{suffix}", noise(60, 44))
    assert colour("in")[0] == 0
    for suffix in ("png", "tif", "bmp"):
        with Image.open(tmp_path / "out" / f"a.{suffix}") as made:
            assert np.array_equal(np.asarray(made.convert("L")), np.asarray(noise(60, 44)))
            assert np.ptp(np.asarray(made, int), axis=2).max() > 5


def test_the_ordinary_way_writes_the_chroma_that_fits(tmp_path: Path) -> None:
    y, x = np.mgrid[0:48, 0:64]
    smooth = Image.fromarray((127 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8))
    photo = reading.from_image(smooth)
    save(tmp_path / "a.jpg", coloured(photo, RGB), JPEG, photo.metadata, 100)
    content = io.BytesIO((tmp_path / "a.jpg").read_bytes())
    with Image.open(content) as made:
        made.draft("YCbCr", made.size)
        ycc = np.asarray(made.convert("YCbCr"), int)
    assert np.abs(ycc[..., 0] - np.asarray(smooth)).max() <= 2
    pixels = np.asarray(Image.fromarray(np.concatenate(list(merged_bands(photo.luma, RGB)))).convert("YCbCr"), int)
    assert np.abs(ycc - pixels)[..., 1:].mean() < 4
