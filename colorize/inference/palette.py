"""Palettes: the colours that a network holds likely at a point."""

import numpy as np

from colorize.color import Plane, grey_to_lightness, lab_to_rgb, merge_luma, rgb_to_lab
from colorize.inference.backends import Likely

ALIKE = 15.0  # standard deviation of chroma, in units of Lab, within which colours are taken for one


def palette(made: Likely, grey: Plane, column: int, row: int, count: int) -> list[tuple[int, int, int]]:
    """Return up to `count` colours at a pixel of `grey`, `(1, H, W)` in [0, 1], of which a network made `made`.

    The network's own is the first. Each next one is the mean of what is likely around the likeliest chroma, without
    what earlier ones stand for. They are sRGB, 0 to 255, with the pixel's luma.
    """
    luma = grey[:, row, column].reshape(1, 1, 1)
    ab = rgb_to_lab(made.rgb[:, row, column].reshape(3, 1, 1))[1:].reshape(1, 2)
    if made.logits is not None and made.centres is not None:
        height, width = made.logits.shape[1:]
        logits = made.logits[:, row * height // grey.shape[1], column * width // grey.shape[2]]
        left, centres = np.exp(logits - logits.max()), made.centres
        while len(ab) < count:
            left = left * (1 - likeness(centres, ab[-1:], ALIKE)[:, 0])
            around = likeness(centres, centres, ALIKE) * left
            best = around[around.sum(axis=1).argmax()]
            ab = np.concatenate([ab, best @ centres[None] / best.sum()])
    lightness = np.broadcast_to(grey_to_lightness(luma), (1, len(ab), 1))
    lab = np.concatenate([lightness, ab.T[:, :, None]]).astype(np.float32)
    found = np.rint(255 * merge_luma(lab_to_rgb(lab), luma)[..., 0].T).astype(int).tolist()
    return [(red, green, blue) for red, green, blue in found[:count]]


def likeness(one: Plane, other: Plane, deviation: float) -> Plane:
    """Compare points of Lab or of its a*b*, `(m, 3)` and `(n, 3)`: `(m, n)`, 1 for the same."""
    distance = np.square(one[:, None] - other[None]).sum(axis=-1)
    return np.asarray(np.exp(distance / (-2 * deviation**2)))
