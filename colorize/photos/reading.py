"""Reading a photo to colour it: its luma at full size and depth, its transparency, and what is written about it."""

import io
import math
import os
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms

from colorize.color import rgb_to_lab
from colorize.photos.opening import SIXTEEN_BIT_MODES, UnreadableImage, find_turn, opened, pillow_errors, to_rgb

Plane = np.ndarray[Any, Any]

_MIN_IS_WHITE = 0
_PHOTOMETRIC = 262
_XMP_TAG = 700

# Tags that say how the pixels of the source are stored, and so nothing of the result (size, bits, compression, colour
# model, orientation, strips, tiles, palettes, JPEG tables), and what goes its own way: XMP, ICC profile, directories.
_OTHER_TAGS = frozenset(
    (
        *range(254, 260),
        *(262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 301, 317),
        *range(320, 348),
        *range(512, 533),
        *(_XMP_TAG, 34675, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
    )
)
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[0-9]')

COLOURED_LAB = 3.5
"""Colours of their own: the least root-mean-square distance in CIE a*b* between pixels of equal lightness."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture, the orientation already applied.

    Attributes:
        exif: its tags ("Exif", two zero bytes, then as in a TIFF; empty for none), without orientation, thumbnail and
            what describes the storage of the source's pixels.
        icc: an RGB profile. Profiles of other colour models are applied instead of kept.
        dpi: pixels an inch, across and down.
        xmp: an XMP packet.
        text: a PNG's keywords and texts.
        comment: a JPEG's comment.
    """

    exif: bytes = b""
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)
    comment: bytes | None = None


@dataclass(frozen=True)
class Photo:
    """A photo about to be coloured, upright.

    Attributes:
        luma: (H, W) Rec. 601 luma, uint8, or uint16 of a 16-bit grey picture.
        alpha: (H, W) uint8 opacity, where the picture has any transparency.
        metadata: what goes into the result's file unchanged.
        format: of the file, as Pillow calls it (MPO as JPEG); "" where the picture is from no file.
        own: the picture with the colours it has, if it was asked to keep them and has any: RGB or RGBA.
        preview: a small RGB copy as it looked before, over white, where one was asked for.
        name: of the file, for messages.
    """

    luma: Plane
    alpha: Plane | None = None
    metadata: Metadata = field(default_factory=Metadata)
    format: str = ""
    own: Image.Image | None = None
    preview: Image.Image | None = None
    name: str = "a picture"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.luma.shape
        return width, height

    def grey(self) -> Image.Image:
        """The 8-bit grey picture that the network is to look at (mode L), over white where it is transparent."""
        luma = self.luma if self.luma.dtype == np.uint8 else (self.luma >> 8).astype(np.uint8)
        grey = Image.fromarray(luma)
        return grey if self.alpha is None else over_white(grey, Image.fromarray(self.alpha))


def read(path: str | Path, keep_color: bool = False, preview_px: int | None = None) -> Photo:
    """The photo in a file, whatever its kind: palette, CMYK, 16-bit grey… Of several frames or pages, the first.

    Args:
        path: a JPEG, PNG, TIFF, WebP, BMP, GIF or PPM file, recognised by its content.
        keep_color: look whether it has colours of its own, and keep them in `own` if so.
        preview_px: longer side of `preview`; None makes none.

    Raises:
        UnreadableImage: whatever is wrong with the file, without its name.
    """
    with pillow_errors():
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise UnreadableImage("not a regular file")
    if status.st_size == 0:
        raise UnreadableImage("the file is empty")
    with opened(path) as image, pillow_errors():
        # Pillow turns a TIFF by itself on loading, and forgets that it had to.
        tags = getattr(image, "tag_v2", {})
        swapped = tags.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        turn = find_turn(image)
        image.load()
        metadata = _metadata(image, swapped or (turn is not None and turn.swap))
        inverted = image.mode in SIXTEEN_BIT_MODES and tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE
        name = "JPEG" if image.format == "MPO" else str(image.format)
        upright = image if turn is None else image.transpose(turn.method)
        photo = _photo(upright, metadata, name, keep_color, preview_px, inverted)
    return replace(photo, name=str(path))


def from_image(image: Image.Image, keep_color: bool = False) -> Photo:
    """A Pillow image of any mode as a photo, as it stands: an orientation in its EXIF is not applied.

    Raises:
        ValueError: it has no pixels, or pixels of unknown range (32-bit).
    """
    if 0 in image.size:
        raise ValueError(f"an image of {image.width} × {image.height} px has nothing to colour")
    try:
        with pillow_errors():
            return _photo(image, Metadata(icc=image.info.get("icc_profile")), "", keep_color, None, inverted=False)
    except UnreadableImage as error:
        raise ValueError(str(error)) from error


def has_colors(image: Image.Image) -> bool:
    """Whether an RGB picture has colours of its own: pixels of equal lightness differ in hue or saturation.

    In a grey, sepia, toned or evenly yellowed picture the colour follows from the lightness; so it nearly does in one
    that has faded to a single hue. What is left of a*b* after the mean of each of 25 steps of lightness is taken away
    is measured on a small copy: 0 for grey, up to 3 for sepia, above 3.5 for 91 % of ImageNet's photos.
    """
    pixels = torch.from_numpy(np.array(shrink(image, 128))).permute(2, 0, 1).float() / 255
    lightness, *ab = rgb_to_lab(pixels).flatten(1)
    step = (lightness / 4).long().clamp(0, 24)
    count = torch.zeros(25).index_add_(0, step, torch.ones_like(lightness)).clamp_min_(1)
    rest = [plane - (torch.zeros(25).index_add_(0, step, plane) / count)[step] for plane in ab]
    return float(torch.stack(rest).square().sum(0).mean().sqrt()) >= COLOURED_LAB


def shrink(image: Image.Image, longest_px: int) -> Image.Image:
    """`image` with its longer side at most `longest_px`, antialiased."""
    if max(image.size) <= longest_px:
        return image
    scale = longest_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def over_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """`image` (L or RGB) laid over white with opacity `alpha` (L)."""
    return Image.composite(image, Image.new(image.mode, image.size, "white"), alpha)


def _photo(
    image: Image.Image, metadata: Metadata, name: str, keep_color: bool, preview_px: int | None, inverted: bool
) -> Photo:
    icc, space = metadata.icc, _profile_space(metadata.icc)
    if space not in (None, b"RGB "):  # the result is RGB, and a profile of another model says nothing of it
        metadata = replace(metadata, icc=None)
    own = preview = None
    if image.mode in SIXTEEN_BIT_MODES:
        luma, alpha = _sixteen_bits(image)
        luma, flat = (65535 - luma if inverted else luma), None
    else:
        flat, alpha = _split(image, icc if space == b"CMYK" else None)
        luma = np.array(flat.convert("L"))
    if icc is not None and space == b"GRAY" and (flat is None or flat.mode == "L"):
        luma, flat = _through_grey_profile(luma, icc), None
    if keep_color and flat is not None and flat.mode == "RGB" and has_colors(flat):
        own = flat
        if alpha is not None:
            own = flat.copy()
            own.putalpha(alpha)
    photo = Photo(luma, None if alpha is None else np.array(alpha), metadata, name, own)
    if preview_px is not None:
        looked = photo.grey() if flat is None else flat if alpha is None else over_white(flat, alpha)
        preview = shrink(looked, preview_px).convert("RGB")
    return replace(photo, preview=preview)


def _sixteen_bits(image: Image.Image) -> tuple[Plane, Image.Image | None]:
    """The values of a 16-bit grey picture, and its opacity where one of them stands for transparency."""
    wide = np.asarray(image)
    if image.mode == "I" and (wide.min() < 0 or wide.max() > 65535):
        raise UnreadableImage("32-bit pixels, whose range is not known")
    luma, transparent = wide.astype(np.uint16), image.info.get("transparency")
    if not isinstance(transparent, int) or not (luma == transparent).any():
        return luma, None
    return luma, Image.fromarray(np.where(luma == transparent, 0, 255).astype(np.uint8))


def _split(image: Image.Image, cmyk_icc: bytes | None) -> tuple[Image.Image, Image.Image | None]:
    """An 8-bit picture as L or RGB without transparency, and its opacity, if any."""
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode == "CMYK":
        return (_in_srgb(image, cmyk_icc) if cmyk_icc else None) or image.convert("RGB"), None
    if not image.has_transparency_data:
        return (image.convert("L") if image.mode in ("1", "L") else to_rgb(image)), None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    says_nothing = cast("tuple[int, int]", alpha.getextrema())[0] == 255
    flat = rgba.getchannel("R") if image.mode in ("1", "L", "LA") else rgba.convert("RGB")
    return flat, None if says_nothing else alpha


def _in_srgb(image: Image.Image, icc: bytes) -> Image.Image | None:
    """The colours that a profile gives an image; None for one that is broken, as if there were none."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        made = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return cast("Image.Image", made)
    except (ImageCms.PyCMSError, OSError):
        return None


def _through_grey_profile(luma: Plane, icc: bytes) -> Plane:
    """The values that sRGB has for what a grey profile (dot gain, gamma 1.8…) means by `luma`."""
    curve = _in_srgb(Image.frombytes("L", (256, 1), bytes(range(256))), icc)
    if curve is None:
        return luma
    values = np.array(curve.getchannel("G"))[0]
    if luma.dtype == np.uint8:
        return values[luma]
    steps = np.interp(np.arange(65536) / 257, np.arange(256), values) * 257
    return steps.round().astype(np.uint16)[luma]


def _profile_space(icc: bytes | None) -> bytes | None:
    """The colour model of an ICC profile (ICC.1, 7.2.6), None where these bytes are none."""
    return icc[16:20] if icc is not None and icc[36:40] == b"acsp" else None


def _metadata(image: Image.Image, swapped: bool) -> Metadata:
    """What is written about an opened and loaded picture. Garbled parts are left out: they do not spoil the picture."""
    info = image.info
    try:
        exif = _result_exif(image.getexif(), swapped)
    except Exception:
        exif = b""
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    dpi = info.get("dpi")
    if not (isinstance(dpi, tuple) and len(dpi) == 2 and all(_is_resolution(value) for value in dpi)):
        dpi = None
    if dpi is not None:
        dpi = (float(dpi[1]), float(dpi[0])) if swapped else (float(dpi[0]), float(dpi[1]))
    text = getattr(image, "text", {}) if image.format == "PNG" else {}
    comment = info.get("comment") if image.format in ("JPEG", "MPO") else None
    return Metadata(
        exif,
        info.get("icc_profile") or None,
        dpi,
        _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) else None,
        {key: str(value) for key, value in text.items() if not key.startswith(("XML:", "Raw profile type"))},
        comment if isinstance(comment, bytes) else None,
    )


def _result_exif(exif: Image.Exif, swapped: bool) -> bytes:
    """The tags that hold for the result too."""
    main = {tag: exif[tag] for tag in set(exif) - _OTHER_TAGS}
    groups = {group: dict(exif.get_ifd(group)) for group in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    inner = groups[ExifTags.IFD.Exif]
    inner.pop(ExifTags.IFD.Interop, None)  # an offset into the source's file
    for tags, across, down in (
        (main, ExifTags.Base.XResolution, ExifTags.Base.YResolution),
        (inner, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight),
    ):
        if swapped and across in tags and down in tags:
            tags[across], tags[down] = tags[down], tags[across]
    kept = Image.Exif()
    for tag, value in main.items():
        kept[tag] = value
    for group, values in groups.items():
        if values:
            kept.get_ifd(group).update(values)
    return kept.tobytes() if main or any(groups.values()) else b""


def _is_resolution(value: object) -> bool:
    try:
        return math.isfinite(number := float(cast("float", value))) and 0 < number < 65536
    except (TypeError, ValueError, ZeroDivisionError):
        return False
