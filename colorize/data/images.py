"""From a photo's file to the one form all photos take, upright 8-bit sRGB, and back."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from colorize.data.tilt import Box, BoxChooser, Corners, Point, cut_tilted, scaled, sides, tilt
from colorize.photos.opening import SIXTEEN_BIT_MODES, Turn, find_turn, image_errors, opened, to_rgb
from colorize.photos.profiles import seen
from colorize.runtime.errors import writing
from colorize.runtime.files import digest, written_whole


def load_rgb(path: str | Path) -> Image.Image:
    """Read a whole photo, upright, without metadata.

    Greyscale, palette, CMYK, YCbCr, 1-bit and 16-bit photos become the same 8-bit RGB, seen through their profile;
    transparency is composited over white; of an animation it is the first frame. Raises UnreadableImage.
    """
    with opened(path) as image, image_errors():
        turn = find_turn(image)
        rgb = _seen(to_rgb(image), image)
        if turn is not None:
            rgb = rgb.transpose(turn.method)
        elif rgb is image:
            rgb = rgb.copy()
        rgb.info.clear()
        return rgb


def load_square(path: str | Path, size_px: int, choose_box: BoxChooser, angle_deg: float = 0.0) -> Image.Image:
    """Read a part of a photo at ``size_px`` × ``size_px``, upright, converted as by :func:`load_rgb`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where the part still has ``size_px`` pixels each way. ``angle_deg`` is that of
    :func:`colorize.data.tilt.tilt`. Raises UnreadableImage, and ValueError where the box is empty or leaves the photo.
    """
    with opened(path) as image:
        return square_of(image, size_px, choose_box, angle_deg)


class Thumbnail(NamedTuple):
    """A photo at a glance."""

    format: str  # as Pillow names it: JPEG, PNG…
    width: int  # of the upright photo, in pixels
    height: int
    square: Image.Image  # the whole photo squeezed into a square, whatever its shape: RGB


def read_thumbnail(path: str | Path, size_px: int) -> Thumbnail:
    """Read a whole photo at ``size_px`` × ``size_px``, decoded reduced where it can be. Raises UnreadableImage."""
    with opened(path) as image:
        name, (_, upright) = image.format or "", _turn_and_size(image)
        return Thumbnail(name, *upright, square_of(image, size_px, lambda width, height: (0, 0, width, height)))


def cut_square(image: Image.Image, size_px: int, corners: Corners) -> Image.Image:
    """Cut a part of an RGB image, tilted or not, at ``size_px`` × ``size_px``, antialiased; always a copy."""
    (left, top), (right, right_top), (bottom_left, bottom) = corners
    box = (left, top, right, bottom)
    if not (left == bottom_left < right and top == right_top < bottom):
        image = cut_tilted(image, size_px, corners)
        box = (0, 0, *image.size)
    # Pillow reduces by whole numbers first where the result is three times smaller still.
    square = image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    square.info.clear()
    return square


def center_box(width: int, height: int) -> Box:
    """Return the largest centred square, at whole pixels, so that a square photo of the right size is not resampled."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def random_box(rng: random.Random, scale: Sequence[float], ratio: Sequence[float]) -> BoxChooser:
    """Choose a random part of a photo, as in Szegedy et al., "Going deeper with convolutions", 2015.

    ``scale`` is [least, most] of its share of the area, ``ratio`` of width over height, drawn evenly in its logarithm.
    Where ten draws do not fit (a panorama), it is the largest centred square.
    """

    def choose(width: int, height: int) -> Box:
        for _ in range(10):
            area = width * height * rng.uniform(scale[0], scale[1])
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            box_width, box_height = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if box_width <= width and box_height <= height:
                left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
                return (left, top, min(left + box_width, width), min(top + box_height, height))
        return center_box(width, height)

    return choose


def image_rng(seed: int, epoch: int, identity: str, purpose: str = "") -> random.Random:
    """Return the randomness of an image in an epoch, the same in any process; each ``purpose`` has its own numbers."""
    parts = (seed, epoch, identity, *([purpose] if purpose else []))
    return random.Random(int.from_bytes(digest(*parts, size=16), "big"))


def save_png(image: Image.Image, path: str | Path) -> None:
    """Save losslessly, whole or not at all."""
    with writing(path), written_whole(Path(path), sync=False) as file:
        # Generated training images are many and read soon: level 1 is several times faster for little more size.
        image.save(file, format="PNG", compress_level=1)


def _seen(rgb: Image.Image, photo: Image.Image) -> Image.Image:
    """Return what was made of a photo as sRGB: small squares are converted after all else, which is faster."""
    grey = photo.mode in ("1", "L", "LA", *SIXTEEN_BIT_MODES)
    return seen(rgb.getchannel("G") if grey else rgb, photo.info.get("icc_profile")).convert("RGB")


def _turn_and_size(image: Image.Image) -> tuple[Turn | None, tuple[int, int]]:
    with image_errors():
        turn = find_turn(image)
    return turn, image.size[::-1] if turn is not None and turn.swap else image.size


def _stored_point(point: Point, width: int, height: int, turn: Turn | None) -> Point:
    if turn is None:
        return point
    x, y = reversed(point) if turn.swap else point
    return (width - x if turn.mirror_x else x, height - y if turn.mirror_y else y)


def _draft(image: Image.Image, size_px: int, side: float) -> int:
    """Ask for reduced decoding as far as ``side`` px keep ``size_px``; return by how much it will be reduced."""
    shrink = next((s for s in (8, 4, 2) if side >= s * size_px), 1)
    width = image.width
    # The JPEG plug-in takes the greatest reduction that leaves the size asked for: with this size, just `shrink`.
    drafted = None if shrink == 1 else image.draft(None, (width // shrink, image.height // shrink))
    return 1 if drafted is None else round(width / drafted[1][2])  # None: the format knows no reduced decoding


def square_of(image: Image.Image, size_px: int, choose_box: BoxChooser, angle_deg: float = 0.0) -> Image.Image:
    """Do the work of :func:`load_square` with a photo that is opened and not yet decoded."""
    (turn, upright), (width, height) = _turn_and_size(image), image.size
    box = left, top, right, bottom = choose_box(*upright)
    if not (0 <= left < right <= upright[0] and 0 <= top < bottom <= upright[1]):
        raise ValueError(f"box {box} is empty or leaves the photo of {upright[0]} × {upright[1]} px")
    a, b, c = (_stored_point(corner, width, height, turn) for corner in tilt(box, angle_deg, *upright))
    if not angle_deg:  # an upright part is turned when it is cut; one sampling tilts another and turns it
        (left, right), (top, bottom) = sorted((b[0], c[0])), sorted((b[1], c[1]))
        a, b, c = (left, top), (right, top), (left, bottom)
    with image_errors():
        # A reduced JPEG rounds its size up, and its last row and column then cover less than a whole pixel: the
        # scale is exactly the reduction, not the ratio of the sizes.
        shrink = _draft(image, size_px, min(sides((a, b, c))))
        square = _seen(cut_square(to_rgb(image), size_px, scaled((a, b, c), 1 / shrink)), image)
    return square if angle_deg or turn is None else square.transpose(turn.method)
