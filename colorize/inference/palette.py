"""Palettes: the colours that a network holds likely at a point."""

import torch
from torch import Tensor

from colorize.color import grey_to_lightness, lab_to_rgb, merge_luma, rgb_to_lab
from colorize.networks.heads import BinsHead, Prediction

ALIKE = 15.0
"""Standard deviation of chroma, in units of Lab, within which colours are taken for one."""


def palette(
    head: object, made: Prediction, grey: Tensor, column: int, row: int, count: int
) -> list[tuple[int, int, int]]:
    """Return up to `count` colours at a pixel of `grey`, `(1, H, W)` in [0, 1], of which a network made `made`.

    The network's own is the first. Each next one is the mean of what is likely around the likeliest chroma, without
    what earlier ones stand for. They are sRGB, 0 to 255, with the pixel's luma.
    """
    luma = grey[:, row, column].view(1, 1, 1)
    ab = rgb_to_lab(made.rgb[0, :, row, column].float().cpu().view(3, 1, 1))[1:].view(1, 2)
    if made.logits is not None and isinstance(head, BinsHead):
        height, width = made.logits.shape[2:]
        logits = made.logits[0, :, row * height // grey.shape[1], column * width // grey.shape[2]]
        left, centres = torch.softmax(logits.float().cpu(), dim=0), head.centres.cpu()
        while len(ab) < count:
            left = left * (1 - likeness(centres, ab[-1:], ALIKE)[:, 0])
            around = likeness(centres, centres, ALIKE) * left
            best = around[around.sum(dim=1).argmax()]
            ab = torch.cat([ab, best @ centres[None] / best.sum()])
    lab = torch.cat([grey_to_lightness(luma).expand(1, len(ab), 1), ab.T[:, :, None]])
    found = merge_luma(lab_to_rgb(lab), luma)[..., 0].T.mul(255).round().int().tolist()
    return [(red, green, blue) for red, green, blue in found[:count]]


def likeness(one: Tensor, other: Tensor, deviation: float) -> Tensor:
    """Compare points of Lab or of its a*b*, `(m, 3)` and `(n, 3)`: `(m, n)`, 1 for the same."""
    return (torch.cdist(one, other).square() / (-2 * deviation**2)).exp()
