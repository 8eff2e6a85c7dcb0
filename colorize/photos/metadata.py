"""Statements of a photo's file that hold for its result too, beside the pixels; carried through as bytes."""

import re
import struct
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image
from PIL.ExifTags import Base

from colorize.photos.tags import EXIF, GPS, ICC, IPTC, XMP, Directory, Tags, pack, rational, short, unpack

# Tags that say how the pixels of the source are stored, and so nothing of the result (size, bits, compression, colour
# model, orientation, strips, tiles, palettes, JPEG tables), what goes its own way (XMP, IPTC, profile, directories),
# and an offset into its file.
_OTHER_TAGS = frozenset(
    (
        *range(254, 260),
        *(262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 301, 317),
        *range(320, 348),
        *range(512, 533),
        *(XMP, IPTC, ICC, EXIF, GPS, Base.ExifInteroperabilityOffset),
    )
)
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[0-9]')
_OWN_TEXTS = re.compile("XML:|Raw profile type")
_IPTC_RESOURCE = b"8BIM\x04\x04"
_PNG_PROFILE = re.compile(r"\s*\S+\s+\d+\s+([0-9a-fA-F\s]*)")


@dataclass(frozen=True)
class Metadata:
    """Statements of a file about its photo, the orientation already applied.

    `exif` is the tags ("Exif", two zero bytes, then as in a TIFF; empty for none), without orientation, thumbnail and
    what describes the storage of the source's pixels; `icc` an RGB profile (those of other colour models are applied
    instead of kept); `dpi` pixels an inch, across and down; `iptc` IPTC-IIM records; `text` a PNG's keywords and texts;
    `comment` a JPEG's; `dpx` the header of a DPX.
    """

    exif: bytes = b""
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)
    comment: bytes | None = None
    dpx: bytes = b""


def read_metadata(image: Image.Image, swapped: bool) -> Metadata:
    """Return what is written about a loaded image. Garbled parts are left out: they do not spoil the photo.

    The image is as :func:`colorize.photos.opening.opened` gives it; `swapped` if turning it upright swaps its axes.
    """
    info, text, comment = image.info, {}, None
    found: Tags = info.get("tags") or unpack(info.get("exif") or _png_profile(info.get("Raw profile type exif")))
    dpi: Any = info.get("dpi")
    if "tags" in info:  # a TIFF
        dpi = _resolution(found)
        xmp, iptc = (found.main[tag].data if tag in found.main else None for tag in (XMP, IPTC))
    else:
        iptc = info.get("iptc") or _iptc(image)
        xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
        xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    try:
        dpi = (float(dpi[swapped]), float(dpi[not swapped]))
        dpi = dpi if all(0 < value < 65536 for value in dpi) else None
    except (TypeError, ValueError, ZeroDivisionError, IndexError, KeyError):
        dpi = None
    if image.format == "PNG":
        text = {key: str(value) for key, value in getattr(image, "text", {}).items() if not _OWN_TEXTS.match(key)}
    if image.format in ("JPEG", "MPO") and isinstance(info.get("comment"), bytes):
        comment = info["comment"]
    xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) else None
    icc = info.get("icc_profile") or None
    return Metadata(_result_exif(found, swapped), icc, dpi, xmp, iptc or None, text, comment, info.get("dpx", b""))


def resolution_tags(metadata: Metadata) -> Directory:
    """Return a TIFF's tags for the resolution, if it is known."""
    if metadata.dpi is None:
        return {}
    across, down = (rational(value) for value in metadata.dpi)
    return {Base.XResolution: across, Base.YResolution: down, Base.ResolutionUnit: short(2)}


def photoshop_block(iptc: bytes) -> bytes:
    """Return IPTC records as the resource of Photoshop that JPEG and PNG files keep them in."""
    return _IPTC_RESOURCE + struct.pack(">HI", 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def _iptc(image: Image.Image) -> bytes | None:
    resources = image.info.get("photoshop")
    if isinstance(resources, dict):
        return cast("bytes | None", resources.get(0x0404))
    block = _png_profile(image.info.get("Raw profile type iptc"))
    if block.startswith(_IPTC_RESOURCE):
        return block[12 : 12 + int.from_bytes(block[8:12], "big")]
    return block


def _png_profile(text: object) -> bytes:
    """Return the bytes of a "Raw profile type" text of a PNG: a name, a length, and hexadecimal digits."""
    match = _PNG_PROFILE.fullmatch(text.rstrip("\0")) if isinstance(text, str) else None
    try:
        return bytes.fromhex(match[1]) if match else b""
    except ValueError:
        return b""


def _resolution(found: Tags) -> tuple[float, float] | None:
    unit = found.number(Base.ResolutionUnit, 2)
    across, down = (found.numbers(tag, []) for tag in (Base.XResolution, Base.YResolution))
    if unit not in (2, 3) or len(across) != 2 or len(down) != 2 or 0 in (across[1], down[1]):
        return None
    scale = 2.54 if unit == 3 else 1.0
    return across[0] / across[1] * scale, down[0] / down[1] * scale


def _result_exif(found: Tags, swapped: bool) -> bytes:
    main, exif = ({n: tag for n, tag in group.items() if n not in _OTHER_TAGS} for group in (found.main, found.exif))
    sides = (Base.XResolution, Base.YResolution), (Base.ExifImageWidth, Base.ExifImageHeight)
    for group, (across, down) in zip((main, exif), sides, strict=True):
        if swapped and across in group and down in group:
            group[across], group[down] = group[down], group[across]
    return b"Exif\0\0" + pack(Tags(main, exif, found.gps)) if main or exif or found.gps else b""
