"""The input of a network: photos as it was taught to see them."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from colorize.color import Plane
from colorize.networks.options import MIN_SIZE_PX

MOST_RENDER_PX = 1 << 14  # no network is shown more: a file that asks for it is damaged, or wants the memory
AREA_PER_RENDER = 3.0  # a photo is shown with at most this many times render_px² pixels, however long it is


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the way in which a network was taught to see photos.

    `render_px` is the short side, where the user asks for nothing else; a long photo is shown smaller. With `deoldify`
    photos are shown as squares, by bilinear interpolation, and RGB is cut to [0, 1].
    """

    render_px: int
    deoldify: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.render_px, int) and MIN_SIZE_PX <= self.render_px <= MOST_RENDER_PX):
            raise ValueError(f"render_px={self.render_px!r:.20}: from {MIN_SIZE_PX} to {MOST_RENDER_PX}")

    def shown_size(self, width: int, height: int, render_px: int) -> tuple[int, int]:
        """Return the width and height at which a photo is shown; a side may be below the network's least."""
        if self.deoldify:
            return render_px, render_px
        area = AREA_PER_RENDER * render_px**2
        thin = area / MIN_SIZE_PX / max(width, height)  # for strips that are padded to the least side
        scale = min(render_px / min(width, height), math.sqrt(area / (width * height)), thin)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def show(self, grey: Image.Image, size: tuple[int, int]) -> Plane:
        """Return the input: `grey` (mode L) at `size`, padded to the network's least, `(1, H, W)` float32 in [0, 1]."""
        method = (Image.Resampling.BILINEAR,) if self.deoldify else (Image.Resampling.BICUBIC, None, 3.0)
        shown = grey.resize(size, *method)
        pixels = np.asarray(shown, np.float32) / np.float32(255)
        lacking = [(0, max(0, MIN_SIZE_PX - side)) for side in size]
        return np.pad(pixels, lacking[::-1], mode="edge")[None]
