"""Photos of more than 8 bits a channel: their samples in full, which Pillow has of grey ones alone.

Samples are (H, W, 1 to 4) uint16, white 65535: grey or RGB in the photo's own colour space, then opacity, if any.
"""

from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from colorize.color import Plane
from colorize.photos import profiles

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

JPEG2000_START = b"\xff\x4f\xff\x51"  # first bytes of a JPEG 2000's codestream

_LUMA = np.array((19595, 38470, 7471), np.uint32)  # Rec. 601, as Pillow has it: of 65536
_EIGHT_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_BAND_PIXELS = 1 << 18


def image_of(samples: Plane) -> Image.Image:
    """Return samples, uint8 or uint16, as an image of 8 bits, which has those of 16 bits in its `info`."""
    pixels = eight_bits(samples)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if samples.dtype == np.uint16:
        image.info["samples"] = samples
    return image


def read_deep(path: str | Path, image: Image.Image) -> Plane | None:
    """Return the stored samples of an opened photo; None: 8 bits or other colours. Raises ValueError: unknown range."""
    bits = image.info.get("bits", 8)
    if "samples" in image.info:
        return cast("Plane", image.info["samples"])
    if bits <= 8 or image.mode in ("P", "PA", "CMYK") or image.info.get("colors", 16) not in (16, 17):
        return grey_samples(image) if image.mode in SIXTEEN_BIT_MODES else None
    import imagecodecs  # takes a fifth of a second

    content, full = Path(path).read_bytes(), (1 << bits) - 1
    if image.format == "PNG":
        samples = imagecodecs.png_decode(content)
    else:  # the codestream alone: with the boxes it would change the values by the profile
        samples = imagecodecs.jpeg2k_decode(content[content.index(JPEG2000_START) :])
    samples = scaled(samples, np.arange(full + 1), 65535)
    return samples if samples.ndim == 3 else samples[..., None]


def scaled(samples: Plane, ramp: Plane, full: int) -> Plane:
    """Return samples as values up to `full`, 255 or 65535; `ramp` says which of their levels each value is."""
    levels = len(ramp) - 1
    if levels == full and samples.dtype == np.uint16 and not ramp[0]:
        return samples
    return ((ramp * full + levels // 2) // levels).astype(np.uint8 if full == 255 else np.uint16)[samples]


def grey_samples(image: Image.Image) -> Plane:
    """Return the samples of a 16-bit grey image, with opacity where one value stands for transparency."""
    wide = np.asarray(image)
    if image.mode == "I" and (wide.min() < 0 or wide.max() > 65535):
        raise ValueError("32-bit pixels, whose range is not known")
    grey, transparent = wide.astype(np.uint16), image.info.get("transparency")
    if not isinstance(transparent, int) or not (grey == transparent).any():
        return grey[..., None]
    return np.dstack([grey, np.where(grey == transparent, 0, 65535).astype(np.uint16)])


def deep_luma(samples: Plane, icc: bytes | None) -> Plane:
    """Return Rec. 601 luma of colours as sRGB, or grey as it is, (H, W) uint16, in bounded memory."""
    if samples.shape[2] < 3:
        return samples[..., 0]
    luma, rows = np.empty(samples.shape[:2], np.uint16), max(1, _BAND_PIXELS // samples.shape[1])
    for top in range(0, len(samples), rows):
        luma[top : top + rows] = (profiles.seen_pixels(samples[top : top + rows, :, :3], icc) @ _LUMA + (1 << 15)) >> 16
    return luma


def eight_bits(samples: Plane) -> Plane:
    """Return 16-bit samples as 8-bit ones, rounded; 8-bit ones as they are."""
    return samples if samples.dtype == np.uint8 else _EIGHT_BITS[samples]
