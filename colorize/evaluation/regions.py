"""Colours of the regions of scenes: the sea as sea, or taken for grass."""

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from colorize.color import rgb_to_lab
from colorize.data.scene_painting import HUE_CLASSES, MIN_CHROMA, REGIONS

COUNTED = {name: hues for name, hues in HUE_CLASSES.items() if hues is not None}  # with hues to get right, in °
OTHER, COLOURLESS = "other", "colourless"
TAKEN_FOR = (*COUNTED, OTHER, COLOURLESS)  # what a pixel can be taken for: a region, another hue, or nothing with a hue


def taken_for(prediction: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Count the pixels of each region by what they are coloured as, in a confusion table for each image.

    ``(B, 3, H, W)`` RGB in [0, 1] and regions ``(B, H, W)``, indices into ``REGIONS``, give int64 ``(B, COUNTED,
    TAKEN_FOR)``. A pixel counts where its eight neighbours are of the same region (edges are mixed with the neighbour's
    colour), the region has a hue to get right, and the truth shows one there (CIELAB chroma of at least ``MIN_CHROMA``;
    black hair does not). It is taken for ``COLOURLESS`` where the prediction's chroma is under ``MIN_CHROMA``; for its
    own region where the prediction's hue is in that region's range; else for the region whose range holds the hue, the
    one with the nearest middle where several do; else for ``OTHER``.
    """
    number = torch.tensor([list(COUNTED).index(n) if n in COUNTED else -1 for n in REGIONS], device=regions.device)
    _, true_chroma = _hue_and_chroma(truth)
    region = number[regions.long()]
    ids = regions.float()  # in the interior, the highest and the lowest neighbour are one
    interior = max_pool2d(ids, 3, stride=1, padding=1) == -max_pool2d(-ids, 3, stride=1, padding=1)
    counts = interior & (region >= 0) & (true_chroma >= MIN_CHROMA)
    own = region[counts]
    hue, chroma = (plane[counts] for plane in _hue_and_chroma(prediction))

    low, high = torch.tensor(list(COUNTED.values()), device=hue.device).unbind(dim=1)
    holds = (hue[:, None] - low) % 360 <= high - low
    away = ((hue[:, None] - (low + high) / 2 + 180) % 360 - 180).abs()
    nearest = torch.where(holds, away, torch.inf).argmin(dim=1)
    taken = torch.where(holds.any(dim=1), nearest, TAKEN_FOR.index(OTHER))
    taken = torch.where(holds.gather(1, own[:, None])[:, 0], own, taken)
    taken = torch.where(chroma >= MIN_CHROMA, taken, TAKEN_FOR.index(COLOURLESS))

    shape, image = (len(truth), len(COUNTED), len(TAKEN_FOR)), counts.nonzero()[:, 0]
    cells = torch.bincount((image * shape[1] + own) * shape[2] + taken, minlength=math.prod(shape))
    return cells.view(shape)


def accuracies(table: Tensor) -> dict[str, float]:
    """Return how much of each region that occurs in a table of `taken_for` has the right hue.

    By region the share of its pixels that are right; `mean` of these; `colourless`, of all pixels.
    """
    shares = table / table.sum(dim=1, keepdim=True).clamp_min(1)
    found = {name: float(shares[row, row]) for row, name in enumerate(COUNTED) if table[row].any()}
    if not found:
        return {}
    found["mean"] = sum(found.values()) / len(found)
    found["colourless"] = float(table[:, TAKEN_FOR.index(COLOURLESS)].sum() / table.sum())
    return found


def _hue_and_chroma(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """CIELAB hue in degrees and chroma, each ``(B, H, W)``."""
    _, a, b = rgb_to_lab(rgb).unbind(dim=-3)
    return torch.rad2deg(torch.atan2(b, a)), torch.hypot(a, b)
