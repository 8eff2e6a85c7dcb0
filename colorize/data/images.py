"""From a photo's file to the one form all photos take, upright 8-bit sRGB, and back."""

import io
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from colorize.photos.opening import SIXTEEN_BIT_MODES, Turn, find_turn, image_errors, opened, to_rgb
from colorize.photos.profiles import seen
from colorize.runtime.errors import writing
from colorize.runtime.files import digest, written_whole

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright full-size image
BoxChooser = Callable[[int, int], Box]  # says, told width and height of the upright image, which part to take


def load_rgb(photo: str | Path | bytes) -> Image.Image:
    """Read a whole photo, from its file or its bytes, upright, without metadata.

    Greyscale, palette, CMYK, YCbCr, 1-bit and 16-bit photos become the same 8-bit RGB, seen through their profile;
    transparency is composited over white; of an animation it is the first frame. Raises UnreadableImage.
    """
    with opened(photo) as image, image_errors():
        turn = find_turn(image)
        rgb = _seen(to_rgb(image), image)
        if turn is not None:
            rgb = rgb.transpose(turn.method)
        elif rgb is image:
            rgb = rgb.copy()
        rgb.info.clear()
        return rgb


def load_square(photo: str | Path | bytes, size_px: int, choose_box: BoxChooser) -> Image.Image:
    """Read a part of a photo at ``size_px`` × ``size_px``, upright, converted as by :func:`load_rgb`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where the part still has ``size_px`` pixels each way. Raises UnreadableImage,
    and ValueError where the box is empty or leaves the photo.
    """
    with opened(photo) as image:
        return _square_of(image, size_px, choose_box)


class Thumbnail(NamedTuple):
    """A photo at a glance."""

    width: int  # of the upright photo, in pixels
    height: int
    square: Image.Image  # the whole photo squeezed into a square, whatever its shape: RGB


def read_thumbnail(photo: str | Path | bytes, size_px: int) -> Thumbnail:
    """Read a whole photo at ``size_px`` × ``size_px``, decoded reduced where it can be. Raises UnreadableImage."""
    with opened(photo) as image:
        _, upright = _turn_and_size(image)
        return Thumbnail(*upright, _square_of(image, size_px, lambda width, height: (0, 0, width, height)))


def cut_square(image: Image.Image, size_px: int, box: Box) -> Image.Image:
    """Cut a part of an RGB image at ``size_px`` × ``size_px``, antialiased; always a copy."""
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
        file.write(png(image))


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    made = io.BytesIO()
    # Generated training images are many and read soon: level 1 is several times faster for little more size.
    image.save(made, format="PNG", compress_level=1)
    return made.getvalue()


def _seen(rgb: Image.Image, photo: Image.Image) -> Image.Image:
    """Return what was made of a photo as sRGB: small squares are converted after all else, which is faster."""
    grey = photo.mode in ("1", "L", "LA", *SIXTEEN_BIT_MODES)
    return seen(rgb.getchannel("G") if grey else rgb, photo.info.get("icc_profile")).convert("RGB")


def _turn_and_size(image: Image.Image) -> tuple[Turn | None, tuple[int, int]]:
    with image_errors():
        turn = find_turn(image)
    return turn, image.size[::-1] if turn is not None and turn.swap else image.size


def _stored_box(box: Box, width: int, height: int, turn: Turn | None) -> Box:
    """Return a part of the upright photo in the photo as it is stored, of ``width`` × ``height`` px."""
    if turn is None:
        return box
    left, top, right, bottom = (box[1], box[0], box[3], box[2]) if turn.swap else box
    left, right = (width - right, width - left) if turn.mirror_x else (left, right)
    top, bottom = (height - bottom, height - top) if turn.mirror_y else (top, bottom)
    return left, top, right, bottom


def _draft(image: Image.Image, size_px: int, side: float) -> int:
    """Ask for reduced decoding as far as ``side`` px keep ``size_px``; return by how much it will be reduced."""
    shrink = next((s for s in (8, 4, 2) if side >= s * size_px), 1)
    width = image.width
    # The JPEG plug-in takes the greatest reduction that leaves the size asked for: with this size, just `shrink`.
    drafted = None if shrink == 1 else image.draft(None, (width // shrink, image.height // shrink))
    return 1 if drafted is None else round(width / drafted[1][2])  # None: the format knows no reduced decoding


def _square_of(image: Image.Image, size_px: int, choose_box: BoxChooser) -> Image.Image:
    """Do the work of :func:`load_square` with a photo that is opened and not yet decoded."""
    (turn, upright), (width, height) = _turn_and_size(image), image.size
    box = left, top, right, bottom = choose_box(*upright)
    if not (0 <= left < right <= upright[0] and 0 <= top < bottom <= upright[1]):
        raise ValueError(f"box {box} is empty or leaves the photo of {upright[0]} × {upright[1]} px")
    left, top, right, bottom = _stored_box(box, width, height, turn)
    with image_errors():
        # A reduced JPEG rounds its size up, and its last row and column then cover less than a whole pixel: the
        # scale is exactly the reduction, not the ratio of the sizes.
        scale = 1 / _draft(image, size_px, min(right - left, bottom - top))
        part = (left * scale, top * scale, right * scale, bottom * scale)
        square = _seen(cut_square(to_rgb(image), size_px, part), image)
    return square if turn is None else square.transpose(turn.method)
