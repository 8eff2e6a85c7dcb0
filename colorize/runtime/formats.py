"""Image file formats: the one table of what each is called, what it can hold, and whether results are written in it.

Adding a format that Pillow reads is a row here. This file imports neither Pillow nor torch, so that `--help` is fast.
"""

import os
from dataclasses import dataclass

ALL_METADATA = frozenset(("exif", "icc", "dpi", "xmp", "iptc"))


@dataclass(frozen=True)
class Format:
    """A format of image files: Pillow's `name` of it, and how their names end (results' with the first of `suffixes`).

    Results can be `written` in it; it may hold 16 bits a channel and transparency (`alpha`), be `lossy` (have a
    quality), and have a `longest_side_px`; `keeps` are the fields of `colorize.photos.metadata.Metadata` that it holds.
    """

    name: str
    suffixes: tuple[str, ...]
    written: bool = True
    sixteen_bits: bool = False
    alpha: bool = False
    lossy: bool = False
    longest_side_px: int = 1 << 31
    keeps: frozenset[str] = ALL_METADATA

    def can_hold(self, width: int, height: int, channels: int, bits: int) -> bool:
        """Return whether it keeps an image's size, depth and transparency."""
        deep_enough, transparent_enough = bits == 8 or self.sixteen_bits, channels == 3 or self.alpha
        return deep_enough and transparent_enough and max(width, height) <= self.longest_side_px


FORMATS = (
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        lossy=True,
        longest_side_px=65500,
        keeps=ALL_METADATA | {"comment"},
    ),
    Format("PNG", (".png",), sixteen_bits=True, alpha=True, keeps=ALL_METADATA | {"text"}),
    Format("TIFF", (".tif", ".tiff"), sixteen_bits=True, alpha=True),
    Format("WEBP", (".webp",), alpha=True, lossy=True, longest_side_px=16383, keeps=ALL_METADATA - {"iptc"}),
    Format("AVIF", (".avif",), alpha=True, lossy=True, longest_side_px=65536, keeps=ALL_METADATA - {"iptc"}),
    Format("BMP", (".bmp",), keeps=frozenset(("dpi",))),
    Format("GIF", (".gif",), written=False),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), written=False),
)

IMAGE_SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)
"""Suffixes of image files, in upper or lower case."""

WRITTEN_SUFFIXES = {suffix: format for format in FORMATS if format.written for suffix in format.suffixes}
"""The formats that results are written in, by the ends of their names."""

FORMAT_CHOICES = ("jpg", *(format.name.lower() for format in FORMATS if format.written))
"""Words for the formats of results; each is also a suffix, without its dot."""


def suffix_of(name: str | os.PathLike[str]) -> str:
    """Return the end of a file's name in lower case, with its dot; "" where there is none."""
    return os.path.splitext(name)[1].lower()


def has_image_suffix(name: str | os.PathLike[str]) -> bool:
    """Return whether a file is called as an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


_UNREAD = (
    ("HEIC", 4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    ("JPEG XL", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("JPEG 2000", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("Photoshop", 0, (b"8BPS",)),
    ("raw camera", 0, (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"\0MRM", b"FOVb", b"II\x1a\0")),
    ("raw camera", 4, (b"ftypcrx",)),
    ("PDF", 0, (b"%PDF",)),
    ("OpenEXR", 0, (b"v/1\x01",)),
    ("DICOM", 128, (b"DICM",)),
)


def unread_kind(head: bytes) -> str | None:
    """Return the name of a format of still images that is not read, by the first bytes of a file."""
    return next((name for name, at, starts in _UNREAD if head[at:].startswith(starts)), None)
