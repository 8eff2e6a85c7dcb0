"""Tilted parts of an image, for rotation without corners to fill in."""

import math
from collections.abc import Callable
from typing import cast

from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright full-size image
BoxChooser = Callable[[int, int], Box]  # says, told width and height of the upright image, which part to take
Point = tuple[float, float]  # pixels to the right and down from the image's top left corner
Corners = tuple[Point, Point, Point]  # top left, top right and bottom left corner of a tilted part


def tilt(box: Box, angle_deg: float, width: int, height: int) -> Corners:
    """Turn ``box`` about its centre, inside the image of ``width`` × ``height`` px, which it shows turned to the left.

    Where the turned part would stick out, it is moved inwards and, if it is too large even so, made smaller in
    proportion: there is nothing to fill in, neither black nor a mirrored border.
    """
    left, top, right, bottom = box
    if not angle_deg:  # exactly, so that whole pixels stay whole
        return (left, top), (right, top), (left, bottom)
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    across, down = right - left, bottom - top
    reach_x = across * abs(cos) + down * abs(sin)
    reach_y = across * abs(sin) + down * abs(cos)
    fit = min(1.0, width / reach_x, height / reach_y)
    x = min(max((left + right) / 2, fit * reach_x / 2), width - fit * reach_x / 2)
    y = min(max((top + bottom) / 2, fit * reach_y / 2), height - fit * reach_y / 2)

    def corner(right: int, below: int) -> Point:
        dx, dy = right * fit * across / 2, below * fit * down / 2
        return (x + dx * cos - dy * sin, y + dx * sin + dy * cos)

    return corner(-1, -1), corner(1, -1), corner(-1, 1)


def sides(corners: Corners) -> tuple[float, float]:
    """Return width and height of a tilted part, in pixels."""
    return math.dist(corners[0], corners[1]), math.dist(corners[0], corners[2])


def scaled(corners: Corners, factor: float) -> Corners:
    """Return the same part in the image at another scale."""
    return cast(Corners, tuple((x * factor, y * factor) for x, y in corners))


def cut_tilted(image: Image.Image, size_px: int, corners: Corners) -> Image.Image:
    """Cut out the tilted part, upright, still to be resized to ``size_px`` × ``size_px``; no side is shorter than that.

    Pillow tilts without antialiasing: the part is tilted at its own scale, or a whole fraction of it, before resizing.
    """
    reduction = int(min(sides(corners)) // (2 * size_px))
    if reduction > 1:
        (ax, ay), (bx, by), (cx, cy) = corners
        xs, ys = (ax, bx, cx, bx + cx - ax), (ay, by, cy, by + cy - ay)
        left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        right, bottom = min(image.width, math.ceil(max(xs))), min(image.height, math.ceil(max(ys)))
        image = image.reduce(reduction, (left, top, right, bottom))
        corners = scaled(((ax - left, ay - top), (bx - left, by - top), (cx - left, cy - top)), 1 / reduction)
    (ax, ay), (bx, by), (cx, cy) = corners
    width, height = (max(size_px, round(side)) for side in sides(corners))
    # Place of each pixel of the result in the image.
    matrix = ((bx - ax) / width, (cx - ax) / height, ax, (by - ay) / width, (cy - ay) / height, ay)
    return image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
