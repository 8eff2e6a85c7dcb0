"""TIFFs of every kind: what Pillow reads right goes to Pillow, the rest to tifffile, and some is refused by its name.

Pillow takes much for granted (how many bits are used, which directory is the photo, what a fourth channel is), so that
the file's own description of its pixels (TIFF 6.0; Adobe's PageMaker and Photoshop notes; DNG 1.7) is read first.
"""

import logging
import math
from threading import Lock
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from colorize.color import Plane
from colorize.photos.deep import image_of, scaled
from colorize.photos.tags import ICC, Tags, read_tags
from colorize.runtime.formats import RAW

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_COLORS = {_MIN_IS_WHITE: 1, _MIN_IS_BLACK: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4, _YCBCR: 3, _CIELAB: 3, _ICCLAB: 3}
"""Samples of each colour model."""

_RAW = (32803, 34892)  # a camera's sensor, and demosaiced
_PILLOW_READS = (
    *((_MIN_IS_WHITE, bits) for bits in (1, 8)),
    *((_MIN_IS_BLACK, bits) for bits in (1, 8, 16)),
    *((model, 8) for model in (_RGB, _SEPARATED, _YCBCR, _CIELAB)),
)
"""Colour models and bits of unsigned samples, none of them extra and pixel by pixel, that Pillow reads right."""

_PILLOW_DECOMPRESSES = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
_JPEG = (6, 7)
_ASSOCIATED, _UNASSOCIATED = 1, 2
_libtiff = Lock()


class UnreadableImage(Exception):
    """A file that cannot be turned into an image. The message is a short reason, without the file's name."""


class UnreadKind(UnreadableImage):
    """A still image all the same, of a kind that is not read."""


class Kind(NamedTuple):
    """The storage of a TIFF's pixels: colour model, samples of each pixel, how deep, what the last are, and where."""

    photometric: int
    bits: int
    signed: bool
    samples: int
    extra: list[int]
    planar: bool
    compression: int


def open_tiff(file: IO[bytes], max_pixels: int) -> Image.Image:
    """Open the photo of a TIFF: the first image that is no thumbnail and no mask.

    Its `info` has "tags", "pages", how many photos the file holds, "unused", how many channels are not part of it, and
    "samples", if colours are of more than 8 bits. Raises UnreadKind where nothing reads such pixels, or there are more
    than `max_pixels`.
    """
    found = list(read_tags(cast("BinaryIO", file)))
    if any(Base.DNGVersion in tags.main or tags.number(Base.PhotometricInterpretation, -1) in _RAW for tags in found):
        raise UnreadKind(RAW)
    photos = [tags for tags in found if Base.ImageWidth in tags.main and not _is_reduced(tags)] or found
    if not photos:
        raise UnreadKind("a TIFF without any photo")
    tags = photos[0]
    width, height = tags.number(Base.ImageWidth, 0), tags.number(Base.ImageLength, 0)
    if not 0 < width * height <= max_pixels:
        raise UnreadKind(f"more than {max_pixels // 1_000_000} million pixels" if width * height else "no pixels")
    kind = _kind(tags)
    pillow_reads = (kind.photometric, kind.bits) in _PILLOW_READS and kind.compression in _PILLOW_DECOMPRESSES
    file.seek(0)
    pillow_reads &= file.read(4) != b"MM\0+"  # BigTIFF, of which Pillow has only the little-endian
    if pillow_reads and not (kind.signed or kind.extra or kind.planar or tags.is_below):
        image = _open_with_pillow(file, [other for other in found if not other.is_below].index(tags), kind)
    else:
        image = _decoded(_read_pixels(file, tags.offset, kind, (height, width)), kind, tags)
        image.format = "TIFF"
        image.getexif()[Base.Orientation] = tags.number(Base.Orientation, 1)
        if ICC in tags.main:
            image.info["icc_profile"] = tags.main[ICC].data
    unused = len([sample for sample in kind.extra if sample not in (_ASSOCIATED, _UNASSOCIATED)])
    image.info |= {"tags": tags, "pages": len(photos), "unused": unused}
    return image


def _is_reduced(tags: Tags) -> bool:
    is_mask = tags.number(Base.PhotometricInterpretation, 1) == 4
    return is_mask or bool(tags.number(Base.NewSubfileType, 0) & 5) or tags.number(Base.SubfileType, 1) == 2


def _kind(tags: Tags) -> Kind:
    photometric, samples = tags.number(Base.PhotometricInterpretation, -1), tags.number(Base.SamplesPerPixel, 1)
    compression = tags.number(Base.Compression, 1)
    depths, formats = set(tags.numbers(Base.BitsPerSample, [1])), set(tags.numbers(Base.SampleFormat, [1]))
    bits, number_format = max(depths), max(formats)
    if photometric not in _COLORS or not _COLORS[photometric] <= samples <= 16:
        raise UnreadKind(f"a TIFF of {samples} channels of an unknown kind (photometric interpretation {photometric})")
    if len(depths) > 1 or len(formats) > 1:
        raise UnreadKind("a TIFF whose channels differ in depth")
    if number_format not in (1, 2, 4):
        raise UnreadKind("floating-point pixels, whose range is not known")
    if bits > 32 or (bits > 16 and photometric != _MIN_IS_BLACK):
        raise UnreadKind(f"{bits}-bit pixels, whose range is not known")
    if photometric == _SEPARATED and tags.number(Base.InkSet, 1) != 1:
        raise UnreadKind("a TIFF of other inks than cyan, magenta, yellow and black")
    extra = (tags.numbers(Base.ExtraSamples, []) + [0] * samples)[: samples - _COLORS[photometric]]
    planar = samples > 1 and tags.number(Base.PlanarConfiguration, 1) == 2
    return Kind(photometric, bits, number_format == 2, samples, extra, planar, compression)


def _open_with_pillow(file: IO[bytes], index: int, kind: Kind) -> Image.Image:
    file.seek(0)
    with _libtiff:
        # Pillow's own decoder takes subsampled chroma for full, and before Pillow 13 full chroma for a file that is cut
        # off; libtiff, which it has for compressed files, does neither.
        TiffImagePlugin.READ_LIBTIFF = kind.photometric == _YCBCR
        try:
            image = Image.open(file, formats=["TIFF"])
            if index:
                image.seek(index)
        finally:
            TiffImagePlugin.READ_LIBTIFF = False
    return image


def _read_pixels(file: IO[bytes], offset: int, kind: Kind, size: tuple[int, int]) -> Plane:
    import tifffile  # takes a quarter of a second, and few photos need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    file.seek(0)
    with tifffile.TiffFile(file) as tif:
        tif.filehandle.seek(offset)
        page = tifffile.TiffPage(tif, index=0)
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        # What is not there tifffile would give as black.
        missing = any(not size or at + size > tif.filehandle.size for at, size in parts)
        if missing or len(parts) < math.prod(page.chunked):
            raise UnreadableImage("image file is truncated")
        pixels = page.asarray()
    if kind.planar:
        return np.moveaxis(pixels.reshape(kind.samples, *size), 0, -1)
    return pixels.reshape(*size, kind.samples)


def _decoded(pixels: Plane, kind: Kind, tags: Tags) -> Image.Image:
    photometric, bits, count, size = kind.photometric, kind.bits, _COLORS[kind.photometric], pixels.shape[1::-1]
    if bits > 16:
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnreadKind(f"{bits}-bit pixels, whose range is not known")
        pixels, bits = pixels.astype(np.uint16), 16
    elif kind.signed and photometric not in (_CIELAB, _ICCLAB):
        pixels = pixels.astype(np.int32) + (1 << (bits - 1))
    colors, levels, full = pixels[..., :count], (1 << bits) - 1, 255
    opacities = [place for place, meaning in enumerate(kind.extra) if meaning in (_ASSOCIATED, _UNASSOCIATED)]
    ramp = np.arange(levels + 1)
    black_to_white = ramp[::-1] if photometric == _MIN_IS_WHITE else ramp
    if photometric == _PALETTE:
        table = np.array(tags.numbers(Base.ColorMap, [])).reshape(3, levels + 1).T
        # Some writers give 8 bits where 16 are meant; libtiff looks at the values, too.
        mode, colors = "RGB", (table >> 8 if table.max() > 255 else table).astype(np.uint8)[colors[..., 0]]
    elif photometric in (_CIELAB, _ICCLAB):  # Pillow takes a* and b* as signed bytes
        mode, colors = "LAB", (colors.astype(np.int32) >> (bits - 8) & 255).astype(np.uint8)
        colors[..., 1:] ^= 128 if photometric == _ICCLAB else 0
    else:
        full = 65535 if bits > 8 and photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB) else 255
        mode, colors = {1: "L", 3: "RGB", 4: "CMYK"}[count], scaled(colors, black_to_white, full)
        if photometric == _YCBCR and kind.compression not in _JPEG:  # of which tifffile makes RGB
            mode = "YCbCr"
    if mode not in ("L", "RGB"):
        image = Image.frombytes(mode, size, np.ascontiguousarray(colors).tobytes())
        if not opacities:
            return image
        colors = np.asarray(image.convert("RGB"))
    if opacities:
        alpha = scaled(pixels[..., count + opacities[0]], ramp, full)[..., None]
        if kind.extra[opacities[0]] == _ASSOCIATED:
            colors = np.minimum(colors * np.uint32(full) // np.maximum(alpha, 1), full)
        colors = np.dstack([colors, alpha]).astype(alpha.dtype)
    return image_of(colors)
