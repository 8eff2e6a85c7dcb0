"""Directories of tags, of which TIFF and EXIF consist: read and written as bytes, so that nothing in them changes."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import numpy as np

_DTYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    5: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
}
_DTYPES |= {13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_RATIONALS = (5, 10)
_LONGEST_BYTES = 1 << 28

EXIF, GPS = 34665, 34853
IPTC = 33723


class Tag(NamedTuple):
    """The value of a tag.

    Attributes:
        kind: its type, as TIFF 6.0 and BigTIFF number them.
        data: its elements, little-endian.
    """

    kind: int
    data: bytes

    @property
    def numbers(self) -> list[int]:
        """The elements; of rationals numerators and denominators by turns."""
        return np.frombuffer(self.data, f"<{_DTYPES[self.kind]}").tolist()


Directory = dict[int, Tag]


class PlacedDirectory(NamedTuple):
    """A directory and the place in its file where it begins."""

    offset: int
    tags: Directory


def short(*values: int) -> Tag:
    """Return a tag of 16-bit numbers."""
    return Tag(3, struct.pack(f"<{len(values)}H", *values))


def long(*values: int) -> Tag:
    """Return a tag of 32-bit numbers."""
    return Tag(4, struct.pack(f"<{len(values)}I", *values))


def rational(value: float) -> Tag:
    """Return a tag of one fraction; `value` from 0 to 65535."""
    return Tag(5, struct.pack("<II", *Fraction(value).limit_denominator(1 << 15).as_integer_ratio()))


def read_directories(file: BinaryIO, most: int = 10_000) -> Iterator[PlacedDirectory]:
    """Yield the directories of a TIFF (or BigTIFF) that follow each other. Values that are garbled are left out.

    Raises:
        ValueError: the file does not begin as a TIFF.
    """
    head = _read(file, 0, 16)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise ValueError("not a TIFF")
    big, order = head[2:4] in (b"+\0", b"\0+"), "<" if head[:2] == b"II" else ">"
    offset = _number(head[8:16] if big else head[4:8], order)
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < most:
        seen.add(offset)
        tags, following = _read_directory(file, offset, big, order)
        if not tags:
            return
        yield PlacedDirectory(offset, tags)
        for below in tags[330].numbers if 330 in tags else []:  # SubIFDs
            if below not in seen and len(seen) < most:
                seen.add(below)
                yield PlacedDirectory(below, _read_directory(file, below, big, order)[0])
        offset = following


def read_group(file: BinaryIO, main: Directory, pointer: int) -> Directory:
    """Return the directory that tag `pointer` (`EXIF` or `GPS`) of a TIFF's directory leads to; empty for none."""
    head = _read(file, 0, 4)
    if pointer not in main or len(main[pointer].numbers) != 1:
        return {}
    return _read_directory(file, main[pointer].numbers[0], b"+" in head, "<" if head[:2] == b"II" else ">")[0]


def pack(main: Directory, exif: Directory, gps: Directory) -> bytes:
    """Return a TIFF that consists of directories alone."""
    groups = {pointer: group for pointer, group in ((EXIF, exif), (GPS, gps)) if group}
    main = main | dict.fromkeys(groups, long(0))
    tail, at = b"", 8 + len(_pack_directory(main, 8))
    for pointer, group in groups.items():
        main[pointer] = long(at + len(tail))
        tail += _pack_directory(group, at + len(tail))
    return b"II*\0" + struct.pack("<I", 8) + _pack_directory(main, 8) + tail


def unpack(content: bytes) -> tuple[Directory, Directory, Directory]:
    """Return the main, EXIF and GPS directories of EXIF data, with or without "Exif" before it.

    Raises:
        ValueError: it is none.
    """
    file = io.BytesIO(content.removeprefix(b"Exif\0\0"))
    main = next((found.tags for found in read_directories(file)), {})
    return main, read_group(file, main, EXIF), read_group(file, main, GPS)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    if offset >= 1 << 62:
        return b""
    file.seek(offset)
    return file.read(length)


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")


def _size(kind: int) -> int:
    return np.dtype(_DTYPES[kind]).itemsize * (2 if kind in _RATIONALS else 1)


def _read_directory(file: BinaryIO, offset: int, big: bool, order: str) -> tuple[Directory, int]:
    """Return the tags of a directory, and where the next one is (0: nowhere)."""
    word, entry, counter = (8, 20, 8) if big else (4, 12, 2)
    count = min(_number(_read(file, offset, counter), order), 1 << 16)
    table = _read(file, offset + counter, entry * count + word)
    table, following = table[: entry * count], _number(table[entry * count :], order)
    tags: Directory = {}
    for at in range(0, len(table) - entry + 1, entry):
        number, kind = _number(table[at : at + 2], order), _number(table[at + 2 : at + 4], order)
        if kind not in _DTYPES:
            continue
        length = _number(table[at + 4 : at + 4 + word], order) * _size(kind)
        data = table[at + 4 + word : at + entry]
        if length > word:
            data = _read(file, _number(data, order), length) if length <= _LONGEST_BYTES else b""
        if number == IPTC:  # bytes, whatever they are typed as (often LONG)
            kind = 7
        if len(data) >= length:
            swapped = np.frombuffer(data[:length], f"{order}{_DTYPES[kind]}").astype(f"<{_DTYPES[kind]}")
            tags[number] = Tag(kind, swapped.tobytes())
    return tags, following


def _pack_directory(tags: Directory, at: int) -> bytes:
    """Return a directory for the place `at` of a TIFF, the values behind it."""
    tags = {number: tag for number, tag in tags.items() if tag.kind < 16}  # the others are BigTIFF's
    table, values, start = struct.pack("<H", len(tags)), b"", at + 2 + 12 * len(tags) + 4
    for number, (kind, data) in sorted(tags.items()):
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(values))
        values += data + bytes(len(data) % 2) if len(data) > 4 else b""
        table += struct.pack("<HHI", number, kind, len(data) // _size(kind)) + place
    return table + bytes(4) + values
