"""Directories of tags, of which TIFF and EXIF consist: read and written as bytes, so that nothing in them changes."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import numpy as np

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of a TIFF; those with a plus are BigTIFFs

SUB_DIRECTORIES, EXIF, GPS, IPTC, XMP, ICC = 330, 34665, 34853, 33723, 700, 34675

_DTYPES = dict(
    zip(range(1, 14), ["u1", "u1", "u2", "u4", "u4", "i1", "u1", "i2", "i4", "i4", "f4", "f8", "u4"], strict=True)
)
_DTYPES |= {16: "u8", 17: "i8", 18: "u8"}
_SIZES = {kind: np.dtype(dtype).itemsize * (2 if kind in (5, 10) else 1) for kind, dtype in _DTYPES.items()}
_LONGEST_BYTES = 1 << 28
_MOST_DIRECTORIES = 10_000


class Tag(NamedTuple):
    """The value of a tag: its type, as TIFF 6.0 and BigTIFF number them, and its elements, little-endian."""

    kind: int
    data: bytes

    @property
    def numbers(self) -> list[int]:
        """The elements; of rationals numerators and denominators by turns."""
        return np.frombuffer(self.data, f"<{_DTYPES[self.kind]}").tolist()


Directory = dict[int, Tag]


class Tags(NamedTuple):
    """The tags of one image in a TIFF, or those of EXIF data: three directories, and the place of the first."""

    main: Directory
    exif: Directory
    gps: Directory
    offset: int = 8
    is_below: bool = False  # true below another image, not in the file's chain of images

    def numbers(self, tag: int, default: list[int]) -> list[int]:
        return (self.main[tag].numbers if tag in self.main else []) or default

    def number(self, tag: int, default: int) -> int:
        return self.numbers(tag, [default])[0]


def short(*values: int) -> Tag:
    """Return a tag of 16-bit numbers."""
    return Tag(3, struct.pack(f"<{len(values)}H", *values))


def long(*values: int) -> Tag:
    """Return a tag of 32-bit numbers."""
    return Tag(4, struct.pack(f"<{len(values)}I", *values))


def rational(value: float) -> Tag:
    """Return a tag of one fraction; `value` from 0 to 65535."""
    return Tag(5, struct.pack("<II", *Fraction(value).limit_denominator(1 << 15).as_integer_ratio()))


def read_tags(file: BinaryIO) -> Iterator[Tags]:
    """Yield each image's tags in a TIFF, garbled values left out. Raises ValueError where it does not begin as one."""
    head = _read(file, 0, 16)
    if not head.startswith(STARTS):
        raise ValueError("not a TIFF")
    big, order = b"+" in head[:4], "<" if head[:1] == b"I" else ">"
    following = _number(head[8:16] if big else head[4:8], order)
    offsets, seen = [(following, False)], {0}
    while offsets and len(seen) < _MOST_DIRECTORIES:
        offset, is_below = offsets.pop()
        if offset in seen:
            continue
        seen.add(offset)
        main, following = _read_directory(file, offset, big, order)
        if main:
            groups = (main[tag].numbers[:1] if tag in main else [] for tag in (EXIF, GPS))
            exif, gps = (_read_directory(file, place[0], big, order)[0] if place else {} for place in groups)
            yield Tags(main, exif, gps, offset, is_below)
            if not is_below:
                below = main[SUB_DIRECTORIES].numbers if SUB_DIRECTORIES in main else []
                offsets = [(following, False), *((place, True) for place in reversed(below))]


def unpack(content: bytes) -> Tags:
    """Return the tags of EXIF data, with or without "Exif" before them; none, if it is empty or no EXIF data."""
    content = content.removeprefix(b"Exif\0\0")
    return next(read_tags(io.BytesIO(content)) if content.startswith(STARTS) else iter(()), Tags({}, {}, {}))


def pack(tags: Tags) -> bytes:
    """Return a TIFF that consists of directories alone."""
    groups = {pointer: group for pointer, group in ((EXIF, tags.exif), (GPS, tags.gps)) if group}
    main = tags.main | dict.fromkeys(groups, long(0))
    tail, at = b"", 8 + len(_pack_directory(main, 8))
    for pointer, group in groups.items():
        main[pointer] = long(at + len(tail))
        tail += _pack_directory(group, at + len(tail))
    return STARTS[0] + struct.pack("<I", 8) + _pack_directory(main, 8) + tail


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    if offset >= 1 << 62 or length > _LONGEST_BYTES:
        return b""
    file.seek(offset)
    return file.read(length)


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")


def _read_directory(file: BinaryIO, offset: int, big: bool, order: str) -> tuple[Directory, int]:
    """Return the tags of a directory, and where the next one is (0: nowhere)."""
    word, entry, counter = (8, 20, 8) if big else (4, 12, 2)
    count = min(_number(_read(file, offset, counter), order), 1 << 16)
    table = _read(file, offset + counter, entry * count + word)
    tags: Directory = {}
    for at in range(0, min(len(table) - entry + 1, entry * count), entry):
        number, kind = _number(table[at : at + 2], order), _number(table[at + 2 : at + 4], order)
        length = _number(table[at + 4 : at + 4 + word], order) * _SIZES.get(kind, 0)
        data = table[at + 4 + word : at + entry]
        if length > word:
            data = _read(file, _number(data, order), length)
        if number == IPTC:  # bytes, whatever they are typed as (often LONG)
            kind = 7
        if kind in _DTYPES and len(data) >= length:
            swapped = np.frombuffer(data[:length], f"{order}{_DTYPES[kind]}").astype(f"<{_DTYPES[kind]}")
            tags[number] = Tag(kind, swapped.tobytes())
    return tags, _number(table[entry * count :], order)


def _pack_directory(tags: Directory, at: int) -> bytes:
    tags = {number: tag for number, tag in tags.items() if tag.kind < 16}  # the others are BigTIFF's
    table, values, start = struct.pack("<H", len(tags)), b"", at + 2 + 12 * len(tags) + 4
    for number, (kind, data) in sorted(tags.items()):
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(values))
        values += data + bytes(len(data) % 2) if len(data) > 4 else b""
        table += struct.pack("<HHI", number, kind, len(data) // _SIZES[kind]) + place
    return table + bytes(4) + values
