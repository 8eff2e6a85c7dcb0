"""Reading a photo to colour it: its luma at full size and depth, its transparency, and what is written about it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from colorize.color import Plane, rgb_to_lab
from colorize.photos import profiles
from colorize.photos.deep import SIXTEEN_BIT_MODES, deep_luma, eight_bits, grey_samples, image_of, read_deep
from colorize.photos.hints import Hint
from colorize.photos.jpeg import StoredLuma, stored_luma
from colorize.photos.metadata import Metadata, read_metadata
from colorize.photos.opening import UnreadableImage, find_turn, image_errors, opened, to_rgb, turned_pixels

_HALVED_FROM_PX = 1024
"""A short side that is more than any network is shown: no more of a JPEG's pixels is decoded to show it to one."""

COLOURED_LAB = 3.5
"""Colours of their own: the least root-mean-square distance in CIE a*b* between pixels of equal lightness."""


@dataclass(frozen=True)
class Photo:
    """A photo about to be coloured, upright.

    `luma` is (H, W), Rec. 601 as sRGB, uint8, or uint16 of more than 8 bits; `alpha` (H, W) uint8 opacity, where it has
    any transparency; `metadata` goes into the result's file unchanged, and its RGB profile is the photo's colour
    space. `format` is Pillow's name (MPO as JPEG), "" where there is no file. `own` is the photo with the colours it
    has (RGB or RGBA, of its profile), if any and asked for. `name` is for messages; `notes` are what is to be said of
    its result; `hints` are colours that somebody knows of points in it, at full size. `stored` is the luma of a JPEG
    whose result takes it over from the file: `luma` may be half its size then, rounded up. Where it cannot be taken
    over though it was asked for, `encoded_anew` says why.
    """

    luma: Plane
    alpha: Plane | None = None
    metadata: Metadata = field(default_factory=Metadata)
    format: str = ""
    own: Plane | None = None
    name: str = "a photo"
    notes: tuple[str, ...] = ()
    hints: tuple[Hint, ...] = ()
    stored: StoredLuma | None = None
    encoded_anew: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if self.stored is not None:
            return self.stored.size
        height, width = self.luma.shape
        return width, height

    def grey(self) -> Image.Image:
        """Return the 8-bit grey image that the network is to see (mode L), over white where it is transparent."""
        grey = Image.fromarray(eight_bits(self.luma))
        if self.alpha is None:
            return grey
        return Image.composite(grey, Image.new("L", grey.size, "white"), Image.fromarray(self.alpha))

    def in_srgb(self) -> "Photo":
        """Return the same photo as sRGB, for files that have no place for its profile."""
        icc, own = self.metadata.icc, self.own
        if own is not None:
            own = np.dstack([profiles.seen_pixels(own[..., :3], icc), own[..., 3:]])
        return self if icc is None else replace(self, own=own, metadata=replace(self.metadata, icc=None))


def read(path: str | Path, keep_color: bool = False, as_jpeg: bool = False) -> Photo:
    """Read a photo from a file, whatever its kind: palette, CMYK, 16-bit grey… Of several frames or pages, the first.

    The format, one of `colorize.runtime.formats.FORMATS`, is recognised by the content. With `keep_color`, colours of
    its own are kept in `own`. `as_jpeg` says that the result will be a JPEG, which takes over the luma of another as it
    is stored. Raises UnreadableImage with whatever is wrong with the file, without its name.
    """
    with opened(path) as image, image_errors():
        notes = _notes(image)
        turn, deep = find_turn(image), read_deep(path, image)
        stored: StoredLuma | str = ""
        if as_jpeg:
            is_jpeg = image.format in ("JPEG", "MPO")
            stored = stored_luma(image, Path(path).read_bytes(), turn) if is_jpeg else f"it is a {image.format}"
        if isinstance(stored, StoredLuma) and min(image.size) // 2 >= _HALVED_FROM_PX:
            image.draft(None if keep_color else "L", (image.width // 2, image.height // 2))
        if deep is None:
            image.load()
        # Pillow turns a TIFF by itself on loading, and forgets that it had to; its plugin a HEIC.
        orientation = image.info["tags"].number(Base.Orientation, 1) if "tags" in image.info else 1
        turned = image.info.get("original_orientation", orientation) in (5, 6, 7, 8)
        metadata = read_metadata(image, swapped=turned or (turn is not None and turn.swap))
        name = "JPEG" if image.format == "MPO" else str(image.format)
        if deep is not None:
            image = image_of(deep if turn is None else turned_pixels(deep, turn))
        elif turn is not None:
            image = image.transpose(turn.method)
        photo = _photo(image, metadata, name, keep_color)
    photo = replace(photo, name=str(path), notes=tuple(notes))
    return replace(photo, encoded_anew=stored) if isinstance(stored, str) else replace(photo, stored=stored)


def from_image(image: Image.Image, keep_color: bool = False) -> Photo:
    """Take a Pillow image as it stands, whatever its EXIF. Raises ValueError if it is empty, or of 32 bits."""
    if 0 in image.size:
        raise ValueError(f"an image of {image.width} × {image.height} px has nothing to colour")
    icc = image.info.get("icc_profile")
    try:
        with image_errors():
            image = image_of(grey_samples(image)) if image.mode in SIXTEEN_BIT_MODES else image
            return _photo(image, Metadata(icc=icc), "", keep_color)
    except UnreadableImage as error:
        raise ValueError(str(error)) from error


def from_array(array: Plane, keep_color: bool = False) -> Photo:
    """Take uint8 (H, W) or (H, W, 3), grey or RGB, or uint16 (H, W). Raises ValueError for others and empty ones."""
    kind = (array.dtype, array.ndim)
    if kind not in ((np.uint8, 2), (np.uint8, 3), (np.uint16, 2)) or array.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"expected uint8 of shape (H, W) or (H, W, 3), or uint16 of shape (H, W), not {array.dtype} {array.shape}"
        )
    if 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape} has nothing to colour")
    return from_image(Image.fromarray(np.ascontiguousarray(array)), keep_color)


def has_colors(image: Image.Image) -> bool:
    """Return whether an RGB image has colours of its own: pixels of equal lightness differ in hue or saturation.

    In a grey, sepia, toned or evenly yellowed photo the colour follows from the lightness; so it nearly does in one
    that has faded to a single hue. What is left of a*b* after the mean of each of 25 steps of lightness is taken away
    is measured on a small copy: 0 for grey, up to 3 for sepia, above 3.5 for 91 % of ImageNet's photos.
    """
    small = image.copy()
    small.thumbnail((128, 128), reducing_gap=3.0)
    lightness, *ab = rgb_to_lab(np.asarray(small).transpose(2, 0, 1) / np.float32(255)).reshape(3, -1)
    step = (lightness / 4).astype(int).clip(0, 24)
    count = np.bincount(step, minlength=25).clip(1)
    rest = [plane - (np.bincount(step, plane, 25) / count)[step] for plane in ab]
    return float(np.sqrt(np.square(rest).sum(0).mean())) >= COLOURED_LAB


def _photo(image: Image.Image, metadata: Metadata, name: str, keep_color: bool) -> Photo:
    """Return the photo that an upright image is, of 8 bits or as :func:`colorize.photos.deep.image_of` makes it."""
    icc, deep = metadata.icc, image.info.get("samples")
    if profiles.color_model(icc) not in ("", "RGB"):  # the result is RGB: a profile of another model says nothing of it
        metadata = replace(metadata, icc=None)
    flat, alpha = _split(image)
    colored = profiles.seen(flat, icc) if flat.mode == "RGB" else None  # the photo as sRGB, if it is stored in colour
    luma = np.array((colored or flat).convert("L")) if deep is None else deep_luma(deep, icc)
    if colored is None and icc is not None:
        luma = profiles.seen_grey(luma, icc)
    own = None
    if keep_color and colored is not None and has_colors(colored):
        own = np.array(flat) if deep is None else deep[..., :3]
        if alpha is not None:
            own = np.dstack([own, np.array(alpha)]) if deep is None else deep
    return Photo(luma, None if alpha is None else np.array(alpha), metadata, name, own)


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode == "CMYK" or not image.has_transparency_data:
        return (image.convert("L") if image.mode in ("1", "L") else to_rgb(image)), None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    says_nothing = cast("tuple[int, int]", alpha.getextrema())[0] == 255
    flat = rgba.getchannel("R") if image.mode in ("1", "L", "LA") else rgba.convert("RGB")
    return flat, None if says_nothing else alpha


def _notes(image: Image.Image) -> list[str]:
    try:
        pages = int(image.info["pages"] if "pages" in image.info else getattr(image, "n_frames", 1))
    except Exception:  # what follows the first frame is damaged
        pages = 1
    unused = image.info.get("unused", 0)
    notes = [f"only the first of its {pages} pages, frames or views"] * (pages > 1)
    return notes + [f"without {unused} of its channels, which are no colours and not said to be opacity"] * (unused > 0)
