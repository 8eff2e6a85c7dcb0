"""Photos from file to file without the network: processor seconds and memory, against merging in RGB at full size.

The baseline is what this project did before: every photo decoded whole, merged in float32 RGB by torch, written by
Pillow (PNG and TIFF by zlib at level 3).
"""

import argparse
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from common import compare, in_child, interleaved, parser, peak_mb, processor_seconds, save, start, table
from PIL import Image

from colorize.color import merge_luma
from colorize.data.scenes import draw_scene
from colorize.photos import reading, results
from colorize.photos.rendering import coloured
from colorize.photos.results import write_tiff
from colorize.runtime.formats import WRITTEN_SUFFIXES

WAYS = ((".jpg", ".jpg"), (".png", ".jpg"), (".png", ".png"), (".tif", ".tif"))
"""Suffixes of source and result."""

BAND_PIXELS = 1 << 18


def draw(folder: Path, megapixels: float) -> None:
    """Write a noisy grey photo as JPEG, PNG and TIFF."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    scene = Image.fromarray(draw_scene(0, 0, 1024).rgb).convert("L").resize((round(1.5 * height), height))
    noise = np.random.default_rng(0).normal(0, 4, (height, scene.width))
    photo = Image.fromarray((np.asarray(scene) + noise).clip(0, 255).astype(np.uint8))
    for suffix, options in ((".jpg", {"quality": 92}), (".png", {}), (".tif", {"compression": "tiff_adobe_deflate"})):
        photo.save(folder / f"photo{suffix}", **options)


def network_output() -> np.ndarray[Any, Any]:
    """Return colours as a network gives them, 256 × 384 px."""
    return np.ascontiguousarray(draw_scene(0, 0, 384).rgb[:256].transpose(2, 0, 1), np.float32) / 255


def merged_in_rgb(luma: np.ndarray[Any, Any], rgb: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield bands as `colorize.photos.rendering.merged_bands` does, computed in float32 at full size."""
    height, width = luma.shape
    planes, rows, scale = (
        [Image.fromarray(plane) for plane in rgb],
        max(1, BAND_PIXELS // width),
        rgb.shape[-2] / height,
    )
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        box, size = (0, top * scale, rgb.shape[-1], min(bottom * scale, rgb.shape[-2])), (width, bottom - top)
        band = np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC, box)) for plane in planes])
        grey = torch.from_numpy(luma[top:bottom].astype(np.float32) / 255)[None]
        merged = merge_luma(torch.from_numpy(band), grey).mul_(255).round_()
        yield merged.permute(1, 2, 0).numpy().astype(np.uint8, order="C")


def before(folder: Path, source: str, result: str, rgb: np.ndarray[Any, Any]) -> None:
    """Colour the photo as it used to be done."""
    photo = reading.read(folder / f"photo{source}")
    path, bands = folder / f"before{result}", merged_in_rgb(photo.luma, rgb)
    if result == ".tif":
        libdeflate = imagecodecs.deflate_encode
        imagecodecs.deflate_encode = lambda data, _: zlib.compress(data, 3)
        with path.open("wb") as file:
            write_tiff(file, *photo.size, bands, photo.metadata)
        imagecodecs.deflate_encode = libdeflate
        return
    image = results.BandedImage(*photo.size, channels=3, bits=8, bands=lambda: bands).to_image()
    image.save(path, **({"compress_level": 3} if result == ".png" else {"quality": 95}))


def now(folder: Path, source: str, result: str, rgb: np.ndarray[Any, Any]) -> None:
    """Colour the photo as `colorize.predict` does."""
    photo = reading.read(folder / f"photo{source}", as_jpeg=result == ".jpg")
    results.save(folder / f"now{result}", coloured(photo, rgb), WRITTEN_SUFFIXES[result], photo.metadata, 95)


def peak(way: Any, folder: Path, source: str, result: str) -> float:
    """Return the megabytes that a photo takes at most above those of the process before, which did a small one."""
    rgb = np.full((3, 256, 384), 0.5, np.float32)
    rgb[0] += 0.1
    way(folder / "small", source, result, rgb)
    loaded = peak_mb()
    way(folder, source, result, rgb)
    return peak_mb() - loaded


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each way."""
    rows, rgb = [], network_output()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, options.megapixels)
        (folder / "small").mkdir()
        draw(folder / "small", 0.01)
        for source, result in (way for way in WAYS if way[1] in options.kinds):
            ways = {
                "before": partial(before, folder, source, result, rgb),
                "now": partial(now, folder, source, result, rgb),
            }
            timed = {key: partial(processor_seconds, way) for key, way in ways.items()}
            [_, row] = compare(interleaved(timed, options.repeats), "before")
            sizes = {key: (folder / f"{key}{result}").stat().st_size for key in ways}
            memory = {
                key: in_child(peak, way, folder, source, result)[0] for key, way in (("before", before), ("now", now))
            }
            rows.append(
                {"source": source, "result": result, **row, "size_ratio": sizes["now"] / sizes["before"]}
                | {f"{key}_mb": megabytes for key, megabytes in memory.items()}
            )
    return rows


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__)
    options.add_argument("--megapixels", type=float, default=12)
    options.add_argument("--kinds", nargs="+", default=[".jpg", ".png", ".tif"], help="of results")
    given = options.parse_args()
    start(given)
    if given.quick:
        given.megapixels = 0.5
    rows = measure(given)
    print(table(rows, f"A noisy photo of {given.megapixels:g} megapixels, file to file without the network"))
    save("photos", {"photos": rows}, given)


if __name__ == "__main__":
    main()
