"""Image file formats: the one table of what each is called, what it can hold, and whether results are written in it.

Adding a format that Pillow reads is a row here, and in docs/PHOTOS.md. For `--help` it imports no Pillow nor torch.
"""

import os
from dataclasses import dataclass

ALL_METADATA = frozenset(("exif", "icc", "dpi", "xmp", "iptc"))
_AS_SRGB = ALL_METADATA - {"icc", "iptc"}


@dataclass(frozen=True)
class Format:
    """A format of image files: Pillow's `name` of it, and how their names end (results' with the first of `suffixes`).

    Results can be `written` in it; it may hold 16 bits a channel and transparency (`alpha`), be `lossy` (have a
    quality), and have a `longest_side_px`; `keeps` are the fields of `colorize.photos.metadata.Metadata` that it holds.
    Where Pillow alone does not read it, `plugin` is the module of the extra `formats` that does.
    """

    name: str
    suffixes: tuple[str, ...]
    written: bool = True
    sixteen_bits: bool = False
    alpha: bool = False
    lossy: bool = False
    longest_side_px: int = 1 << 31
    keeps: frozenset[str] = ALL_METADATA
    plugin: str = ""

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
    Format("JPEG2000", (".jp2", ".jpf", ".jpx"), sixteen_bits=True, alpha=True),
    Format("JPEG2000", (".j2k", ".j2c", ".jpc"), sixteen_bits=True, alpha=True, keeps=frozenset()),  # bare codestreams
    Format("JXL", (".jxl",), alpha=True, lossy=True, keeps=_AS_SRGB, plugin="pillow_jxl"),
    Format(
        "HEIF",
        (".heic", ".heif", ".hif"),
        alpha=True,
        lossy=True,
        longest_side_px=16384,
        keeps=ALL_METADATA - {"iptc"},
        plugin="pillow_heif.HeifImagePlugin",
    ),
    Format("BMP", (".bmp",), keeps=frozenset(("dpi",))),
    Format("DPX", (".dpx",), sixteen_bits=True, keeps=frozenset(("dpx",))),
    Format("PSD", (".psd",), written=False),
    Format("GIF", (".gif",), written=False),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), written=False),
)

IMAGE_SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)  # in lower case

WRITTEN_SUFFIXES = {suffix: format for format in FORMATS if format.written for suffix in format.suffixes}
"""The formats that results are written in, by the ends of their names."""

FORMAT_CHOICES = tuple(suffix[1:] for format in FORMATS if format.written for suffix in format.suffixes[:2])
"""Words for the formats of results; each is also a suffix, without its dot."""


def suffix_of(name: str | os.PathLike[str]) -> str:
    """Return the end of a file's name in lower case, with its dot; "" where there is none."""
    return os.path.splitext(name)[1].lower()


def has_image_suffix(name: str | os.PathLike[str]) -> bool:
    """Return whether a file is called as an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


RAW = "a camera's raw file: develop it to a 16-bit TIFF first, with darktable or RawTherapee for instance"
_STARTS = (
    ("HEIF", 4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    ("JXL", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("a Photoshop file of other than 8 bits a channel: save it as a TIFF", 0, (b"8BPS",)),
    (RAW, 0, (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"\0MRM", b"FOVb", b"II\x1a\0")),
    (RAW, 4, (b"ftypcrx",)),
    (RAW, 8, (b"CR\2\0",)),
    ("a PDF file, which is not read", 0, (b"%PDF",)),
    ("an OpenEXR file, which is not read", 0, (b"v/1\x01",)),
    ("a DICOM file, which is not read", 128, (b"DICM",)),
)


def rare_kind(head: bytes) -> str:
    """Return, by a file's first bytes, the name of a format with a plugin, or why such images are not read; else ""."""
    return next((kind for kind, at, starts in _STARTS if head[at:].startswith(starts)), "")
