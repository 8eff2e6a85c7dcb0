"""What a photo's file says beside its pixels, as far as it holds for the result too; carried through as bytes."""

import math
import re
import struct
from dataclasses import dataclass, field
from typing import cast

from PIL import Image

from colorize.photos import tags
from colorize.photos.tags import Directory

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
XMP, ICC = 700, 34675
_WIDTH, _HEIGHT = 0xA002, 0xA003
_INTEROP = 0xA005

# Tags that say how the pixels of the source are stored, and so nothing of the result (size, bits, compression, colour
# model, orientation, strips, tiles, palettes, JPEG tables), and what goes its own way: XMP, IPTC, profile, directories.
_OTHER_TAGS = frozenset(
    (
        *range(254, 260),
        *(262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 301, 317),
        *range(320, 348),
        *range(512, 533),
        *(XMP, tags.IPTC, ICC, tags.EXIF, tags.GPS),
    )
)
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[0-9]')
_IPTC_RESOURCE = 0x0404
_PNG_PROFILE = re.compile(r"\s*\S+\s+\d+\s+([0-9a-fA-F\s]*)")


@dataclass(frozen=True)
class Metadata:
    """What a file says about its photo, the orientation already applied.

    Attributes:
        exif: its tags ("Exif", two zero bytes, then as in a TIFF; empty for none), without orientation, thumbnail and
            what describes the storage of the source's pixels.
        icc: an RGB profile. Profiles of other colour models are applied instead of kept.
        dpi: pixels an inch, across and down.
        xmp: an XMP packet.
        iptc: IPTC-IIM records: captions, keywords.
        text: a PNG's keywords and texts.
        comment: a JPEG's comment.
    """

    exif: bytes = b""
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    text: dict[str, str] = field(default_factory=dict)
    comment: bytes | None = None


def read_metadata(image: Image.Image, swapped: bool) -> Metadata:
    """Return what is written about a loaded image. Garbled parts are left out: they do not spoil the photo.

    Args:
        image: as :func:`colorize.photos.opening.opened` gives it.
        swapped: whether turning it upright swaps its axes.
    """
    info = image.info
    try:
        main, exif, gps = info.get("directories") or tags.unpack(_exif_block(image))
    except ValueError:
        main, exif, gps = {}, {}, {}
    if "directories" in info:  # a TIFF
        dpi, xmp, iptc = _resolution(main), main.get(XMP), main.get(tags.IPTC)
        found = (xmp and xmp.data, iptc and iptc.data)
    else:
        dpi, found = info.get("dpi"), (info.get("xmp") or info.get("XML:com.adobe.xmp"), _iptc(image))
    packet, records = (part.encode("utf-8", "replace") if isinstance(part, str) else part for part in found)
    if not (isinstance(dpi, tuple) and len(dpi) == 2 and all(_is_resolution(value) for value in dpi)):
        dpi = None
    if dpi is not None:
        dpi = (float(dpi[1]), float(dpi[0])) if swapped else (float(dpi[0]), float(dpi[1]))
    text = getattr(image, "text", {}) if image.format == "PNG" else {}
    comment = info.get("comment") if image.format in ("JPEG", "MPO") else None
    return Metadata(
        _result_exif(main, exif, gps, swapped),
        info.get("icc_profile") or None,
        dpi,
        _XMP_ORIENTATION.sub(rb"\g<1>1", packet) if packet else None,
        records or None,
        {key: str(value) for key, value in text.items() if not key.startswith(("XML:", "Raw profile type"))},
        comment if isinstance(comment, bytes) else None,
    )


def with_resolution(metadata: Metadata) -> bytes:
    """Return the EXIF data with the resolution in it, for formats that say it nowhere else."""
    main, exif, gps = tags.unpack(metadata.exif) if metadata.exif else ({}, {}, {})
    return b"Exif\0\0" + tags.pack(main | resolution_tags(metadata), exif, gps)


def resolution_tags(metadata: Metadata) -> Directory:
    """Return a TIFF's tags for the resolution, if it is known."""
    if metadata.dpi is None:
        return {}
    across, down = (tags.rational(value) for value in metadata.dpi)
    return {_X_RESOLUTION: across, _Y_RESOLUTION: down, _RESOLUTION_UNIT: tags.short(2)}


def photoshop_block(iptc: bytes) -> bytes:
    """Return IPTC records as the resource of Photoshop that JPEG and PNG files keep them in."""
    return b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def _exif_block(image: Image.Image) -> bytes:
    info = image.info
    block = info.get("exif")
    if block is None and isinstance(hexadecimal := info.get("Raw profile type exif"), str):
        block = _png_profile(hexadecimal)
    return block or b""


def _iptc(image: Image.Image) -> bytes | None:
    """Return the IPTC records of a JPEG or PNG."""
    resources = image.info.get("photoshop")
    if isinstance(resources, dict):
        return cast("bytes | None", resources.get(_IPTC_RESOURCE))
    if not isinstance(hexadecimal := image.info.get("Raw profile type iptc"), str):
        return None
    block = _png_profile(hexadecimal)
    if block.startswith(b"8BIM") and len(block) >= 12:  # with an empty name, as it is always written
        length = int.from_bytes(block[8:12], "big")
        return block[12 : 12 + length]
    return block


def _png_profile(text: str) -> bytes:
    """Return the bytes of a "Raw profile type" text of a PNG: a name, a length, and hexadecimal digits."""
    match = _PNG_PROFILE.fullmatch(text.rstrip("\0"))
    try:
        return bytes.fromhex(match[1]) if match else b""
    except ValueError:
        return b""


def _resolution(main: Directory) -> tuple[float, float] | None:
    """Return the resolution that a TIFF states, in pixels an inch."""
    unit = main.get(_RESOLUTION_UNIT, tags.short(2)).numbers[:1]
    found = [main[number].numbers for number in (_X_RESOLUTION, _Y_RESOLUTION) if number in main]
    if unit not in ([2], [3]) or len(found) != 2 or any(len(value) != 2 or not value[1] for value in found):
        return None
    across, down = (numerator / denominator * (2.54 if unit == [3] else 1) for numerator, denominator in found)
    return across, down


def _result_exif(main: Directory, exif: Directory, gps: Directory, swapped: bool) -> bytes:
    """Return the tags that hold for the result too."""
    main = {number: tag for number, tag in main.items() if number not in _OTHER_TAGS}
    exif = {number: tag for number, tag in exif.items() if number != _INTEROP}  # an offset into the source's file
    for group, across, down in ((main, _X_RESOLUTION, _Y_RESOLUTION), (exif, _WIDTH, _HEIGHT)):
        if swapped and across in group and down in group:
            group[across], group[down] = group[down], group[across]
    return b"Exif\0\0" + tags.pack(main, exif, gps) if main or exif or gps else b""


def _is_resolution(value: object) -> bool:
    try:
        return math.isfinite(number := float(cast("float", value))) and 0 < number < 65536
    except (TypeError, ValueError, ZeroDivisionError):
        return False
