"""The built-in data set: procedural landscapes and people, whose colours follow from what is depicted.

A scene is a plan in relative coordinates, painted flat on an oversampled canvas with region ids; sky, texture, shade
and light come in at the final size. Light and brightness vary independently of hue: a grey value says little about it.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from colorize.data.scene_painting import MIN_SIZE_PX, OVERSAMPLING, REGION_ID, REGIONS, Dice, Floats, Ids, Painter
from colorize.runtime.files import digest

_ON_GROUND = np.array([name in ("sea", "grass", "sand", "flower") for name in REGIONS], dtype=np.float32)
# Factors on a material's colour: a constant, and noise as (weight, rows, columns, corner, lies on the ground?).
_TEXTURES: dict[str, tuple[float, tuple[tuple[float, int, int, int, bool], ...]]] = {
    "sea": (0.55, ((0.5, 26, 8, 0, True), (0.4, 60, 24, 60, True))),
    "grass": (0.36, ((0.5, 15, 64, 20, True), (0.46, 34, 120, 10, True), (0.3, 9, 7, 90, False))),
    "sand": (0.78, ((0.32, 130, 130, 0, False), (0.12, 26, 8, 0, True))),
    "foliage": (0.6, ((0.5, 50, 50, 50, False), (0.3, 130, 130, 0, False))),
    "mountain": (0.85, ((0.3, 30, 60, 50, False),)), "trunk": (0.7, ((0.6, 10, 130, 0, False),)),
    "wall": (0.95, ((0.1, 130, 130, 0, False),)), "roof": (0.8, ((0.4, 130, 100, 0, False),)),
    "hair": (0.75, ((0.5, 12, 110, 0, False),)), "clothes": (0.9, ((0.2, 110, 110, 0, False),)),
}  # fmt: skip


class Scene(NamedTuple):
    """An image and its regions."""

    rgb: NDArray[np.uint8]  # (H, W, 3), sRGB-encoded
    regions: NDArray[np.uint8]  # (H, W), indices into REGIONS: the region at the centre of each pixel


def draw_scene(seed: int, index: int, size_px: int) -> Scene:
    """Draw a scene, the same for the same arguments at any size. Raises ValueError for one below ``MIN_SIZE_PX``."""
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"a scene is at least {MIN_SIZE_PX} px wide, not {size_px}")
    painter = _Developer(Dice(np.random.PCG64(int.from_bytes(digest(seed, index, size=16), "big"))), size_px)
    painter.land()
    painter.things()
    painter.portrait()
    return painter.develop()


class _Developer(Painter):
    def develop(self) -> Scene:
        size, middle = self.size_px, slice(OVERSAMPLING // 2, None, OVERSAMPLING)
        tags = self.canvas.getchannel(3)
        centers = np.asarray(tags)[middle, middle]
        regions = centers & np.uint8(31)
        rgb = np.asarray(self.canvas.reduce(OVERSAMPLING))[..., :3].astype(np.float32) / 255
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size
        x, y = axis[None], axis[:, None]
        gain = self._gain(centers, regions, x, y) * self.exposure
        rgb *= gain[..., None] * np.array((1.06, 0.97, 0.9) if self.dusk else (1, 1, 1), dtype=np.float32)
        if self.horizon > 0:
            top = slice(0, min(size, math.ceil((self.horizon + 0.03) * size)))
            clear = np.asarray(tags.point([255] + [0] * 255).reduce(OVERSAMPLING), dtype=np.float32)[top] / 255
            sky, names = self._sky(x, y[top], top)
            rgb[top] += clear[..., None] * sky
            np.copyto(regions[top], names, where=regions[top] == REGION_ID["sky"])
        # The far sea takes the sky's colour; at dusk the glow lies on it below the sun.
        depth = np.clip((y - self.horizon) / (1 - self.horizon), 0, 1)
        share = (regions == REGION_ID["sea"]) * (0.4 * (1 - depth) ** 4)
        if self.dusk:
            path = _smoothstep(np.abs(x - self.sun_x), 0.1 + 0.15 * depth, 0.02)
            share = (share > 0) * (0.9 * path * _smoothstep(self._noise(60, 14, 80, True), 0.35, 0.6))
            regions[share > 0.45] = REGION_ID["sunset"]
        rgb += share[..., None] * (np.array(self.colors["sunset" if self.dusk else "sky"], dtype=np.float32) - rgb)
        return Scene((rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8), regions)

    def _noise(self, rows: int, columns: int, corner: int, on_ground: bool, part: slice = slice(None)) -> Floats:
        """Smooth noise of about 0 to 1, the same at any size; on the ground its cells get lower towards the horizon."""
        down = _resampling(rows, 320)[self.far_to_near].mean(axis=1) if on_ground else _resampling(rows, self.size_px)
        cells = self.bank[corner : corner + rows, corner : corner + columns]
        return down[part] @ cells @ _resampling(columns, self.size_px).T

    def _gain(self, tags: Ids, regions: Ids, x: Floats, y: Floats) -> Floats:
        """Factors of texture, shadows of clouds and things on the ground, lit and dark sides of crowns and heads."""
        gain: Floats = np.ones(regions.shape, dtype=np.float32)
        present = np.bincount(regions.ravel(), minlength=len(REGIONS))
        for region, (constant, noises) in _TEXTURES.items():
            if present[REGION_ID[region]]:
                texture = np.full_like(gain, constant)
                for weight, rows, columns, corner, on_ground in noises:
                    texture += weight * self._noise(rows, columns, corner, on_ground)
                np.copyto(gain, texture, where=regions == REGION_ID[region])
        grounds = _ON_GROUND[regions]
        gain *= 1 - 0.4 * grounds * _smoothstep(self._noise(6, 4, 100, False), 0.45, 0.75)
        for cx, cy, rx, ry, strength, tag in self.shades:
            down, across = (
                slice(max(0, int((center - radius) * x.size)), max(0, math.ceil((center + radius) * x.size)))
                for center, radius in ((cy, ry), (cx, rx))
            )
            dx, dy, here = (x[:, across] - cx) / rx, (y[down] - cy) / ry, (down, across)
            if tag is None:
                gain[here] *= 1 - strength * grounds[here] * np.clip(1.3 * (1 - dx * dx - dy * dy), 0, 1)
            else:
                gain[here] *= 1 + strength * (tags[here] == tag) * (dx * self.light_x - 0.6 * dy)
        return gain

    def _sky(self, x: Floats, y: Floats, part: slice) -> tuple[Floats, Ids]:
        dice, zenith = self.dice, np.array(self.colors["sky"], dtype=np.float32)
        height = np.clip(1 - y / self.horizon, 0, 1)[..., None]  # 0 at the horizon
        names = np.full((y.size, x.size), REGION_ID["sky"], dtype=np.uint8)
        if self.dusk:
            glow = np.array(self.colors["sunset"], dtype=np.float32)
            share = _smoothstep(height, 1 - 0.6 * np.minimum(1, np.abs(x - self.sun_x))[..., None], 0.05)
            away = np.hypot(x - self.sun_x, y - self.sun_y)
            sky = glow * share + 0.7 * zenith * (1 - share)
            sky += (1 - sky) * 0.5 * np.exp(-away / 0.08)[..., None] * glow
            names[sky[..., 0] > sky[..., 2]] = REGION_ID["sunset"]
            disc = _smoothstep(away, self.sun_radius + 0.008, self.sun_radius - 0.008)
            sky += disc[..., None] * (np.array((1.0, 0.93, 0.62), dtype=np.float32) - sky)
            names[disc > 0.5] = REGION_ID["sun"]
        else:
            sky = zenith + (0.5 * zenith.max() - 0.5 * zenith) * (1 - height) ** 1.5
        octaves = ((5, 0.5), (10, 0.27), (20, 0.15), (40, 0.08))
        puffs = np.zeros((y.size, x.size), dtype=np.float32)
        for rows, weight in octaves:
            puffs += weight * self._noise(rows, 3 * rows // 5, 2 * rows, False, part)
        cover = dice.pick((0.36, 0.46, 0.52, 0.58, 0.64, 0.9))
        alpha = _smoothstep(puffs, cover, cover + 0.14)
        light = dice.between(0.75, 1.0) - dice.between(0.1, 0.9) * np.clip(puffs - cover - 0.06, 0, 0.4)
        white = np.array((1.0, 0.8, 0.72) if self.dusk else (0.98, 0.99, 1.0), dtype=np.float32)
        names[alpha > 0.5] = REGION_ID["cloud"]
        return sky + alpha[..., None] * (light[..., None] * white - sky), names


@lru_cache(maxsize=128)
def _resampling(cells: int, size_px: int) -> Floats:
    identity = Image.fromarray(np.eye(cells, dtype=np.float32))
    return np.asarray(identity.resize((cells, size_px), Image.Resampling.BICUBIC))


def _smoothstep(value: Floats, start: float | Floats, end: float) -> Floats:
    """0 before ``start``, 1 after ``end`` (which may lie below it), smooth between them."""
    t = np.clip((value - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)
