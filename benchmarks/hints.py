"""Hints: how near colours come to the truth, the more points of a photo are known; and whether the palette has them.

A hint is the true colour of 7 x 7 pixels around a random pixel, as Zhang et al. 2017 and iColoriT reveal them. Of drawn
scenes there is also one hint for each region. `--photos DIR` adds photos of your own.
"""

import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, save, start, table
from PIL import Image
from torch import Tensor

from colorize import Colorizer, Hint
from colorize.color import ciede2000, merge_luma, rgb_to_grey, rgb_to_lab
from colorize.data.scenes import draw_scene
from colorize.metrics import mean_ciede2000, psnr
from colorize.photos.opening import to_rgb

Pixels = np.ndarray[Any, Any]
COUNTS = (0, 1, 2, 5, 10, 50)
POINTS = 5
"""Points of each photo at which the palette is asked."""


def true_hint(truth: Pixels, x: int, y: int) -> Hint:
    """The mean colour of the 7 x 7 pixels around a pixel."""
    patch = truth[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].reshape(-1, 3)
    return Hint(x, y, tuple(map(float, patch.mean(axis=0))))


def random_hints(truth: Pixels, count: int, seed: int) -> list[Hint]:
    """Hints at random pixels; those of fewer are the first of more."""
    dice = random.Random(seed)
    height, width = truth.shape[:2]
    return [true_hint(truth, dice.randrange(width), dice.randrange(height)) for _ in range(count)]


def region_hints(truth: Pixels, regions: Pixels, seed: int) -> list[Hint]:
    """A hint at a random pixel of each region of a scene that is at least a percent of it."""
    dice, hints = random.Random(seed), []
    for region in np.unique(regions):
        rows, columns = np.nonzero(regions == region)
        if len(rows) >= regions.size / 100:
            chosen = dice.randrange(len(rows))
            hints.append(true_hint(truth, int(columns[chosen]), int(rows[chosen])))
    return hints


def as_tensor(pixels: Pixels) -> Tensor:
    """`(1, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def curve(colorizer: Colorizer, truths: list[Pixels], given: dict[str, list[list[Hint]]]) -> list[dict[str, Any]]:
    """A row for each name of `given`, which has the hints of each photo."""
    rows: list[dict[str, Any]] = []
    for name, hints in given.items():
        found, seconds = [], []
        for truth, own in zip(truths, hints, strict=True):
            grey = np.asarray(Image.fromarray(truth).convert("L"))
            begin = time.process_time()
            made = as_tensor(colorizer.colorize(grey, hints=own))
            seconds.append(time.process_time() - begin)
            found.append((float(psnr(made, as_tensor(truth))), float(mean_ciede2000(made, as_tensor(truth)))))
        means = [statistics.fmean(values) for values in zip(*found, strict=True)]
        rows.append({"hints": name, "psnr": f"{means[0]:.2f}", "ciede2000": f"{means[1]:.2f}"})
        rows[-1] |= {"s": statistics.median(seconds), "most_s": max(seconds)}
    return rows


def palettes(colorizer: Colorizer, truths: list[Pixels]) -> list[dict[str, Any]]:
    """CIEDE2000 between the truth at random points, on the palette's luma, and the best of so many of its colours."""
    distances = []
    for seed, truth in enumerate(truths):
        for hint in random_hints(truth, POINTS, seed):
            colours = torch.tensor(colorizer.likely_colors(truth, hint.x, hint.y)).float().T[..., None] / 255
            true = merge_luma(torch.tensor(hint.rgb).view(3, 1, 1) / 255, rgb_to_grey(colours))
            distances.append(ciede2000(rgb_to_lab(colours), rgb_to_lab(true)).flatten())
    nearest = torch.stack(distances).cummin(dim=1).values.mean(dim=0)
    return [{"colours": count + 1, "nearest_ciede2000": f"{float(d):.2f}"} for count, d in enumerate(nearest)]


def main() -> None:
    """Measure, print, save."""
    options = parser(__doc__)
    options.add_argument("--photos", type=Path, help="a folder of colour photos")
    options.add_argument("--count", type=int, default=40, help="how many photos and scenes, the first by name")
    given = options.parse_args()
    start(given)
    if given.quick:
        given.count = 2
    counts = COUNTS[:3] if given.quick else COUNTS
    colorizer = Colorizer.from_checkpoint(device="cpu")
    scenes = [draw_scene(0, index, 256) for index in range(given.count)]
    sets = {"drawn scenes": [scene.rgb for scene in scenes]}
    if given.photos is not None:
        names = sorted(path for path in given.photos.iterdir() if path.is_file())[: given.count]
        sets["photos"] = [np.asarray(to_rgb(Image.open(name))) for name in names]
    results: dict[str, Any] = {}
    for title, truths in sets.items():
        hints = {str(n): [random_hints(truth, n, seed) for seed, truth in enumerate(truths)] for n in counts}
        if title == "drawn scenes":
            hints["one a region"] = [region_hints(*scene, seed) for seed, scene in enumerate(scenes)]
        results[title] = {"curve": curve(colorizer, truths, hints), "palette": palettes(colorizer, truths)}
        print(table(results[title]["curve"], f"{title}: {len(truths)}"))
        print(table(results[title]["palette"], f"{title}: true colour of {POINTS} points each, nearest of the palette"))
    save("hints", results, given)


if __name__ == "__main__":
    main()
