"""Boxes, of which JPEG 2000 and JPEG XL files consist: what is said in them beside the pixels.

ISO/IEC 15444-1, annex I (JP2), and 18181 (JPEG XL); EXIF, XMP and IPTC in a JP2 where Adobe and ExifTool have them.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from colorize.photos.metadata import Metadata
from colorize.photos.tags import STARTS

_EXIF, _XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_IPTC = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_UUIDS = {_EXIF: "exif", _XMP: "xmp", _IPTC: "iptc"}


def read_boxes(content: bytes) -> dict[str, Any]:
    """Return what boxes say, by Pillow's names, and "iptc"; "colors" is JPEG 2000's colour space: 16 sRGB, 17 grey."""
    import imagecodecs  # takes a fifth of a second

    found: dict[str, Any] = {}
    for kind, data in _boxes(content):
        if kind == b"brob":
            kind, data = data[:4], bytes(imagecodecs.brotli_decode(data[4:]))
        if kind in (b"jp2h", b"res "):
            found |= read_boxes(data)
        elif kind == b"colr" and data:
            found |= {"colors": data[-1]} if data[0] == 1 else {"icc_profile": data[3:]}
        elif kind in (b"resc", b"resd") and len(data) == 10:
            found["dpi"] = _per_inch(data[4:8], data[9]), _per_inch(data[:4], data[8])
        elif kind == b"uuid" and data[:16] in _UUIDS:
            found[_UUIDS[data[:16]]] = data[16:]
        elif kind == b"Exif":
            found["exif"] = data[4:] if data[4:].startswith(STARTS) else data  # as pillow-jxl-plugin writes it
        elif kind == b"xml " and b"xmpmeta" in data:
            found["xmp"] = data
    return found


def jp2_file(encoded: bytes, metadata: Metadata) -> bytes:
    """Return a JP2 with what is known of its image; `encoded` is one that says nothing."""
    *first, header, codestream = _boxes(encoded)
    inner = [_box(*part) for part in _boxes(header[1]) if part[0] != b"colr" or metadata.icc is None]
    if metadata.icc is not None:
        inner.append(_box(b"colr", b"\2\0\0" + metadata.icc))
    if metadata.dpi is not None:
        across, down = (_per_millimetre(value) for value in metadata.dpi)
        inner.append(_box(b"res ", _box(b"resc", down + across + b"\3\3")))
    said = {_EXIF: metadata.exif.removeprefix(b"Exif\0\0"), _XMP: metadata.xmp, _IPTC: metadata.iptc}
    uuids = [(b"uuid", uuid + data) for uuid, data in said.items() if data]
    return b"".join(_box(*part) for part in (*first, (b"jp2h", b"".join(inner)), *uuids, codestream))


def jxl_size(content: bytes) -> tuple[int, int]:
    """Return the width and height that a JPEG XL's header states."""
    parts = dict(reversed(list(_boxes(content))))  # of several the first
    stream = content if content[:1] == b"\xff" else parts.get(b"jxlc") or parts.get(b"jxlp", b"")[4:]
    header = int.from_bytes(stream[2:20], "little")

    def take(count: int) -> int:
        nonlocal header
        value, header = header & ((1 << count) - 1), header >> count
        return value

    def length() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height, ratio = length(), take(3)
    across, down = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio]
    return height * across // down or length(), height


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = end = 0
    while end >= start and len(head := content[end : end + 8]) == 8:
        length, start = int.from_bytes(head[:4], "big"), end + 8
        if length == 1:
            length, start = int.from_bytes(content[start : start + 8], "big"), start + 8
        end = end + length if length else len(content)
        if end >= start:
            yield head[4:], content[start:end]


def _box(kind: bytes, data: bytes) -> bytes:
    return (len(data) + 8).to_bytes(4, "big") + kind + data


def _per_inch(fraction: bytes, exponent: int) -> float:
    """Return pixels an inch; given are pixels a metre, as a fraction and a signed power of ten."""
    above, below = int.from_bytes(fraction[:2], "big"), int.from_bytes(fraction[2:], "big")
    return above / max(1, below) * 10.0 ** (exponent - 256 * (exponent > 127)) * 0.0254


def _per_millimetre(per_inch: float) -> bytes:
    value = Fraction(per_inch / 25.4)
    value = value.limit_denominator(int(65535 / (value + 1)))
    return value.numerator.to_bytes(2, "big") + value.denominator.to_bytes(2, "big")
