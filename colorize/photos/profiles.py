"""ICC profiles: photos of any colour space as sRGB, which is what a network is shown, and back into their own space."""

import io
from functools import lru_cache
from typing import Any, cast

import numpy as np
from PIL import Image, ImageCms

Plane = np.ndarray[Any, Any]

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
    shown = to_srgb(Image.fromarray(colors), cast("bytes", icc))
    return shown is None or int(np.abs(np.asarray(shown).astype(int) - colors).max()) <= _SAME_LEVELS


def to_srgb(image: Image.Image, icc: bytes) -> Image.Image | None:
    """Return the colours that a profile gives an image (L, RGB or CMYK), as sRGB; None where it is broken."""
    return _converted(image, icc, None)


def from_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Return an RGB image in the colour space of an RGB profile, which :func:`to_srgb` could use."""
    return cast("Image.Image", _converted(image, None, icc))


def seen(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return an L or RGB image as sRGB if its profile is another, as RGB then; else as it is."""
    model = color_model(icc)
    if icc is None or (model == "RGB" and is_srgb(icc)) or model not in ("RGB", "GRAY"):
        return image
    if model == "GRAY":
        # The profile of a grey photo that is stored in colour says nothing of it.
        return (to_srgb(image, icc) or image) if image.mode == "L" else image
    return to_srgb(image.convert("RGB"), icc) or image


def seen_grey(luma: Plane, icc: bytes) -> Plane:
    """Return the grey values that sRGB has for what a grey or RGB profile means by `luma` (uint8 or uint16)."""
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    values = np.asarray(seen(ramp, icc).convert("L"))[0]
    if luma.dtype == np.uint8:
        return values[luma]
    steps = np.interp(np.arange(65536) / 257, np.arange(256), values) * 257
    return steps.round().astype(np.uint16)[luma]


def _converted(image: Image.Image, source: bytes | None, target: bytes | None) -> Image.Image | None:
    try:
        given, wanted = (
            ImageCms.createProfile("sRGB") if icc is None else ImageCms.ImageCmsProfile(io.BytesIO(icc))
            for icc in (source, target)
        )
        intent = ImageCms.Intent.PERCEPTUAL if image.mode == "CMYK" else ImageCms.Intent.RELATIVE_COLORIMETRIC
        made = ImageCms.profileToProfile(image, given, wanted, intent, outputMode="RGB")
        return cast("Image.Image", made)
    except (ImageCms.PyCMSError, OSError):
        return None
