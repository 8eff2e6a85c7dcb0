"""ICC profiles: photos of any colour space as sRGB, which is what a network is shown, and back into their own space."""

from functools import lru_cache
from typing import Any, cast

import numpy as np
from PIL import Image

from colorize.color import Plane

_SAME_LEVELS = 2
"""A profile that moves no colour by more 8-bit levels is sRGB: so far apart are the sRGB profiles of vendors."""


def color_model(icc: bytes | None) -> str:
    """Return the colour model of a profile (ICC.1, 7.2.6): "RGB", "GRAY", "CMYK"…; "" where these bytes are none."""
    return icc[16:20].decode("latin-1").strip() if icc is not None and icc[36:40] == b"acsp" else ""


@lru_cache(32)
def is_srgb(icc: bytes | None) -> bool:
    """Return whether RGB values mean the same with a profile and without; so they do where it is broken, or not RGB."""
    if color_model(icc) != "RGB":
        return True
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    shown = converted(colors, icc, None)
    return shown is None or int(np.abs(shown.astype(int) - colors).max()) <= _SAME_LEVELS


def seen(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return an L or RGB image as sRGB if its profile is another, as RGB then; else as it is."""
    if icc is None or (color_model(icc) == "RGB" and is_srgb(icc)):
        return image
    pixels = np.asarray(image.convert("RGB") if color_model(icc) == "RGB" else image)
    made = seen_pixels(pixels, icc)
    return image if made is pixels else Image.fromarray(made)


def seen_pixels(pixels: Plane, icc: bytes | None) -> Plane:
    """Return (H, W) grey or (H, W, 3 or 4) RGB or CMYK pixels as sRGB if their profile is another; else as they are.

    So they are with a broken profile, and with one that is of another model, which says nothing of them.
    """
    channels = {"GRAY": 1, "RGB": 3, "CMYK": 4}.get(color_model(icc))
    if channels != (1 if pixels.ndim == 2 else pixels.shape[2]) or (channels == 3 and is_srgb(icc)):
        return pixels
    made = converted(pixels, icc, None)
    return pixels if made is None else made


def seen_grey(luma: Plane, icc: bytes) -> Plane:
    """Return the grey values that sRGB has for what a grey or RGB profile means by `luma`, (H, W)."""
    ramp = np.arange(np.iinfo(luma.dtype).max + 1, dtype=luma.dtype)[None]
    shown = seen_pixels(ramp if color_model(icc) == "GRAY" else np.stack([ramp] * 3, axis=-1), icc)
    return (shown if shown.ndim == 2 else shown[..., 1])[0][luma]


def converted(pixels: Plane, source: bytes | None, target: bytes | None) -> Plane | None:
    """Return pixels of one profile as another has them (None: sRGB), or None where the profiles are broken."""
    import imagecodecs  # takes a fifth of a second, and few photos need it

    model, srgb = color_model(source).lower() or "rgb", imagecodecs.cms_profile("srgb")
    options: dict[str, Any] = {"colorspace": model, "outcolorspace": "rgb"}
    options["intent"] = 0 if model == "cmyk" else 1  # perceptual, relative colorimetric
    if pixels.dtype == np.uint16:  # lcms would interpolate in a table of 33 steps a channel, 20 levels of 8 bits off
        options["flags"] = 0x0100  # cmsFLAGS_NOOPTIMIZE
    try:
        made = imagecodecs.cms_transform(np.ascontiguousarray(pixels), source or srgb, target or srgb, **options)
        return cast("Plane", made)
    except (imagecodecs.CmsError, ValueError):
        return None
