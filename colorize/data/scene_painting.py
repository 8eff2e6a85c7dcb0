"""The shapes of a scene: a plan in relative coordinates, painted flat on an oversampled canvas with region ids."""

import colorsys
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

HUE_CLASSES: dict[str, tuple[float, float] | None] = {
    "sky": (210, 300), "sunset": (15, 95), "sun": (45, 110), "cloud": None, "mountain": (215, 310),
    "sea": (195, 292), "grass": (98, 142), "sand": (65, 98), "foliage": (104, 155), "trunk": (40, 90), "flower": None,
    "boat": None, "wall": None, "roof": (28, 65), "door": None, "window": None,
    "skin": (38, 80), "hair": (35, 98), "eye": None, "lips": (5, 50), "clothes": None,
}  # fmt: skip
"""Hues that a person expects in each region, as CIELAB ``atan2(b, a)`` in degrees; ``None`` where any will do."""

REGIONS = tuple(HUE_CLASSES)  # by id; sunset is the glow at dusk, in the sky and on the sea, sky all other clear sky
MIN_CHROMA = 5.0  # CIELAB chroma under which nobody sees a hue: in black and grey hair, deep shade and haze
MIN_SIZE_PX = 32
_T = TypeVar("_T")
_Rgb = tuple[float, ...]
_Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
_Points = Sequence[tuple[float, float]]
Floats = NDArray[np.floating[Any]]
Ids = NDArray[np.uint8]
REGION_ID = {name: number for number, name in enumerate(REGIONS)}
_WHITE = (0.93, 0.92, 0.9)
OVERSAMPLING = 3  # odd, so that a pixel's centre lies on a sample
_XS = np.linspace(0, 1, 33)
_OVAL = [(math.cos(turn), math.sin(turn)) for turn in np.linspace(-math.pi, math.pi, 24, endpoint=False).tolist()]
_DOME = [*_OVAL[:12], (1.0, 0.0)]  # its upper half, from left to right

# Ranges of hue (degrees), saturation and value (HSV). The values overlap on purpose.
_COLORS: dict[str, _Ranges] = {
    "sky": ((203, 218), (0.42, 0.72), (0.55, 0.95)), "sunset": ((18, 32), (0.5, 0.75), (0.8, 1.0)),
    "mountain": ((212, 228), (0.22, 0.4), (0.35, 0.75)), "sea": ((190, 212), (0.48, 0.72), (0.4, 0.78)),
    "grass": ((74, 100), (0.45, 0.66), (0.38, 0.78)), "sand": ((35, 45), (0.28, 0.44), (0.5, 0.92)),
    "foliage": ((86, 122), (0.42, 0.65), (0.28, 0.62)), "trunk": ((20, 32), (0.35, 0.55), (0.22, 0.5)),
    "roof": ((9, 19), (0.5, 0.72), (0.42, 0.88)), "plaster": ((20, 60), (0.02, 0.25), (0.55, 0.97)),
    "paint": ((0, 360), (0.15, 0.42), (0.3, 0.85)), "glass": ((195, 225), (0.15, 0.4), (0.2, 0.55)),
    "cloth": ((0, 360), (0.05, 0.6), (0.15, 0.85)), "petal": ((-70, 60), (0.2, 0.8), (0.75, 1.0)),
    "iris": ((20, 220), (0.3, 0.6), (0.15, 0.5)),
}  # fmt: skip
_BLACK, _BROWN = ((15, 35), (0.2, 0.4), (0.07, 0.16)), ((20, 30), (0.5, 0.65), (0.2, 0.42))
_BLOND, _RED = ((36, 44), (0.42, 0.58), (0.6, 0.88)), ((15, 22), (0.55, 0.7), (0.4, 0.6))
_GREY = ((30, 50), (0.02, 0.06), (0.5, 0.8))
_COMPLEXIONS = (  # skin, and the hair that goes with it
    (((17, 27), (0.25, 0.4), (0.8, 0.97)), (_BLOND, _BLOND, _RED, _BROWN, _BROWN, _BLACK, _GREY)),
    (((20, 28), (0.38, 0.5), (0.62, 0.82)), (_BLACK, _BLACK, _BROWN, _BROWN, _GREY)),
    (((18, 26), (0.48, 0.6), (0.36, 0.56)), (_BLACK, _BLACK, _BLACK, _GREY)),
)
_LAYOUTS = (  # grounds from the horizon to the viewer
    ("sea",), ("grass",), ("grass",), ("sand",), ("sea", "sand"), ("sea", "sand"), ("sea", "grass"), ("sea", "grass"),
    ("grass", "sea"), ("grass", "sea"), ("grass", "sand"), ("sand", "grass"), ("grass", "sea", "grass"),
    ("grass", "sea", "sand"),
)  # fmt: skip


class Dice(np.random.Generator):
    """Random choices. All come from ``random``, which is quick for single numbers and stable across versions."""

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.random() * len(options))]

    def color(self, ranges: _Ranges) -> _Rgb:
        hue, saturation, value = (self.between(*span) for span in ranges)
        return colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)


class Painter:
    """A scene in the making. Lengths and places are shares of the image's side; y points down."""

    def __init__(self, dice: Dice, size_px: int) -> None:
        self.dice, self.size_px, self.side = dice, size_px, size_px * OVERSAMPLING
        self.bank = dice.random((140, 140), dtype=np.float32)  # all texture is cut from this
        self.colors = {name: dice.color(ranges) for name, ranges in _COLORS.items()}
        self.dusk = dice.random() < 0.18
        self.exposure = dice.between(0.5, 0.75) if self.dusk else dice.between(0.76, 1.18)
        self.light_x = dice.pick((-1, 1)) * dice.between(0.4, 1.0)
        # Now and then the view is downwards, and shows no sky.
        self.horizon = -0.35 if not self.dusk and dice.random() < 0.12 else dice.between(0.22, 0.62)
        self.sun_x, self.sun_radius = 0.5 + 0.4 * self.light_x * dice.random(), dice.between(0.03, 0.06)
        self.sun_y = self.horizon - self.sun_radius * dice.between(-0.3, 3)
        depth = ((np.arange(self.side) + 0.5) / self.side - self.horizon) / (1 - self.horizon)
        place = np.log1p(np.clip(depth, 0, 1) / 0.3) * (319 / math.log(1.3 / 0.3))
        self.far_to_near = place.astype(np.intp).reshape(size_px, OVERSAMPLING)  # of 320 rows on the ground
        self.bands: list[tuple[str, Floats]] = []  # each ground and its upper edge
        # Ellipses (centre, radii), how strong their shade is, and of what they are the lit and the dark side; without
        # that, they are shadows on the ground.
        self.shades: list[tuple[float, float, float, float, float, int | None]] = []
        # The fourth channel holds region and object (see `ink`). RGBA would be multiplied by it when reduced.
        self.canvas = Image.new("RGBX", (self.side, self.side), (0, 0, 0, REGION_ID["sky"]))
        self.brush, self.object = ImageDraw.Draw(self.canvas), 0
        self.frame(0, 0, 1)

    def frame(self, x: float, y: float, unit: float, shadow: float = 0.0) -> None:
        """Begin an object with its origin at (x, y), this unit of length and a shadow so wide."""
        self._x, self._y, self._unit = x * self.side, y * self.side, unit * self.side
        self.object += 1
        if shadow:
            half = shadow * unit / 2
            self.shades.append((x - 0.6 * half * self.light_x, y, half, 0.17 * half, 0.6, None))

    def ink(self, color: _Rgb, region: str) -> tuple[int, ...]:
        return (*(round(255 * channel) for channel in color), self.tag(region))

    def tag(self, region: str) -> int:
        """Return five bits for the region and three that tell an object from those near it."""
        return REGION_ID[region] | self.object % 8 << 5

    def polygon(self, points: _Points, region: str, color: _Rgb) -> None:
        x0, y0, unit = self._x, self._y, self._unit
        self.brush.polygon([(x0 + x * unit, y0 + y * unit) for x, y in points], fill=self.ink(color, region))

    def box(self, left: float, top: float, right: float, bottom: float, region: str, color: _Rgb) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], region, color)

    def oval(self, x: float, y: float, rx: float, ry: float, region: str, color: _Rgb) -> None:
        self.polygon([(x + rx * u, y + ry * v) for u, v in _OVAL], region, color)

    def line(self, points: _Points, width: float, region: str, color: _Rgb) -> None:
        scaled = [(self._x + x * self._unit, self._y + y * self._unit) for x, y in points]
        self.brush.line(scaled, fill=self.ink(color, region), width=max(1, round(width * self._unit)))

    def land(self) -> None:
        dice, layout = self.dice, self.dice.pick(_LAYOUTS)
        if self.horizon > 0 and dice.random() < 0.35:
            for layer in range(2):
                top = self.horizon - self._skyline(0.1, 0.26 / (1 + layer)) * (0.5 if self.dusk else 1)
                self._ground(top, "mountain", _scaled(self.colors["mountain"], 1 - 0.22 * layer))
        for number, material in enumerate(layout):
            if number:
                edge = self.horizon + (1 - self.horizon) * (number + dice.between(-0.45, 0.25)) / len(layout)
                top = max(edge, 0.1) + dice.between(-0.12, 0.12) * (_XS - 0.5) + self._skyline(-0.04, 0.04)
                top = np.maximum(top, self.bands[-1][1] + 0.03)
            elif material == "sea":
                top = np.full_like(_XS, self.horizon)
            else:
                top = self.horizon - self._skyline(-0.02, dice.between(0, 0.09))
            self.bands.append((material, top))
            self._ground(top, material, self.colors[material])
            if number and {material, layout[number - 1]} == {"sea", "sand"}:  # surf
                shore = list(zip(_XS.tolist(), top.tolist(), strict=True))
                self.line(shore, dice.between(0.008, 0.02), "sea", (0.88, 0.92, 0.94))

    def _skyline(self, low: float, high: float) -> Floats:
        octaves = ((4, 0.6), (9, 0.27), (20, 0.13))
        heights = [w * np.interp(_XS, np.linspace(0, 1, n), self.dice.random(n)) for n, w in octaves]
        return low + (high - low) * np.sum(heights, axis=0)

    def _ground(self, top: Floats, region: str, color: _Rgb) -> None:
        self.polygon([*zip(_XS.tolist(), top.tolist(), strict=True), (1, 1.01), (0, 1.01)], region, color)

    def _spot(self, *materials: str) -> tuple[float, float, float] | None:
        """Draw a place on these materials and the scale of things there, from 0.2 (far) to 1; None without them."""
        bands = [number for number, (material, _) in enumerate(self.bands) if material in materials]
        if not bands:
            return None
        band, x = self.dice.pick(bands), self.dice.random()
        top = max(0.1, float(np.interp(x, _XS, self.bands[band][1])))
        bottom = float(np.interp(x, _XS, self.bands[band + 1][1])) if band + 1 < len(self.bands) else 1.0
        y = top + (bottom - top) * self.dice.between(0.03, 0.8)
        return x, y, 0.2 + 0.8 * max(0.0, y - self.horizon) / (1 - self.horizon)

    def things(self) -> None:
        pick = self.dice.pick
        kinds = [self._house] * pick((0, 0, 0, 1, 2, 3)) + [self._tree] * pick((0, 1, 2, 3))
        kinds += [self._bush] * pick((0, 0, 1, 3)) + [self._figure] * pick((0, 0, 0, 1, 1, 3))
        placed = [(kind, spot) for kind in kinds if (spot := self._spot("grass", "sand"))]
        placed += [(self._boat, spot) for _ in range(pick((0, 0, 1, 2))) if (spot := self._spot("sea"))]
        placed += [(self._flowers, spot) for _ in range(pick((0, 0, 1))) if (spot := self._spot("grass"))]
        for kind, (x, y, scale) in sorted(placed, key=lambda item: item[1][1]):
            kind(x, y, scale)

    def _tree(self, x: float, y: float, scale: float) -> None:
        dice, height = self.dice, scale * self.dice.between(0.3, 0.62)
        leaf, trunk = (_scaled(self.colors[part], dice.between(0.8, 1.25)) for part in ("foliage", "trunk"))
        self.frame(x, y, height, shadow=1.1)
        self.polygon([(-0.08, 0), (0.08, 0), (0.05, -0.5), (-0.05, -0.5)], "trunk", trunk)
        if dice.random() < 0.7:
            self._crown(x, y - 0.66 * height, height * dice.between(0.25, 0.36), 0.34 * height, leaf)
            return
        for tier in range(4):  # a conifer
            half, foot = 0.24 - 0.045 * tier, -0.14 - 0.19 * tier
            points = [(0, foot - 0.28), (half, foot), (0, foot + 0.02), (-half, foot)]
            self.polygon(points, "foliage", _scaled(leaf, 0.8 + 0.1 * tier))
        self.shades.append((x, y - 0.5 * height, 0.3 * height, 0.55 * height, 0.35, self.tag("foliage")))

    def _bush(self, x: float, y: float, scale: float) -> None:
        height, leaf = scale * self.dice.between(0.06, 0.13), self.colors["foliage"]
        self.frame(x, y, height, shadow=3.4)
        self._crown(x, y - 0.7 * height, height * self.dice.between(1.1, 1.9), height, leaf)

    def _crown(self, x: float, y: float, rx: float, ry: float, leaf: _Rgb) -> None:
        self.frame(x, y, 1)
        for number in range(5):  # one whole, four tufts on it
            dx, dy = (self.dice.between(-0.5, 0.5), self.dice.between(-0.6, 0.4)) if number else (0, 0)
            size, gain = (0.41, 1 - 0.28 * dy) if number else (1, 0.8)
            bumps = (0.8 + 0.3 * self.dice.random(len(_OVAL))) * size
            points = [(rx * (dx + b * u), ry * (dy + b * v)) for (u, v), b in zip(_OVAL, bumps.tolist(), strict=True)]
            self.polygon(points, "foliage", _scaled(leaf, gain))
        self.shades.append((x, y, 1.2 * rx, 1.2 * ry, 0.48, self.tag("foliage")))

    def _flowers(self, x: float, y: float, scale: float) -> None:
        self.frame(x, y, scale)
        for dx, dy in (self.dice.random((14, 2)) - 0.5).tolist():
            self.oval(0.8 * dx, 0.3 * dy, 0.02 * (1 + dy), 0.02 * (1 + dy), "flower", self.colors["petal"])

    def _boat(self, x: float, y: float, scale: float) -> None:
        self.frame(x, y, scale * self.dice.between(0.15, 0.3))
        lean = self.dice.pick((-1, 1))
        self.polygon([(-0.5, -0.12), (0.5, -0.12), (0.32, 0.06), (-0.36, 0.06)], "boat", self.colors["paint"])
        self.polygon([(0, -0.16), (0, -1.2), (0.5 * lean, -0.16)], "boat", (0.92, 0.91, 0.88))
        self.polygon([(-0.04 * lean, -0.16), (-0.04 * lean, -1), (-0.36 * lean, -0.16)], "boat", (0.76, 0.76, 0.75))

    def _house(self, x: float, y: float, scale: float) -> None:
        dice, width, turn = self.dice, scale * self.dice.between(0.24, 0.5), self.dice.pick((-1, 1))
        wall = _scaled(self.colors[dice.pick(("plaster", "plaster", "paint"))], dice.between(0.85, 1.05))
        roof, eaves = _scaled(self.colors["roof"], dice.between(0.8, 1.15)), -dice.between(0.42, 0.62)
        ridge, end = eaves - dice.between(0.28, 0.38), dice.between(0.3, 0.42)
        self.frame(x, y, width, shadow=1.6)
        if dice.random() < 0.6:
            self.box(0.2 * turn - 0.04, ridge - 0.08, 0.2 * turn + 0.04, eaves, "roof", _scaled(roof, 0.7))
        self.box(-0.5, eaves, 0.5, 0, "wall", wall)
        gable = [(-0.5, 0), (-0.5, eaves), (end / 2 - 0.5, ridge), (end - 0.5, eaves), (end - 0.5, 0)]
        in_shade = turn * self.light_x > 0
        self.polygon([(px * turn, py) for px, py in gable], "wall", _scaled(wall, 0.72 if in_shade else 1.1))
        peak = ((end / 2 - 0.5) * turn, ridge)
        self.line([(-0.56 * turn, eaves + 0.06), peak], 0.04, "roof", _scaled(roof, 0.7))
        slope = np.array([peak, (0.48 * turn, ridge), (0.56 * turn, eaves + 0.04), ((end - 0.52) * turn, eaves + 0.04)])
        self.polygon(slope.tolist(), "roof", roof)
        for share in (0.25, 0.5, 0.75):  # courses of tiles
            self.line((slope[:2] + share * (slope[:1:-1] - slope[:2])).tolist(), 0.02, "roof", _scaled(roof, 0.8))
        slots, door = dice.pick((3, 4)), dice.pick((0, 1, 2))
        for slot in range(slots):
            middle, half = turn * (end - 0.5 + (1 - end) * (slot + 0.5) / slots), 0.26 * (1 - end) / slots
            if slot == door:
                self.box(middle - half, 0.62 * eaves, middle + half, 0, "door", self.colors["paint"])
            else:
                top, bottom = 0.72 * eaves, 0.32 * eaves
                self.box(middle - 1.3 * half, top - 0.02, middle + 1.3 * half, bottom + 0.02, "wall", _WHITE)
                self.box(middle - half, top, middle + half, bottom, "window", self.colors["glass"])

    def _figure(self, x: float, y: float, scale: float) -> None:
        radius = 0.045 * scale * self.dice.between(0.8, 1.1)
        self.frame(x, y, radius, shadow=10)
        self._person(x, y - 11.5 * radius, radius, near=False)

    def portrait(self) -> None:
        dice = self.dice
        if dice.random() < 0.45:
            radius, x = dice.between(0.1, 0.21), dice.between(0.3, 0.7)
            if radius < 0.14:
                self._person(x + 3.6 * radius * dice.pick((-1, 1)), 0.6, radius * dice.between(0.75, 1), near=True)
            self._person(x, dice.between(0.38, 0.6), radius, near=True)

    def _person(self, x: float, y: float, radius: float, near: bool) -> None:
        dice, (tone, hairs) = self.dice, self.dice.pick(_COMPLEXIONS)
        skin, hair, shirt = dice.color(tone), dice.color(dice.pick(hairs)), dice.color(_COLORS["cloth"])
        trousers, style = dice.color(_COLORS["cloth"]), dice.random()
        turn, fringe, part = dice.between(-0.28, 0.28), dice.between(0.5, 0.85), dice.between(-0.4, 0.4)
        self.frame(x, y, radius)
        if style < 0.5:  # hair down to the shoulders or the chin
            low = 2.5 if style < 0.35 else 1.25
            tips = [(1.3, 0.6), (1.25, low - 0.3), (1.0, low), (-1.0, low), (-1.25, low - 0.3), (-1.3, 0.6)]
            self.polygon([*((1.24 * u, 1.5 * v) for u, v in _DOME), *tips], "hair", _scaled(hair, 0.8))
        for side in () if near else (-1, 1):
            self.line([(side * 1.35, 2.2), (side * 2, 5.6)], 0.6, "skin", skin)
            self.line([(side * 0.55, 6), (side * 0.7, 11.3)], 0.95, "clothes", trousers)
        self.polygon(_mirrored([(0.45, 0.6), (0.47, 1.6), (1.0, 1.9)]), "skin", _scaled(skin, 0.78))
        chest = [(1.85, 2.05), (2.15, 2.7), (2.3, 9)] if near else [(1.6, 2.3), (1.7, 3.6), (1.3, 6.4)]
        self.polygon(_mirrored([(0.5, 1.5), (1.3, 1.75), *chest]), "clothes", shirt)
        self.oval(0, 1.5, 0.5, 0.4, "skin", _scaled(skin, 0.82))
        for side in (-1, 1):
            self.oval(side - 0.3 * turn, 0.1, 0.16, 0.28, "skin", _scaled(skin, 0.88))
        jaw = [(0.98, 0.4), (0.75, 0.95), (0.35, 1.28), (-0.35, 1.28), (-0.75, 0.95), (-0.98, 0.4)]
        self.polygon([*((1 * u, 1.25 * v) for u, v in _DOME), *jaw], "skin", skin)
        if style < 0.93:
            line = [(0.94, -0.3), (0.76, -fringe), (part, -fringe - 0.2), (-0.76, -fringe), (-0.94, -0.3)]
            self.polygon([*((1.1 * u, 1.45 * v) for u, v in _DOME), *line], "hair", hair)
        self.polygon([(turn, -0.1), (turn + 0.2, 0.35), (turn - 0.14, 0.36)], "skin", _scaled(skin, 0.86))
        for eye in (turn - 0.42, turn + 0.42):
            self.oval(eye, -0.12, 0.25, 0.17, "skin", _scaled(skin, 0.74))
            self.oval(eye, -0.1, 0.2, 0.12, "eye", _WHITE)
            self.oval(eye + 0.2 * turn, -0.1, 0.12, 0.13, "eye", self.colors["iris"])
            self.oval(eye + 0.2 * turn, -0.1, 0.06, 0.07, "eye", (0.05, 0.04, 0.04))
            self.line([(eye - 0.25, -0.4), (eye, -0.46), (eye + 0.25, -0.4)], 0.09, "hair", _scaled(hair, 0.75))
        lips, corner = (skin[0] * 0.92, skin[1] * 0.6, skin[2] * 0.64), dice.between(0.56, 0.7)
        self.polygon(_mirrored([(0, 0.62), (0.2, 0.58), (0.38, corner), (0.2, 0.8)], turn), "lips", lips)
        self.line([(turn - 0.36, corner), (turn, 0.69), (turn + 0.36, corner)], 0.04, "lips", _scaled(lips, 0.6))
        for region, strength in (("skin", 0.26), ("hair", 0.42)):
            self.shades.append((x, y, 1.4 * radius, 1.8 * radius, strength, self.tag(region)))


def _scaled(color: _Rgb, gain: float) -> _Rgb:
    return tuple(channel * min(gain, 1 / max(color)) for channel in color)


def _mirrored(points: _Points, middle: float = 0.0) -> _Points:
    """Return the outline of which these points, relative to ``middle``, are the right half."""
    return [(middle + x, y) for x, y in points] + [(middle - x, y) for x, y in reversed(points)]
