"""TIFFs of every kind: what Pillow reads right goes to Pillow, the rest to tifffile, and some is refused by its name.

Pillow takes much for granted (how many bits are used, which directory is the photo, what a fourth channel is), so that
the file's own description of its pixels (TIFF 6.0; Adobe's PageMaker and Photoshop notes; DNG 1.7) is read first.
"""

import logging
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any, BinaryIO, cast

import numpy as np
from PIL import Image, TiffImagePlugin

from colorize.photos.metadata import ICC
from colorize.photos.tags import EXIF, GPS, Directory, PlacedDirectory, read_directories, read_group

Pixels = np.ndarray[Any, Any]

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_COLORS = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}
"""Samples of each colour model."""

_NOT_PHOTOS = {
    4: "a mask",
    10: "ITU L*a*b* colours",
    32803: "raw data of a camera's sensor",
    32844: "logarithmic luminance",
    32845: "logarithmic colours",
    34892: "raw data of a camera, demosaiced",
    51177: "a depth map",
}
_PILLOW_READS = (
    *((_MIN_IS_WHITE, bits) for bits in (1, 8)),
    *((_MIN_IS_BLACK, bits) for bits in (1, 8, 16)),
    *((_RGB, bits) for bits in (8, 16)),
    *((model, 8) for model in (_SEPARATED, _YCBCR, _CIELAB)),
)
"""Colour models and bits of unsigned samples, none of them extra and pixel by pixel, that Pillow reads right."""

_PILLOW_DECOMPRESSES = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
_JPEG = (6, 7)
_ASSOCIATED, _UNASSOCIATED = 1, 2
_libtiff = Lock()


class UnreadableTiff(Exception):
    """A TIFF that is not read. The message says why."""


@dataclass(frozen=True)
class Kind:
    """The storage of a TIFF's pixels.

    Attributes:
        photometric: the colour model.
        bits: of each sample.
        signed: whether samples have a sign.
        samples: of each pixel.
        extra: what the samples after the colours are.
        planar: whether each sample has a plane of its own.
        compression: its number.
        subsampled: whether there is less chroma than luma.
    """

    photometric: int
    bits: int
    signed: bool
    samples: int
    extra: tuple[int, ...]
    planar: bool
    compression: int
    subsampled: bool

    @classmethod
    def of(cls, tags: Directory) -> "Kind":
        """Read it from a directory.

        Raises:
            UnreadableTiff: nothing reads such pixels.
        """

        def numbers(tag: int, default: list[int]) -> list[int]:
            return tags[tag].numbers if tag in tags and tags[tag].numbers else default

        compression, samples = numbers(259, [1])[0], numbers(277, [1])[0]
        photometric = numbers(262, [-1])[0]
        bits, formats = numbers(258, [1]), numbers(339, [1])
        if photometric in _NOT_PHOTOS:
            raise UnreadableTiff(f"a TIFF of {_NOT_PHOTOS[photometric]}, which is not read")
        if photometric not in _COLORS or not _COLORS[photometric] <= samples <= 16:
            raise UnreadableTiff(f"a TIFF of {samples} channels of an unknown kind ({photometric})")
        if len(set(bits)) > 1 or len(set(formats)) > 1:
            raise UnreadableTiff("a TIFF whose channels differ in depth")
        if formats[0] not in (1, 2, 4):
            raise UnreadableTiff("floating-point pixels, whose range is not known")
        if bits[0] > 32 or (bits[0] > 16 and photometric != _MIN_IS_BLACK):
            raise UnreadableTiff(f"{bits[0]}-bit pixels, whose range is not known")
        if photometric == _SEPARATED and numbers(332, [1])[0] != 1:
            raise UnreadableTiff("a TIFF of other inks than cyan, magenta, yellow and black")
        subsampled = photometric == _YCBCR and compression not in _JPEG and numbers(530, [2, 2]) != [1, 1]
        extra = (numbers(338, []) + [0] * samples)[: samples - _COLORS[photometric]]
        planar = samples > 1 and numbers(284, [1])[0] == 2
        return cls(photometric, bits[0], formats[0] == 2, samples, tuple(extra), planar, compression, subsampled)

    @property
    def pillow_reads(self) -> bool:
        """Whether Pillow reads such pixels right."""
        known = (self.photometric, self.bits) in _PILLOW_READS and self.compression in _PILLOW_DECOMPRESSES
        return known and not (self.signed or self.extra or self.planar)


def open_tiff(file: IO[bytes], max_pixels: int) -> Image.Image:
    """Open the photo of a TIFF: the first directory that is no thumbnail and no mask.

    Its `info` has "directories", the tags with those of EXIF and GPS, "pages", how many photos the file holds, and
    "unused", how many channels are not part of the photo.

    Raises:
        UnreadableTiff: nothing reads such pixels, or there are more than `max_pixels`.
    """
    stream = cast("BinaryIO", file)
    found = list(read_directories(stream))
    photos = [entry for entry in found if 256 in entry.tags and not _is_reduced(entry.tags)] or found
    if not photos:
        raise UnreadableTiff("a TIFF without any photo")
    offset, tags = photos[0]
    width, height = (tags[tag].numbers[0] if tag in tags and tags[tag].data else 0 for tag in (256, 257))
    if not 0 < width * height <= max_pixels:
        raise UnreadableTiff(f"more than {max_pixels // 1_000_000} million pixels" if width * height else "no pixels")
    kind = Kind.of(tags)
    chain = _chain(found)
    if kind.pillow_reads and offset in chain:
        image = _open_with_pillow(file, chain.index(offset), kind)
    else:
        image = _decoded(_read_pixels(file, offset, kind, (height, width)), kind, tags)
        image.format = "TIFF"
        if ICC in tags:
            image.info["icc_profile"] = tags[ICC].data
        image.getexif()[274] = tags[274].numbers[0] if 274 in tags else 1
    unused = sum(sample not in (_ASSOCIATED, _UNASSOCIATED) for sample in kind.extra)
    groups = (read_group(stream, tags, EXIF), read_group(stream, tags, GPS))
    image.info |= {"directories": (tags, *groups), "pages": len(photos), "unused": unused}
    return image


def _is_reduced(tags: Directory) -> bool:
    """Return whether a directory is a smaller copy of another, or a mask."""
    new, old = (tags[tag].numbers if tag in tags else [] for tag in (254, 255))
    return bool(new[:1] and new[0] & 5) or old[:1] == [2] or (262 in tags and tags[262].numbers[:1] == [4])


def _chain(found: list[PlacedDirectory]) -> list[int]:
    below = {offset for _, tags in found if 330 in tags for offset in tags[330].numbers}
    return [offset for offset, _ in found if offset not in below]


def _open_with_pillow(file: IO[bytes], index: int, kind: Kind) -> Image.Image:
    file.seek(0)
    if kind.subsampled and kind.compression == 1:
        # Pillow's own decoder takes such chroma for full; libtiff, which it has for compressed files, does not.
        with _libtiff:
            TiffImagePlugin.READ_LIBTIFF = True
            try:
                image = Image.open(file, formats=["TIFF"])
            finally:
                TiffImagePlugin.READ_LIBTIFF = False
    else:
        image = Image.open(file, formats=["TIFF"])
    if index:
        image.seek(index)
    return image


def _read_pixels(file: IO[bytes], offset: int, kind: Kind, size: tuple[int, int]) -> Pixels:
    """Return the samples of a directory, `(height, width, samples)`."""
    import tifffile  # takes a quarter of a second, and few photos need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    if kind.subsampled:
        raise UnreadableTiff("a TIFF of subsampled YCbCr in planes, which is not read")
    file.seek(0)
    with tifffile.TiffFile(file) as tif:
        tif.filehandle.seek(offset)
        page = tifffile.TiffPage(tif, index=0)
        pixels = page.asarray()
    if kind.planar:
        return np.moveaxis(pixels.reshape(kind.samples, *size), 0, -1)
    return pixels.reshape(*size, kind.samples)


def _decoded(pixels: Pixels, kind: Kind, tags: Directory) -> Image.Image:
    """Return the image that samples `(height, width, samples)` stand for."""
    photometric, bits = kind.photometric, kind.bits
    if bits > 16:
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnreadableTiff(f"{bits}-bit pixels, whose range is not known")
        pixels, bits = pixels.astype(np.uint16), 16
    elif kind.signed and photometric not in (_CIELAB, _ICCLAB):
        pixels = pixels.astype(np.int32) + (1 << (bits - 1))
    levels = (1 << bits) - 1
    ramp = np.arange(levels + 1)
    if photometric == _MIN_IS_WHITE:
        ramp = ramp[::-1]
    if photometric == _YCBCR and kind.compression in _JPEG:
        photometric = _RGB  # which tifffile makes of it
    count = _COLORS[photometric]
    colors, opacity = pixels[..., :count], None
    for index, meaning in reversed(list(enumerate(kind.extra, start=count))):
        if meaning in (_ASSOCIATED, _UNASSOCIATED):
            opacity = (meaning, _to_8_bits(pixels[..., index], np.arange(levels + 1), levels))
    if photometric == _PALETTE:
        table = np.array(tags[320].numbers).reshape(3, -1)
        colors = np.take(table.T, colors[..., 0], axis=0)
        # Some writers give 8 bits where 16 are meant; libtiff looks at the values, too.
        colors, mode = (colors >> 8 if table.max() > 255 else colors).astype(np.uint8), "RGB"
    elif photometric in (_CIELAB, _ICCLAB):
        colors, mode = _lab(colors, kind, photometric == _CIELAB), "LAB"
    elif count == 1 and bits > 8 and opacity is None:
        deep = (ramp * 65535 + levels // 2) // levels
        colors, mode = deep.astype("<u2")[colors[..., 0]], "I;16"
    else:
        colors, mode = _to_8_bits(colors, ramp, levels), {1: "L", 3: "RGB", 4: "CMYK"}[count]
        mode = "YCbCr" if photometric == _YCBCR else mode
    image = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(colors).tobytes())
    if opacity is None:
        return image
    meaning, alpha = opacity
    bands = image.split() if mode in ("L", "RGB") else image.convert("RGB").split()
    joined = "LA" if len(bands) == 1 else "RGBA"
    made = Image.merge(joined, (*bands, Image.fromarray(alpha)))
    if meaning == _ASSOCIATED:
        premultiplied = Image.frombytes(joined.replace("A", "a"), made.size, made.tobytes())
        made = premultiplied.convert(joined)
    return made


def _to_8_bits(samples: Pixels, ramp: Pixels, levels: int) -> Pixels:
    return ((ramp * 255 + levels // 2) // levels).astype(np.uint8)[samples]


def _lab(colors: Pixels, kind: Kind, signed: bool) -> Pixels:
    """Return L*a*b* as Pillow takes it: 8 bits, a* and b* signed."""
    shift = kind.bits - 8
    bytes_ = (colors.astype(np.int32) >> shift & 255).astype(np.uint8)
    if not signed:
        bytes_[..., 1:] ^= 128
    return bytes_
