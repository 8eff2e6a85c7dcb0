"""Opening photos: errors as one, turned upright, and the many kinds as 8-bit RGB."""

import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from colorize.color import Plane
from colorize.photos import dpx, profiles, tags
from colorize.photos.boxes import jxl_size, read_boxes
from colorize.photos.deep import JPEG2000_START, SIXTEEN_BIT_MODES, grey_samples, image_of
from colorize.photos.tiff import UnreadableImage, UnreadKind, open_tiff
from colorize.runtime.errors import brief
from colorize.runtime.formats import FORMATS, RAW, Format, rare_kind

MAX_PIXELS = 200_000_000
"""Photos of more pixels are refused before they are decoded: a small file may hold a very large image."""

# Pillow refuses more than twice this, and warns (which is silenced below) above it.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

_PILLOW_FORMATS = [format.name for format in FORMATS if format.name not in ("TIFF", "DPX") and not format.plugin]


class Turn(NamedTuple):
    """The way a stored image becomes upright: axes swapped or not, and which stored axes run backwards."""

    method: Image.Transpose
    swap: bool
    mirror_x: bool
    mirror_y: bool


# By the value of the EXIF tag Orientation (CIPA DC-008, 4.6.5); 1 is upright.
_TURNS = {
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: Turn(Image.Transpose.ROTATE_180, False, True, True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: Turn(Image.Transpose.TRANSPOSE, True, False, False),
    6: Turn(Image.Transpose.ROTATE_270, True, False, True),
    7: Turn(Image.Transpose.TRANSVERSE, True, True, True),
    8: Turn(Image.Transpose.ROTATE_90, True, True, False),
}


@contextmanager
def opened(photo: str | Path | bytes) -> Iterator[Image.Image]:
    """Open a photo, its file or what is in it, and read its header; of a TIFF that Pillow misreads, also its pixels.

    The file handle is ours, so that it is closed whatever Pillow meets in it. Raises UnreadableImage where it is no
    photo, or one of a kind that is not read.
    """
    with image_errors():
        if not isinstance(photo, bytes) and not stat.S_ISREG(os.stat(photo).st_mode):
            raise UnreadableImage("not a regular file")  # reading a pipe would wait for ever
        # Closed by the with below; the errors of the body are not Pillow's.
        file: BinaryIO = io.BytesIO(photo) if isinstance(photo, bytes) else open(photo, "rb")  # noqa: SIM115
    with file:
        with image_errors():
            head = file.read(256)
            if not head:
                raise UnreadableImage("the file is empty")
            file.seek(0)
            if rare_kind(head) == RAW:  # Canon's CR2 is a TIFF whose first image is but a preview
                raise UnreadKind(RAW)
            if head.startswith(tags.STARTS):
                image = open_tiff(file, MAX_PIXELS)
            elif head.startswith(dpx.STARTS):
                image = dpx.open_dpx(file)
            else:
                image = _open_other(file, head)
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(_TOO_LARGE)
        yield image


def load_plugin(format: Format) -> None:
    """Import what reads and writes a format for Pillow. Raises UnreadKind where the extra is not installed."""
    try:
        import_module(format.plugin)
    except ImportError:
        raise UnreadKind(f'a {format.name} file, which needs more: pip install "colorize[formats]"') from None


def _open_other(file: BinaryIO, head: bytes) -> Image.Image:
    """Open what is no TIFF. Its `info` has "bits" where Pillow may give fewer, and what boxes say."""
    try:
        image: Image.Image = Image.open(file, formats=_PILLOW_FORMATS)
    except Image.UnidentifiedImageError:
        kind = rare_kind(head)
        plugged = next((format for format in FORMATS if format.plugin and format.name == kind), None)
        if not kind:
            raise
        if plugged is None:
            raise UnreadKind(kind) from None
        load_plugin(plugged)
        file.seek(0)
        if kind == "JXL" and math.prod(jxl_size(file.read())) > MAX_PIXELS:  # it is decoded at once
            raise UnreadableImage(_TOO_LARGE) from None
        image = Image.open(file, formats=[kind])
    said: dict[Any, Any] = image.info
    if image.format == "PNG":
        said["bits"] = head[24]
    elif image.format in ("JPEG2000", "JXL"):
        file.seek(0)
        content = file.read()
        said |= read_boxes(content)
        said["bits"] = (content[content.find(JPEG2000_START) + 42] & 127) + 1 if image.format == "JPEG2000" else 8
    elif image.format == "PSD":  # all layers in one; a fourth channel is a selection, or white is behind it already
        image = image.convert("RGB" if image.mode == "RGBA" else image.mode)
        image.format = "PSD"
    return image


_TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} million pixels"


@contextmanager
def image_errors() -> Iterator[None]:
    """Make one error of the many that bad files raise, and silence Pillow's warnings about odd ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            yield
        except UnreadableImage:
            raise
        except Image.UnidentifiedImageError:
            raise UnreadableImage("not an image in a known format") from None
        except Image.DecompressionBombError:
            raise UnreadableImage(_TOO_LARGE) from None
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else brief(error)
            raise UnreadableImage(reason) from error


def find_turn(image: Image.Image) -> Turn | None:
    """Find how to turn an image upright. Loads it, unless it is a JPEG, which is better decoded at reduced scale."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):  # upright already; EXIF says how it was
        return None
    if image.format not in ("JPEG", "MPO", "JPEG2000"):
        # Pillow finds a PNG's EXIF on loading, and turns a TIFF then by itself, removing the tag.
        image.load()
    try:
        orientation = image.getexif().get(Base.Orientation)
    except Exception:
        # Garbled metadata does not make a photo unreadable; viewers show it as it is stored.
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def turned_pixels(pixels: Plane, turn: Turn) -> Plane:
    """Return stored pixels, (H, W, …), upright."""
    made = pixels[:: -1 if turn.mirror_y else 1, :: -1 if turn.mirror_x else 1]
    return np.ascontiguousarray(made.swapaxes(0, 1) if turn.swap else made)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode, and convert to RGB, transparency over white, in the photo's own space; CMYK by its profile to sRGB."""
    image.load()
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, whose range is not known")
    if image.mode in SIXTEEN_BIT_MODES:
        return image_of(grey_samples(image)).convert("RGB")
    if image.mode == "CMYK":
        icc = image.info.get("icc_profile", b"")
        shown = profiles.seen_pixels(np.asarray(image), icc)
        return image.convert("RGB") if shown.shape[2] == 4 else Image.fromarray(shown)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        paper = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(paper, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
