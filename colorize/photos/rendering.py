"""Merging: the network's chroma onto the photo's own luma."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
from PIL import Image

from colorize.color import WEIGHTS_601, Plane, gamut_scale, green_offset
from colorize.photos.profiles import converted, is_srgb
from colorize.photos.reading import Photo
from colorize.photos.results import BandedImage

_BAND_PIXELS = 1 << 17  # merged at a time: small enough for the processor's caches, and the same memory for any photo

_KR, _KB = WEIGHTS_601
_KG = 1 - _KR - _KB


def coloured(photo: Photo, rgb: Plane | None) -> BandedImage:
    """Return the photo in the network's colours and its own colour space, computed as it is used.

    `rgb` is what the network made of it, (3, h, w) float32, None for the colours that the photo has; size, luma and
    opacity are the photo's. The image is of 16 bits a channel where the photo has 16, of 8 otherwise; of four channels
    where it has opacity.
    """
    if rgb is None:
        assert photo.own is not None
        return BandedImage.of(photo.own)
    stored, alpha = photo.stored, photo.alpha
    deep, plain = photo.luma.dtype != np.uint8, photo.metadata.icc is None or is_srgb(photo.metadata.icc)

    def bands() -> Iterator[Plane]:
        top = 0
        for band in merged_bands(photo.luma if stored is None else stored.decoded(), rgb):
            if not plain and photo.metadata.icc is not None:
                band = cast("Plane", converted(band, None, photo.metadata.icc))
            if alpha is not None:
                opacity = alpha[top : top + len(band), :, None].astype(band.dtype)
                band = np.concatenate([band, opacity * 257 if deep else opacity], axis=2)
            yield band
            top += len(band)

    image = BandedImage(*photo.size, 3 if alpha is None else 4, 16 if deep else 8, bands)
    if deep or alpha is not None or not plain:
        return image
    return replace(image, luma=stored or photo.luma, chroma=partial(chroma_planes, photo.luma, photo.size, rgb))


def chroma_planes(luma: Plane, size: tuple[int, int], rgb: Plane, halved: bool) -> tuple[Plane, Plane]:
    """Return the chroma of a photo as JPEG keeps it: JFIF's Cb and Cr, (h, w) uint8.

    Arguments are as of :func:`merged_bands`; the photo has `size` (width, height), `luma` is uint8, of that size or a
    smaller copy. The planes have the photo's size, or half of it, rounded up (`halved`); where a colour does not exist
    is decided at that resolution, as of films.
    """
    width, height = (-(-side // 2) for side in size) if halved else size
    grey = Image.fromarray(luma)
    if halved and grey.size == size:
        grey = grey.reduce(2)
    elif grey.size != (width, height):
        grey = grey.resize((width, height), Image.Resampling.BICUBIC)
    shown, chroma = np.asarray(grey), np.empty((2, height, width), np.uint8)
    for rows, red, blue in _offset_bands(rgb, (width, height), 255):
        share = gamut_scale(shown[rows].astype(np.float32), (red, green_offset(red, blue), blue), 255)
        for plane, offset, reach in zip(chroma, (blue, red), (2 - 2 * _KB, 2 - 2 * _KR), strict=True):
            plane[rows] = offset * share / reach + 128.5
    return chroma[0], chroma[1]


def merged_bands(luma: Plane, rgb: Plane) -> Iterator[Plane]:
    """Yield the photo in colour, band by band: the luma of `luma`, the chroma of `rgb`.

    `luma` is (H, W), uint8 or uint16, Rec. 601 of the sRGB-encoded photo; `rgb` (3, h, w) float32, nominally in [0, 1],
    its own luma ignored. Bands are (rows, W, 3) of luma's type, from top to bottom.

    The network's chroma is brought to the photo's size by bicubic interpolation (antialiased where it is larger). Where
    a colour does not exist at its luma, saturation gives way, not luma or hue. Red and blue are rounded first, and
    green is what then makes up the luma: of the values as they are written it is off by less than 0.3, and so exact
    when it is rounded. What is computed at a time does not grow with the photo.
    """
    full = int(np.iinfo(luma.dtype).max)
    for rows, red, blue in _offset_bands(rgb, (luma.shape[1], luma.shape[0]), full):
        grey = luma[rows].astype(np.float32)
        green = green_offset(red, blue)
        if any(sums.min() < 0 or sums.max() > full for sums in (grey + offset for offset in (red, green, blue))):
            share = gamut_scale(grey, (red, green, blue), full)
            red *= share
            blue *= share
        band = np.empty((*grey.shape, 3), luma.dtype)
        red += grey
        blue += grey
        band[..., 0], band[..., 2] = np.rint(red, out=red), np.rint(blue, out=blue)
        grey -= red * _KR
        grey -= blue * _KB
        grey /= _KG
        band[..., 1] = np.rint(grey, out=grey).clip(0, full, out=grey)
        yield band


def _offset_bands(rgb: Plane, size: tuple[int, int], full: int) -> Iterator[tuple[slice, Plane, Plane]]:
    """Yield the rows of a band, and the offsets of the network's red and blue from its luma there, (rows, W) float32.

    `size` is the width and height that `rgb` is brought to, `full` the value of white.
    """
    (width, height), source_height = size, rgb.shape[-2]
    grey = _KR * rgb[0] + _KG * rgb[1] + _KB * rgb[2]
    bicubic = Image.Resampling.BICUBIC
    red, blue = (
        np.asarray(Image.fromarray((rgb[channel] - grey) * full).resize((width, source_height), bicubic))
        for channel in (0, 2)
    )
    count, scale = max(1, _BAND_PIXELS // width), source_height / height
    reach = math.ceil(2 * max(scale, 1)) + 1  # rows that the filter looks at on either side
    for top in range(0, height, count):
        bottom = min(top + count, height)
        first, last = max(0, math.floor(top * scale) - reach), min(source_height, math.ceil(bottom * scale) + reach)
        # What Pillow makes of single rows is each one's share in the rows of the band: a product of matrices takes a
        # fifth of the time that Pillow's own pass takes.
        single = Image.fromarray(np.eye(source_height, last - first, -first, np.float32))
        box = (0, top * scale, last - first, min(bottom * scale, source_height))
        shares = np.asarray(single.resize((last - first, bottom - top), bicubic, box))
        yield slice(top, bottom), shares @ red[first:last], shares @ blue[first:last]
