"""Every kind of TIFF is read to the value, by predict and by training alike, or refused by its name."""

import struct
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from colorize.data.images import load_rgb
from colorize.photos import reading
from colorize.photos.opening import UnreadableImage
from tests.predicting import Colour

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 24, 36
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
RAMP = X / (WIDTH - 1) * 0.6 + Y / (HEIGHT - 1) * 0.4
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
LUMA = np.array((0.299, 0.587, 0.114))


def planes(count: int) -> Array:
    """(H, W, count) in [0, 1]: smooth, from black to white, each channel another."""
    return np.stack([np.clip(RAMP * (1 - 0.15 * i) + 0.05 * i, 0, 1) for i in range(count)], axis=-1)


def write(path: Path, entries: dict[int, tuple[str, list[int]]], data: bytes, order: str = "<") -> Path:
    """A TIFF of one directory and one strip; `entries` give struct's code (H SHORT, I LONG) and values for each tag."""
    entries = {256: ("I", [WIDTH]), 257: ("I", [HEIGHT]), 259: ("H", [1]), 277: ("H", [1])} | entries
    entries |= {273: ("I", [0]), 278: ("I", [HEIGHT]), 279: ("I", [len(data)])}
    at = 8 + 2 + 12 * len(entries) + 4
    behind = at + sum(size for code, numbers in entries.values() if (size := struct.calcsize(code) * len(numbers)) > 4)
    entries[273] = ("I", [behind])
    table, values = b"", b""
    for tag, (code, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack(f"{order}I", at + len(values))
        table += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + packed.ljust(4, b"\0")
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(entries))
    path.write_bytes(head + table + bytes(4) + values + data)
    return path


def packed_bits(values: Array, bits: int) -> bytes:
    """Rows of samples of any depth, each row filled up to whole bytes."""
    rows = values.reshape(len(values), -1)
    split = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(split.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def read_both(path: Path) -> tuple[Array, Array]:
    """Luma in [0, 1] as predict reads it, and RGB in [0, 1] as training does."""
    photo = reading.read(path)
    return photo.luma / np.iinfo(photo.luma.dtype).max, np.asarray(load_rgb(path)) / 255


KINDS = [
    (photometric, bits, planar, extra)
    for photometric, bits, planar, extra in product(CHANNELS, (8, 16), ("contig", "separate"), (None, 0, 2))
    if planar == "contig" or CHANNELS[photometric] > 1 or extra is not None
]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("photometric", "bits", "planar", "extra"), KINDS)
def test_depth_layout_colours_compression_and_order(
    photometric: str, bits: int, planar: str, extra: int | None, order: str, tmp_path: Path
) -> None:
    full, count = 2**bits - 1, CHANNELS[photometric]
    samples = np.round(planes(count) * full)
    if extra is not None:  # neither opacity nor an unknown channel changes the colours
        samples = np.concatenate([samples, np.full((HEIGHT, WIDTH, 1), full)], axis=-1)
    samples = samples.astype(f"u{bits // 8}")
    stored = np.moveaxis(samples, -1, 0) if planar == "separate" else samples
    options: dict[str, Any] = {"photometric": photometric, "byteorder": order, "metadata": None}
    options |= {"planarconfig": planar} if samples.shape[-1] > 1 else {}
    options |= {"extrasamples": [extra]} if extra is not None else {}
    colors = samples[..., :count] / full
    if count == 4:
        cmyk = Image.frombytes("CMYK", (WIDTH, HEIGHT), np.round(colors * 255).astype(np.uint8).tobytes())
        colors = np.asarray(cmyk.convert("RGB")) / 255
    colors = 1 - colors if photometric == "miniswhite" else colors
    for compression, tiled in ((None, False), ("zlib", True), ("lzw", False), ("packbits", False), ("zstd", True)):
        path = tmp_path / "a.tif"
        kind = options | {"compression": compression, "tile": (16, 16) if tiled else None}
        tifffile.imwrite(path, stored if stored.shape[-1] > 1 else stored[..., 0], **kind)
        luma, rgb = read_both(path)
        wanted = colors[..., 0] if count == 1 else colors @ LUMA
        tolerance = 1.01 / 255 if bits == 8 or count == 4 else 0.51 / 65535 if count == 3 else 1e-9
        assert np.abs(luma - wanted).max() <= tolerance, (compression, tiled)
        assert np.abs(rgb - colors).max() <= 1.01 / 255, (compression, tiled)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize(("photometric", "count"), [(0, 1), (1, 1), (2, 3)])
def test_white_is_the_greatest_value_of_any_depth(
    photometric: int, count: int, bits: int, order: str, tmp_path: Path
) -> None:
    full = 2**bits - 1
    samples = np.round(planes(count) * full).astype(int)
    tags = {258: ("H", [bits] * count), 262: ("H", [photometric]), 277: ("H", [count])}
    luma, rgb = read_both(write(tmp_path / "a.tif", tags, packed_bits(samples, bits), order))
    wanted = (1 - samples / full) if photometric == 0 else samples / full
    assert np.abs(luma - (wanted[..., 0] if count == 1 else wanted @ LUMA)).max() <= (1.01 if count > 1 else 0.51) / 255
    assert np.abs(rgb - wanted).max() <= 0.51 / 255


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_samples_begin_at_their_least(bits: int, tmp_path: Path) -> None:
    samples = np.round(planes(1)[..., 0] * (2**bits - 1)).astype(int)
    tifffile.imwrite(tmp_path / "a.tif", (samples - 2 ** (bits - 1)).astype(f"i{bits // 8}"), photometric="minisblack")
    luma, _ = read_both(tmp_path / "a.tif")
    assert np.abs(luma - samples / (2**bits - 1)).max() < 1e-9


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale", [1, 257])
def test_palettes_of_8_and_of_16_bits(bits: int, scale: int, tmp_path: Path) -> None:
    indices = np.round(RAMP * (2**bits - 1)).astype(int)
    table = np.linspace(0, 255, 2**bits).round().astype(int)
    tags = {258: ("H", [bits]), 262: ("H", [3]), 277: ("H", [1]), 320: ("H", (np.tile(table, 3) * scale).tolist())}
    luma, rgb = read_both(write(tmp_path / "a.tif", tags, packed_bits(indices, bits)))
    assert np.abs(luma * 255 - table[indices]).max() == 0 == np.abs(rgb[..., 1] * 255 - table[indices]).max()


def test_subsampled_chroma_without_jpeg(tmp_path: Path) -> None:
    luma = np.round(RAMP * 255).astype(np.uint8)
    units = luma.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).transpose(0, 2, 1, 3).reshape(HEIGHT // 2, WIDTH // 2, 4)
    data = np.concatenate([units, np.full((HEIGHT // 2, WIDTH // 2, 2), 128, np.uint8)], axis=-1).tobytes()
    tags = {258: ("H", [8, 8, 8]), 262: ("H", [6]), 277: ("H", [3]), 530: ("H", [2, 2])}
    read, _ = read_both(write(tmp_path / "a.tif", tags, data))
    assert np.abs(read * 255 - luma).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("photometric", "zero"), [(8, 0), (9, 128)])
def test_lab_in_both_codings_and_depths(photometric: int, zero: int, bits: int, tmp_path: Path) -> None:
    lightness = np.round(RAMP * 255).astype(int)
    stored = [lightness if bits == 8 else lightness * 257, *[np.full_like(lightness, zero << bits - 8)] * 2]
    tags = {258: ("H", [bits] * 3), 262: ("H", [photometric]), 277: ("H", [3])}
    path = write(tmp_path / "a.tif", tags, np.stack(stored, axis=-1).astype(f"<u{bits // 8}").tobytes())
    lab = np.stack([lightness, 0 * lightness, 0 * lightness], axis=-1).astype(np.uint8)
    wanted = Image.frombytes("LAB", (WIDTH, HEIGHT), lab.tobytes()).convert("RGB")
    assert np.abs(read_both(path)[1] * 255 - np.asarray(wanted)).max() <= 1


def test_a_channel_that_is_not_said_to_be_opacity_is_none(colour: Colour, tmp_path: Path) -> None:
    """As the infrared channel of a scanner's raw file."""
    grey = np.round(RAMP * 65535).astype("<u2")
    tags = {258: ("H", [16] * 4), 262: ("H", [2]), 277: ("H", [4])}
    path = write(tmp_path / "in.tif", tags, np.stack([grey, grey, grey, grey // 2], axis=-1).tobytes())
    luma, rgb = read_both(path)
    assert np.abs(luma - RAMP).max() <= 1.01 / 255 and np.abs(rgb[..., 0] - RAMP).max() <= 1.01 / 255
    status, err = colour("in.tif", output="out.png")
    assert status == 0 and "out.png: without 1 of its channels" in err


def test_opacity_of_16_bits_and_multiplied_into_the_colours(tmp_path: Path) -> None:
    opacity = np.full((HEIGHT, WIDTH), 0.5)
    for extra, factor in (("unassalpha", 1.0), ("assocalpha", 0.5)):
        for count, photometric in ((1, "minisblack"), (3, "rgb")):
            samples = np.concatenate([planes(count) * factor, opacity[..., None]], axis=-1)
            deep = np.round(samples * 65535).astype("u2")
            options = {"photometric": photometric, "planarconfig": "contig", "extrasamples": [extra]}
            tifffile.imwrite(tmp_path / "a.tif", deep, **options)
            photo = reading.read(tmp_path / "a.tif")
            wanted = planes(count)[..., 0] if count == 1 else planes(count) @ LUMA
            assert photo.alpha is not None and set(np.unique(photo.alpha)) == {128}
            assert np.abs(photo.luma / 65535 - wanted).max() <= 2.5 / 65535


@pytest.mark.parametrize("suffix", ["tif", "dng"])
def test_a_thumbnail_is_never_taken_for_the_photo(suffix: str, colour: Colour, tmp_path: Path) -> None:
    photo = np.round(planes(3) * 255).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / f"in.{suffix}") as file:
        below = {"subifds": 1} if suffix == "dng" else {}
        file.write(np.ascontiguousarray(photo[::6, ::6]), photometric="rgb", subfiletype=1, **below)
        file.write(photo, photometric="rgb", subfiletype=0)
    luma, rgb = read_both(tmp_path / f"in.{suffix}")
    assert luma.shape == (HEIGHT, WIDTH) and np.array_equal(rgb * 255, photo)
    assert "only the first" not in colour(f"in.{suffix}", output="out.png")[1]


@pytest.mark.parametrize("order", "<>")
def test_orientation_holds_for_what_pillow_does_not_read(order: str, tmp_path: Path) -> None:
    samples = np.round(planes(1)[..., 0] * 4095).astype(int)
    tags = {258: ("H", [12]), 262: ("H", [1]), 277: ("H", [1]), 274: ("H", [6])}
    luma, rgb = read_both(write(tmp_path / "a.tif", tags, packed_bits(samples, 12), order))
    assert np.abs(luma - np.rot90(samples, -1) / 4095).max() < 1e-4 and rgb.shape[:2] == (WIDTH, HEIGHT)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_what_is_missing_is_not_taken_for_black(compression: str | None, tmp_path: Path) -> None:
    samples = np.round(planes(1)[..., 0] * 65535).astype("u2")
    options: dict[str, Any] = {"photometric": "miniswhite", "compression": compression, "rowsperstrip": 4}
    tifffile.imwrite(tmp_path / "a.tif", samples, **options)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-100])
    with pytest.raises(UnreadableImage, match="truncated"):
        load_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["tif", "jpg", "png"])
def test_no_resolution_is_invented(suffix: str, colour: Colour, tmp_path: Path) -> None:
    tags = {258: ("H", [8]), 262: ("H", [1]), 277: ("H", [1])}
    write(tmp_path / "in.tif", tags, np.round(RAMP * 255).astype(np.uint8).tobytes())
    assert colour("in.tif", output=f"out.{suffix}")[0] == 0
    with Image.open(tmp_path / f"out.{suffix}") as made:
        if suffix == "tif":
            assert not {282, 283} & set(made.tag_v2)
        else:
            assert "dpi" not in made.info and made.info.get("jfif_unit", 0) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({262: ("H", [32803])}, "develop it to a 16-bit TIFF"),
        ({262: ("H", [34892]), 258: ("H", [8] * 3), 277: ("H", [3])}, "develop it to a 16-bit TIFF"),
        ({50706: ("H", [1])}, "develop it to a 16-bit TIFF"),
        ({258: ("H", [16]), 339: ("H", [3])}, "floating-point pixels, whose range is not known"),
        ({258: ("H", [64])}, "64-bit pixels, whose range is not known"),
        ({258: ("H", [5, 6, 5]), 277: ("H", [3]), 262: ("H", [2])}, "channels differ in depth"),
        ({262: ("H", [77])}, "of an unknown kind"),
        ({262: ("H", [5]), 258: ("H", [8] * 4), 277: ("H", [4]), 332: ("H", [2])}, "other inks than cyan"),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(
    change: dict[int, tuple[str, list[int]]], words: str, tmp_path: Path
) -> None:
    tags = {258: ("H", [8]), 262: ("H", [1]), 277: ("H", [1])} | change
    path = write(tmp_path / "a.tif", tags, bytes(HEIGHT * WIDTH * 8))
    for read in (reading.read, load_rgb):
        with pytest.raises(UnreadableImage, match=words):
            read(path)
