"""The gamut's rule on planes, as `colorize.color.merge_luma` is on RGB images: luma stays, saturation gives way."""

from typing import Any

import numpy as np

Plane = np.ndarray[Any, Any]

REC_601 = (0.299, 0.114)
"""Weights of red and blue in luma (ITU-R BT.601), which Pillow's L and JPEG's Y have."""


def green_offset(red: Plane, blue: Plane, weights: tuple[float, float] = REC_601) -> Plane:
    """Return the green of chroma that is given as the offsets of red and blue from their luma."""
    kr, kb = weights
    return red * (-kr / (1 - kr - kb)) - blue * (kb / (1 - kr - kb))


def gamut_scale(luma: Plane, offsets: tuple[Plane, Plane, Plane], full: float) -> Plane:
    """Return the share of chroma that fits, 0 to 1, (h, w) float32, of `offsets` of RGB from `luma`, 0 to `full`."""
    red, green, blue = offsets
    above = np.maximum(np.maximum(np.maximum(red, green), blue), 1e-6)
    below = np.maximum(-np.minimum(np.minimum(red, green), blue), 1e-6)
    return np.minimum(np.minimum((full - luma) / above, luma / below), 1)
