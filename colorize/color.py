"""Colour spaces: pure functions on RGB, grey and Lab images, which are torch tensors or NumPy arrays alike.

RGB, ``(..., 3, H, W)``, and grey or luma (Rec. 601), ``(..., 1, H, W)``, are sRGB-encoded, in [0, 1] where nothing else
is said. Lab, ``(..., 3, H, W)``, is CIE 1976 L*a*b* under D65. Chroma of RGB is the offset from its own luma. What is
given as an array is returned as one; nothing here imports torch. The last functions are of single planes, (h, w).
"""

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Plane = np.ndarray[Any, Any]
Image = TypeVar("Image", "Tensor", Plane)

# ITU-R BT.601 luma, the weights behind Pillow's "L" and JPEG's Y.
_LUMA = (0.299, 0.587, 0.114)
WEIGHTS_601 = (_LUMA[0], _LUMA[2])  # weights of red and blue in it

# Linear sRGB to CIE XYZ, D65 (IEC 61966-2-1 primaries).
_XYZ_FROM_RGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_RGB_FROM_XYZ = tuple(tuple(row) for row in np.linalg.inv(np.array(_XYZ_FROM_RGB)).tolist())
# The white point is what the matrix gives for (1, 1, 1), so that every neutral grey has a = b = 0.
_WHITE = tuple(sum(row) for row in _XYZ_FROM_RGB)

# CIE 15: the two constants of the Lab companding, as exact fractions.
_EPSILON = 216 / 24389
_KAPPA = 24389 / 27


def rgb_to_grey(rgb: Image) -> Image:
    """Return the luma of RGB, as Pillow's ``L`` to within its rounding; values outside [0, 1] are weighted too."""
    _channels(rgb)
    red, green, blue = (rgb[..., channel : channel + 1, :, :] for channel in range(3))
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def merge_luma(rgb: Image, grey: Image) -> Image:
    """Join the luma of ``grey`` with the chroma of ``rgb``, which may lie outside [0, 1], to RGB in [0, 1].

    Where the sum is no colour, saturation gives way, as little as possible: luma and hue stay.
    """
    of, chroma = _functions(rgb), rgb - rgb_to_grey(rgb)
    room = of.where(chroma > 0, 1 - grey, grey)
    # A channel without chroma limits nothing: at worst 0 / tiny, and then the channels of both signs say 0 as well.
    share = room / abs(chroma).clip(1e-12)
    least = of.minimum(of.minimum(share[..., :1, :, :], share[..., 1:2, :, :]), share[..., 2:, :, :]).clip(0, 1)
    return (grey + least * chroma).clip(0, 1)


def scale_chroma(rgb: Image, factor: float) -> Image:
    """Multiply the chroma of RGB, which may lie outside [0, 1], by ``factor``: linear; 0 leaves grey."""
    luma = rgb_to_grey(rgb)
    return luma + factor * (rgb - luma)


def strengthen(rgb: Image, factor: float) -> Image:
    """Multiply the chroma of RGB by ``factor``; saturation gives way at the gamut's border."""
    return rgb if factor == 1 else merge_luma(scale_chroma(rgb, factor), rgb_to_grey(rgb))


def rgb_to_lab(rgb: Image) -> Image:
    """Convert RGB to Lab: L in [0, 100], a and b in about [-110, 100]; float32 (or float64), also under autocast."""
    linear = [_decode_srgb(channel) for channel in _channels(_at_least_float32(rgb))]
    x, y, z = (_weigh(row, linear) / white for row, white in zip(_XYZ_FROM_RGB, _WHITE, strict=True))
    fx, fy, fz = (_compand(value) for value in (x, y, z))
    return _functions(rgb).stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), -3)


def lab_to_rgb(lab: Image) -> Image:
    """Convert Lab to RGB, outside [0, 1] for colours that sRGB lacks; float32 (or float64), also under autocast."""
    lightness, a, b = _channels(_at_least_float32(lab))
    fy = (lightness + 16) / 116
    xyz = [white * _expand(f) for white, f in zip(_WHITE, (fy + a / 500, fy, fy - b / 200), strict=True)]
    return _functions(lab).stack([_encode_srgb(_weigh(row, xyz)) for row in _RGB_FROM_XYZ], -3)


def grey_to_lightness(grey: Image) -> Image:
    """Return Lab's L, from 0 to 100, of neutral greys: ``(..., 1, H, W)``."""
    return 116 * _compand(_decode_srgb(grey)) - 16


def ciede2000(lab1: Image, lab2: Image) -> Image:
    """Return the CIEDE2000 colour difference, ``(..., H, W)``, of each pixel of two Lab images ``(..., 3, H, W)``.

    All parametric factors are 1. Sharma, Wu & Dalal, "The CIEDE2000 color-difference formula", Color Research &
    Application 30(1), 2005; names and cases follow its equations 2-22.
    """
    of = _functions(lab1)
    lightness1, a1, b1 = _channels(lab1)
    lightness2, a2, b2 = _channels(lab2)

    # Chroma and hue, with a stretched near the neutral axis.
    mean_chroma = (of.hypot(a1, b1) + of.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * _seventh_power_share(mean_chroma)
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = of.hypot(a1, b1), of.hypot(a2, b2)
    hue1, hue2 = of.atan2(b1, a1) % (2 * math.pi), of.atan2(b2, a2) % (2 * math.pi)

    # Differences; the hue of a neutral colour is undefined and contributes none.
    neutral = chroma1 * chroma2 == 0
    gap = hue2 - hue1
    far = abs(gap) > math.pi
    turn = of.where(gap > math.pi, gap - 2 * math.pi, of.where(gap < -math.pi, gap + 2 * math.pi, gap))
    turn = of.where(neutral, 0 * turn, turn)
    delta_lightness = lightness2 - lightness1
    delta_chroma = chroma2 - chroma1
    delta_hue = 2 * of.sqrt(chroma1 * chroma2) * of.sin(turn / 2)

    # Means; the hue's is taken on the shorter arc.
    lightness, chroma, hue_sum = (lightness1 + lightness2) / 2, (chroma1 + chroma2) / 2, hue1 + hue2
    across = of.where(hue_sum < 2 * math.pi, hue_sum + 2 * math.pi, hue_sum - 2 * math.pi) / 2
    hue = of.where(neutral, hue_sum, of.where(far, across, hue_sum / 2))

    # Weights.
    tint = (
        1
        - 0.17 * of.cos(hue - math.radians(30))
        + 0.24 * of.cos(2 * hue)
        + 0.32 * of.cos(3 * hue + math.radians(6))
        - 0.20 * of.cos(4 * hue - math.radians(63))
    )
    off_middle = of.square(lightness - 50)
    weight_lightness = 1 + 0.015 * off_middle / of.sqrt(20 + off_middle)
    weight_chroma = 1 + 0.045 * chroma
    weight_hue = 1 + 0.015 * chroma * tint
    # The rotation that corrects the blues.
    angle = math.radians(60) * of.exp(-of.square((hue * (180 / math.pi) - 275) / 25))
    rotation = -2 * _seventh_power_share(chroma) * of.sin(angle)

    term_lightness = delta_lightness / weight_lightness
    term_chroma = delta_chroma / weight_chroma
    term_hue = delta_hue / weight_hue
    total = term_lightness**2 + term_chroma**2 + term_hue**2 + rotation * term_chroma * term_hue
    return of.sqrt(total.clip(0))


def green_offset(red: Plane, blue: Plane, weights: tuple[float, float] = WEIGHTS_601) -> Plane:
    """Return the green of chroma that is given as the offsets of red and blue from their luma."""
    kr, kb = weights
    return red * (-kr / (1 - kr - kb)) - blue * (kb / (1 - kr - kb))


def gamut_scale(luma: Plane, offsets: tuple[Plane, Plane, Plane], full: float) -> Plane:
    """Return the share of chroma that fits, 0 to 1, (h, w) float32, of `offsets` of RGB from `luma`, 0 to `full`."""
    red, green, blue = offsets
    above = np.maximum(np.maximum(np.maximum(red, green), blue), 1e-6)
    below = np.maximum(-np.minimum(np.minimum(red, green), blue), 1e-6)
    return np.minimum(np.minimum((full - luma) / above, luma / below), 1)


def _functions(image: Any) -> Any:
    """Return the library whose functions take such images: `numpy` or `torch`, which share these names."""
    if isinstance(image, np.ndarray):
        return np
    import torch

    return torch


def _channels(image: Image) -> tuple[Image, ...]:
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"expected (..., 3, H, W), got {tuple(image.shape)}")
    return image[..., 0, :, :], image[..., 1, :, :], image[..., 2, :, :]


def _at_least_float32(image: Image) -> Image:
    if isinstance(image, np.ndarray):
        return image if image.dtype == np.float64 else image.astype(np.float32, copy=False)
    return image if image.dtype == _functions(image).float64 else image.float()


def _weigh(row: tuple[float, ...], channels: list[Image]) -> Image:
    # A sum, not a matmul: autocast and TF32 would compute a matmul with 8 or 10 bits.
    return row[0] * channels[0] + row[1] * channels[1] + row[2] * channels[2]


def _decode_srgb(value: Image) -> Image:
    power = ((value.clip(0.04045) + 0.055) / 1.055) ** 2.4
    return _functions(value).where(value > 0.04045, power, value / 12.92)


def _encode_srgb(value: Image) -> Image:
    power = 1.055 * value.clip(0.0031308) ** (1 / 2.4) - 0.055
    return _functions(value).where(value > 0.0031308, power, value * 12.92)


def _compand(value: Image) -> Image:
    return _functions(value).where(value > _EPSILON, value.clip(_EPSILON) ** (1 / 3), (_KAPPA * value + 16) / 116)


def _expand(value: Image) -> Image:
    cube = value**3
    return _functions(value).where(cube > _EPSILON, cube, (116 * value - 16) / _KAPPA)


def _seventh_power_share(chroma: Image) -> Image:
    power = chroma**7
    return _functions(chroma).sqrt(power / (power + 25.0**7))
