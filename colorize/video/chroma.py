"""Between the network's RGB and the planes of luma and chroma in which films are coded."""

import cv2
import numpy as np

from colorize.color import Plane, gamut_scale, green_offset
from colorize.video.probing import Film


def grey_image(luma: Plane, film: Film, bits: int = 8) -> Plane:
    """Return the grey image of 8 or 16 bits, from black at 0 to white at the top, that coded luma stands for."""
    steps, top = np.arange(1 << film.bits, dtype=np.float32), (1 << bits) - 1
    low, high = (0, steps[-1]) if film.full_range else (16 << (film.bits - 8), 235 << (film.bits - 8))
    grey = np.clip((steps - low) * (top / (high - low)), 0, top).round().astype(np.uint8 if bits == 8 else np.uint16)
    return np.asarray(cv2.LUT(luma, grey)) if film.bits == 8 else np.take(grey, luma)


def chroma_of(rgb: Plane, weights: tuple[float, float]) -> Plane:
    """Return Cb and Cr of RGB (3, h, w), by weights of red and blue (H.273): (h, w, 2) float32 in about [-0.5, 0.5]."""
    red, green, blue = rgb
    kr, kb = weights
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    return np.stack(((blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)), axis=-1).astype(np.float32)


def offsets_of(chroma: Plane, weights: tuple[float, float]) -> tuple[Plane, Plane, Plane]:
    """Return by how much red, green and blue differ from the luma, given Cb and Cr, ``(h, w, 2)``."""
    blue, red = (2 - 2 * weights[1]) * chroma[..., 0], (2 - 2 * weights[0]) * chroma[..., 1]
    return red, green_offset(red, blue, weights), blue


def resized(chroma: Plane, shape: tuple[int, ...]) -> Plane:
    """Resize chroma ``(h, w, 2)``: bicubic where it grows, the mean of areas where it shrinks."""
    if chroma.shape[:2] == shape[:2]:
        return chroma
    shrinks = chroma.shape[0] > shape[0] or chroma.shape[1] > shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(chroma, (shape[1], shape[0]), interpolation=kind))


def _moved(plane: Plane, columns: int) -> Plane:
    """Move a plane right by half a pixel of `columns` of luma: samples at half width then lie as MPEG has them."""
    share = 0.5 * plane.shape[1] / columns
    kernel = np.array([[share, 1 - share, 0]], np.float32)
    return np.asarray(cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def coded_planes(film: Film, luma: Plane, chroma: Plane, pixel_format: str) -> list[Plane]:
    """Return a frame's planes: its luma as it came, (H, W), and chroma that exists at that luma.

    As for photos (:func:`colorize.color.merge_luma`), where a colour does not exist, saturation gives way. That is
    decided at the chroma's own resolution. `chroma` is ``(h, w, 2)`` float32, Cb and Cr, of any size; `pixel_format`
    FFmpeg's name of a planar format: yuv420p or yuv444p, or with 10 bits.
    """
    bits = 10 if pixel_format.endswith("10le") else 8
    coded = luma
    if film.bits > bits:
        coded = np.minimum((luma.astype(np.uint16) + 2) >> 2, 255).astype(np.uint8)
    height, width = luma.shape
    half = pixel_format.startswith("yuv420")
    shape = ((height + 1) // 2, (width + 1) // 2) if half else (height, width)
    grey = cv2.resize(luma, (shape[1], shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32)
    if half:
        grey, chroma = _moved(grey, width), _moved(chroma, width)
    low, high = (0, 255) if film.full_range else (16, 235)
    grey = np.clip((grey / (1 << (film.bits - 8)) - low) / (high - low), 0, 1)
    chroma = resized(chroma, shape)
    scale = gamut_scale(grey, offsets_of(chroma, film.weights), 1.0)
    span, middle, top = (255 if film.full_range else 224) << (bits - 8), 128 << (bits - 8), (1 << bits) - 1
    kind = np.uint8 if bits == 8 else np.uint16
    planes = [np.clip(np.rint(plane * scale * span + middle), 0, top).astype(kind) for plane in cv2.split(chroma)]
    return [coded, *planes]
