"""Merging: the network's chroma onto the photo's own luma."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from colorize.color import merge_luma, rgb_to_grey
from colorize.photos.profiles import from_srgb, is_srgb
from colorize.photos.reading import Photo
from colorize.photos.results import BandedImage
from colorize.photos.strip_files import Band

_BAND_PIXELS = 1 << 18
"""Merged at a time: small enough for the processor's caches, and the same memory for any photo."""


def coloured(photo: Photo, rgb: Tensor) -> BandedImage:
    """Return the photo in the network's colours and its own colour space, computed as it is used.

    `rgb` is what the network made of it, (3, h, w) float32 on the CPU; size, luma and opacity are the photo's. The
    image is of 16 bits a channel where the photo has 16, of 8 otherwise; of four channels where it has opacity.
    """
    deep, icc = photo.luma.dtype != np.uint8, photo.metadata.icc

    def bands() -> Iterator[Band]:
        top = 0
        for band in merged_bands(photo.luma, rgb):
            if icc is not None and not is_srgb(icc):
                band = from_srgb(band, icc)
            if photo.alpha is not None:
                alpha = photo.alpha[top : top + len(band), :, None].astype(band.dtype)
                band = np.concatenate([band, alpha * 257 if deep else alpha], axis=2)
            yield band
            top += len(band)

    if deep or photo.alpha is not None or not is_srgb(icc):
        return BandedImage(*photo.size, channels=3 if photo.alpha is None else 4, bits=16 if deep else 8, bands=bands)
    return BandedImage(*photo.size, channels=3, bits=8, bands=bands, ycc=lambda: merged_ycc(photo.luma, rgb))


def merged_ycc(luma: np.ndarray[Any, Any], rgb: Tensor) -> Image.Image:
    """Return the photo in colour as JPEG keeps it (JFIF's YCbCr): its own luma, and chroma for each 2 x 2 pixels.

    Arguments are as of :func:`merged_bands`, luma uint8 only; where a colour does not exist is decided at the chroma's
    resolution, as of films.
    """
    height, width = luma.shape
    red, _, blue = (rgb - rgb_to_grey(rgb)).numpy()
    planes = [Image.fromarray(plane * 255) for plane in (blue / 1.772, red / 1.402)]  # Cb and Cr
    size = (-(-width // 2), -(-height // 2))
    grey, chroma = np.asarray(Image.fromarray(luma).reduce(2)), np.empty((2, size[1], size[0]), np.uint8)
    rows, scale = max(1, _BAND_PIXELS // size[0]), rgb.shape[-2] / size[1]
    for top in range(0, size[1], rows):
        bottom = min(top + rows, size[1])
        box = (0, top * scale, rgb.shape[-1], min(bottom * scale, rgb.shape[-2]))
        cb, cr = (np.asarray(p.resize((size[0], bottom - top), Image.Resampling.BICUBIC, box)) for p in planes)
        offsets, room = (1.402 * cr, 1.772 * cb, -0.344136 * cb - 0.714136 * cr), grey[top:bottom].astype(np.float32)
        above = np.maximum(np.maximum(np.maximum(*offsets[:2]), offsets[2]), 1e-6)
        below = np.maximum(-np.minimum(np.minimum(*offsets[:2]), offsets[2]), 1e-6)
        scales = np.minimum(np.minimum((255 - room) / above, room / below), 1)
        for plane, of in zip(chroma, (cb, cr), strict=True):
            plane[top:bottom] = of * scales + 128.5
    doubled = [
        Image.fromarray(plane).resize((2 * size[0], 2 * size[1]), Image.Resampling.NEAREST).crop((0, 0, width, height))
        for plane in chroma
    ]
    return Image.merge("YCbCr", [Image.fromarray(luma), *doubled])


def merged_bands(luma: np.ndarray[Any, Any], rgb: Tensor) -> Iterator[Band]:
    """Yield the photo in colour, band by band: the luma of `luma`, the chroma of `rgb`.

    `luma` is (H, W), uint8 or uint16, Rec. 601 of the sRGB-encoded photo; `rgb` (3, h, w) float32 on the CPU, nominally
    in [0, 1], its own luma ignored. Bands are (rows, W, 3) of luma's type, from top to bottom.

    The network's RGB is brought to the photo's size by bicubic interpolation (antialiased where it is larger) and
    merged by :func:`colorize.color.merge_luma`: where a colour does not exist at that luma, saturation gives way, not
    luma or hue. What is computed at a time does not grow with the photo.
    """
    height, width = luma.shape
    full = np.iinfo(luma.dtype).max
    planes = [Image.fromarray(plane) for plane in rgb.numpy()]
    rows = max(1, _BAND_PIXELS // width)
    scale = rgb.shape[-2] / height
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        # Pillow looks beyond the box where its filter reaches beyond it, so that bands fit together without seams.
        box = (0, top * scale, rgb.shape[-1], min(bottom * scale, rgb.shape[-2]))
        size = (width, bottom - top)
        band = np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC, box)) for plane in planes])
        grey = torch.from_numpy(luma[top:bottom].astype(np.float32) / full)[None]
        merged = merge_luma(torch.from_numpy(band), grey).mul_(full).round_()
        yield merged.permute(1, 2, 0).numpy().astype(luma.dtype, order="C")
